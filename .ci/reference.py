"""Builds the API reference from the docstrings: python .ci/reference.py FOLDER.

A page of the public names, and one for every module below it that is no command. Annotations stand
as they are written, `Int[AnyArray, "L"]`, not as what they evaluate to. A warning is an error.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import pkgutil
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pdoc
from pdoc import doc, doc_types

import jaxdenoise
from jaxdenoise.objectives.registry import Recipe

COMMANDS = ("__main__", "cli", "commands", "bench", "launch")
"""Rooms of the command line alone."""


class Written(str):
    """Source text, which a signature shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def build(folder: Path) -> None:
    """Writes index.html, a page for each module and what the search needs."""
    os.environ["PDOC_SUBMODULES"] = "1"  # public modules, `jd.masks`, are names like the others
    doc.safe_eval_type = doc_types.safe_eval_type = as_written
    pdoc.render.configure(docformat="google", footer_text=f"jaxdenoise {jaxdenoise.__version__}")
    modules = {name: doc.Module.from_name(name) for name in module_names()}
    for module in modules.values():
        for name in getattr(module.obj, "__all__", ()):
            getattr(module.obj, name)  # pdoc sees no name that is yet to be loaded
    modules["jaxdenoise"].submodules = [m for name, m in modules.items() if name.count(".") == 1]
    for module in modules.values():
        show_recipes(module)
        show_sources(module)
        shorten(module)
    describe_variables(*modules.values())
    pages = {
        f"{name.replace('.', '/')}.html": pdoc.render.html_module(module, modules)
        for name, module in modules.items()
    }
    pages["index.html"] = pdoc.render.html_index(modules)
    pages["search.js"] = pdoc.render.search_index(modules)
    for name, content in pages.items():
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(content, "utf-8")


def module_names() -> list[str]:
    """The package and its modules, without the commands."""
    found = pkgutil.walk_packages(jaxdenoise.__path__, "jaxdenoise.")
    names = [module.name for module in found]
    return ["jaxdenoise", *(name for name in names if name.split(".")[1] not in COMMANDS)]


def as_written(annotation: Any, *_: Any) -> Any:
    """In place of pdoc's own, which evaluates annotations."""
    return Written(annotation) if isinstance(annotation, str) else annotation


def show_recipes(module: doc.Module) -> None:
    """Shows objectives as the functions that they were made of."""
    for name in module.members:
        recipe = getattr(module.obj, name, None)
        if isinstance(recipe, Recipe):
            origin = (recipe.corrupt.__module__, recipe.corrupt.__qualname__)
            module.members[name] = doc.Function(module.modulename, name, recipe, origin)


def show_sources(module: doc.Module) -> None:
    """Shows variables by what they are made of, not by what that evaluates to."""
    for node in ast.parse(inspect.getsource(module.obj)).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(name)], value=value)
                | ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value)
            ) if isinstance(module.members.get(name), doc.Variable):
                module.members[name].default_value = Written(ast.unparse(value))


def shorten(namespace: doc.Namespace) -> None:
    """Leaves out fields that their class describes, and what defaults are made of."""
    for name, member in list(namespace.members.items()):
        if isinstance(member, doc.Class):
            shorten(member)
        elif isinstance(member, doc.Function):
            signature = member.signature
            parameters = [
                p.replace(default=short(p.default)) for p in signature.parameters.values()
            ]
            member.signature = signature.replace(parameters=parameters)
        elif isinstance(namespace, doc.Class) and not member.docstring:
            del namespace.members[name]


def short(default: Any) -> Any:
    """A function by its name, a configuration by its type's."""
    if isinstance(default, types.FunctionType):
        return Written(default.__name__)
    if dataclasses.is_dataclass(default) or hasattr(default, "_fields"):
        return default if isinstance(default, type) else Written(f"{type(default).__name__}()")
    return default


def describe_variables(public: doc.Module, *others: doc.Module) -> None:
    """Shows public variables as they are shown where they are defined."""
    for name, member in public.members.items():
        if isinstance(member, doc.Variable):
            value = getattr(public.obj, name)
            [home] = [m for m in others if name in m.members and getattr(m.obj, name) is value]
            member.docstring = home.members[name].docstring
            member.default_value = home.members[name].default_value


if __name__ == "__main__":
    warnings.simplefilter("error")
    build(Path(sys.argv[1]))

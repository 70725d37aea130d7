"""The embedded corpus: docstrings of the Python standard library, numpy, scipy and jax.

About 10 MB of technical English that is on every machine which can run the project. Files are
parsed, never imported. Two machines have the same corpus if they have the same versions; the
fingerprint names them.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import itertools
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from jaxdenoise.data.pairs import Pair

PACKAGES = ("numpy", "scipy", "jax")
MIN_CHARACTERS = 100  # shorter docstrings ("Return True if …") hold little but boilerplate
WRAPPED_FROM = 50  # characters of a line that may have been ended for its width
# What is laid out on purpose: prompts, bullets, numbers, fields, headings, columns.
_LAID_OUT = re.compile(r"^\s*(>>>|\.\.\.|[-*|+=#.]|\w+ ?:( |$)|\d+\.)|[^\s.!?:]  ")
_PROMPT = re.compile(r"^\s*>>>", re.MULTILINE)
_SKIPPED = {"site-packages", "test", "tests", "idle_test"}
PAIRS_VERSION = "1"
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def fingerprint() -> dict[str, str]:
    """The versions that determine the corpus."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"corpus": "pydocs", "extraction": "2", "python": platform.python_version(), **packages}


@functools.cache
def documents() -> tuple[tuple[str, str], ...]:
    """(name, text) of every docstring and language topic, without exact repetitions.

    Kept in memory: parsing takes seconds, and a store reads its corpus three times.
    """
    named = {}
    for name, text in _all_documents():
        if len(text) >= MIN_CHARACTERS:
            named.setdefault(unwrapped(text), name)
    return tuple((name, text) for text, name in named.items())


def names() -> Iterator[tuple[str, str]]:
    """The documents, those of functions as pairs: what is said, and the function's name.

    What is said goes up to the first prompt, in whose example the name would stand. Where it stands
    before there is no pair, nor for special methods, all of which have one of few names.
    """
    for name, text in documents():
        function = name.rpartition(":")[2].rpartition(".")[2].removesuffix("()")
        said = _PROMPT.split(text)[0].strip()
        hidden = not re.search(rf"\b{re.escape(function)}\b", said)
        proper = name.endswith("()") and not function.startswith("__")
        yield name, Pair(said, function, text) if proper and hidden and said else text


def modules() -> Iterator[tuple[str, str]]:
    """The documents as pairs: the text, and package and module of which it is, as one imports it.

    Parts of the path that are private are left out, and what is deeper than two.
    """
    for name, text in documents():
        path = name.partition(":")[0].split(".")
        public = [part for part in path if not part.startswith("_")][:2]
        known = public and not name.startswith("topics:")
        yield name, Pair(text, ".".join(public), text) if known else text


def unwrapped(text: str) -> str:
    r"""Joins the lines of prose that was wrapped at a fixed width; lists, tables and prompts stay.

    Where a line ends by width alone says nothing of the text, and cannot be predicted from it.

    Example:
      >>> line = "The quick brown fox jumps over the lazy dog again and"
      >>> unwrapped(f"{line}\nagain.\n\n>>> 1 + 1\n2").splitlines()
      ['The quick brown fox jumps over the lazy dog again and again.', '', '>>> 1 + 1', '2']
    """
    lines: list[str] = []
    for _, run in itertools.groupby(text.split("\n"), key=_indentation):
        part = list(run)
        full = all(len(line) >= WRAPPED_FROM for line in part[:-1])
        if full and not any(map(_LAID_OUT.search, part)):
            part = [" ".join([part[0], *(line.strip() for line in part[1:])])]
        lines += part
    return "\n".join(lines)


def _indentation(line: str) -> int:
    """Spaces before the text; −1 for a blank line."""
    return len(line) - len(line.lstrip()) if line.strip() else -1


def _all_documents() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    yield from _docstrings(library, library)
    yield from _topics(library / "pydoc_data" / "topics.py")
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None  # they are dependencies
        root = Path(str(spec.origin)).parent
        yield from _docstrings(root, root.parent)


def _docstrings(root: Path, base: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        tree = None if _SKIPPED.intersection(parts) else _parse(path)
        if tree is not None:
            yield from _walk(tree, ".".join(parts) + ":")


def _parse(path: Path) -> ast.Module | None:
    """Parses a file; None for those that are not Python 3 on purpose (test data of parsers)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


def _walk(node: ast.Module | _Definition, name: str) -> Iterator[tuple[str, str]]:
    """Yields the docstrings of a module or definition and of those inside it, outermost first.

    The name of a function ends with ().
    """
    text = ast.get_docstring(node)
    if text:
        called = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield name.rstrip(":.") + ("()" if called else ""), text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            yield from _walk(child, f"{name}{child.name}.")


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """The language reference that `help()` shows; some distributions package it apart."""
    tree = _parse(path) if path.exists() else None
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Dict):
            for name, text in ast.literal_eval(node).items():
                yield f"topics:{name}", text.strip()
            return

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

PACKAGES = ("numpy", "scipy", "jax")
MIN_CHARACTERS = 100  # shorter docstrings ("Return True if …") hold little but boilerplate
WRAPPED_FROM = 50  # characters of a line that may have been ended for its width
# What is laid out on purpose: prompts, bullets, numbers, fields, headings, columns.
_LAID_OUT = re.compile(r"^\s*(>>>|\.\.\.|[-*|+=#.]|\w+ ?:( |$)|\d+\.)|[^\s.!?:]  ")
_SKIPPED = {"site-packages", "test", "tests", "idle_test"}
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
    """Yields the docstrings of a module or definition and of those inside it, outermost first."""
    text = ast.get_docstring(node)
    if text:
        yield name.rstrip(":."), text
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

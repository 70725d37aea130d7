"""Names for things: objectives, experiments, corpora, optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from jaxdenoise.errors import UserError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary that refuses a second owner of a name and helps with unknown ones.

    Example:
      >>> shapes = Registry[int]("shape")
      >>> shapes.add("square", 4)
      >>> shapes["squar"]
      Traceback (most recent call last):
      jaxdenoise.errors.UserError: unknown shape 'squar': did you mean 'square'? Known: square
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Registers `entry`. Defining the same thing again (a notebook cell, a reload) is fine.

        Raises:
          UserError: another module or function already has the name.
        """
        if name in self._entries and _origin(self._entries[name]) != _origin(entry):
            raise UserError(
                f"{self.kind} '{name}' is already registered by {_origin(self._entries[name])}; "
                "choose another name"
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Forgets on exit what was registered inside; for tests."""
        saved = dict(self._entries)
        try:
            yield
        finally:
            self._entries = saved


def _origin(entry: object) -> str:
    module = getattr(entry, "__module__", type(entry).__module__)
    return f"{module}.{getattr(entry, '__qualname__', repr(entry))}"

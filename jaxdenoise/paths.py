"""Addresses: local paths, and those with a scheme that fsspec knows, such as gs:// or memory://.

Both have the methods of `pathlib.Path`: what is elsewhere is an `UPath` of universal_pathlib. What
needs a file on this machine, to map it or for a library that reads no other, works on a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import platformdirs

from jaxdenoise.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

_EXTRAS = {"gs": "gcs", "gcs": "gcs"}


def as_path(address: str | Path) -> Path:
    """The path of an address.

    Args:
      address: a path of this machine, `file://…`, or another scheme of fsspec's.

    Raises:
      UserError: a scheme that is not known, or whose package is not installed.

    Example:
      >>> as_path("texts/a.txt").name, as_path("memory://texts/a.txt").name
      ('a.txt', 'a.txt')
    """
    scheme, there, rest = str(address).partition("://")
    if not there:
        return Path(address)
    if scheme in ("file", "local"):
        return Path(rest)

    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        extra = f"jaxdenoise[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else "fsspec's package for it"
        raise UserError(f"'{address}' cannot be opened ({error}); install {extra}") from error
    return cast(Path, UPath(address))


def is_local(path: Path) -> bool:
    """Whether a path of `as_path` is of this machine."""
    return isinstance(path, Path)


def elsewhere(path: Path) -> UPath:
    """A path of `as_path` that is not of this machine as what it is, with its file system."""
    return cast("UPath", path)


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Says in a line that a path elsewhere cannot be reached, whatever its file system raises."""
    try:
        yield
    except Exception as error:  # of the network, of credentials, of any library
        if is_local(path) or isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"'{path}' cannot be reached ({reason}); check the address, the network and who you "
            "are to it"
        ) from error


@contextlib.contextmanager
def sound(path: Path, way_out: str = "") -> Iterator[None]:
    """Says in a line that a file is not what it should be, while its content is taken apart.

    Args:
      path: of the file.
      way_out: what to do about it.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"'{path}' is damaged ({reason}){way_out}") from error


def version(path: Path) -> str:
    """Size and time of the last change of a file, as far as its file system knows them."""
    if is_local(path):
        stat = path.stat()
        return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"
    try:
        changed = elsewhere(path).fs.modified(elsewhere(path).path)
    except NotImplementedError:  # some file systems keep no times: the size has to do
        changed = "unknown"
    return f"{path.stat().st_size} bytes, {changed}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, so that nobody finds half of it, after a power cut too."""
    if not is_local(path):
        path.write_bytes(content)  # shows when it is complete
        return
    handle, partial = tempfile.mkstemp(prefix=partial_prefix(path), dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(partial, 0o644)  # a temporary file is closed to others; a cache is shared
    os.replace(partial, path)


def partial_prefix(path: Path) -> str:
    """How the names of files begin that a kill inside of `write_whole` leaves."""
    return f".{path.name}-"


def local_cache() -> Path:
    """This machine's cache: $JAXDENOISE_CACHE where that is local, or the user's."""
    named = os.environ.get("JAXDENOISE_CACHE", "")
    local = named and is_local(as_path(named))
    return as_path(named) if local else platformdirs.user_cache_path("jaxdenoise")


def local_copy(path: Path, of: str = "") -> Path:
    """The file itself, or its copy on this machine, which is made first where it lacks.

    Args:
      path: a file.
      of: what tells contents of the same address apart, such as `version`; nothing where an
        address always has the same.
    """
    if is_local(path):
        return path
    copy = _place_of_copy(path, of)
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=copy.parent)
        with os.fdopen(handle, "wb") as target, path.open("rb") as file:
            shutil.copyfileobj(file, target, 1 << 20)
        os.replace(partial, copy)
    return copy


def upload(file: Path, path: Path) -> None:
    """Copies a local file to a place elsewhere; what was the file becomes the copy of that."""
    with file.open("rb") as content, path.open("wb") as target:
        shutil.copyfileobj(content, target, 1 << 20)
    copy = _place_of_copy(path, "")
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, copy)


def _place_of_copy(path: Path, of: str) -> Path:
    folder = hashlib.sha256(f"{path.parent}|{of}".encode()).hexdigest()[:16]
    return local_cache() / "copies" / folder / path.name

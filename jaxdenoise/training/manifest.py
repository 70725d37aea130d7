"""The files of a checkpoint by size and digest: a flipped bit, a cut or a missing file is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xxhash

from jaxdenoise.errors import UserError
from jaxdenoise.training.run_directory import read_json, write_json

NAME = "manifest.json"
CHUNK = 1 << 20  # bytes read at a time


def write_manifest(folder: Path) -> None:
    """Writes down all files of a folder that is complete, with XXH3's 64 bits of each."""
    files = {
        str(path.relative_to(folder)): _description(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    write_json(folder / NAME, {"digest": "xxh3_64", "files": files})


def has_manifest(folder: Path) -> bool:
    """Whether a folder has one, as every checkpoint that is complete."""
    return (folder / NAME).is_file()


def fault(folder: Path) -> str | None:
    """What is wrong with a folder, beside its manifest; None if nothing is, or it has none."""
    if not has_manifest(folder):
        return None
    try:
        files = _files(read_json(folder / NAME))
    except (UserError, LookupError, TypeError, ValueError, AttributeError, OSError):
        return f"{NAME} cannot be read"
    for name, expected in files.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if _description(path) != expected:
                return f"{name} is not what was saved"
        except (OSError, ValueError) as error:  # a bad sector; a name that no file can have
            return f"{name!r} cannot be read ({error})"
    return None


def _files(manifest: Any) -> dict[str, Any]:
    """The files that a manifest lists, all of them inside its folder."""
    files = manifest["files"]
    for name in files.keys():  # noqa: SIM118  # whatever else has keys is no manifest
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} is not inside")
    return files


def _description(path: Path) -> dict[str, Any]:
    digest, size = xxhash.xxh3_64(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "xxh3": digest.hexdigest()}

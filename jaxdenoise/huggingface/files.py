"""Folders of transformers: config.json and tensors in safetensors files, one or several."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import sound

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
SENTENCEPIECE, TOKENIZER_CONFIG = "spiece.model", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""How large a file may be; more tensors go into the next one."""
SETTINGS = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
"""Fields of generation_config.json, and of older files' config.json, that decoding depends on."""
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "flax_model*.msgpack", "tf_model*.h5")


class Tensors:
    """The tensors of a folder, by name, each read when it is asked for.

    Args:
      folder: with model.safetensors, or with several files and their index.

    Raises:
      UserError: no weights, pickles alone, or a file that is cut or missing.
    """

    def __init__(self, folder: Path):
        self._files = contextlib.ExitStack()
        self._by_name: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                opened = safetensors.safe_open(path, framework="numpy")
                handle = self._files.enter_context(opened)
            except (safetensors.SafetensorError, OSError) as error:
                raise UserError(
                    f"'{path}' is damaged or not whole ({error}); fetch it again"
                ) from error
            self._by_name |= dict.fromkeys(handle.keys(), handle)

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def names(self) -> list[str]:
        """Of all tensors."""
        return list(self._by_name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which is not read."""
        return tuple(self._by_name[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Of one tensor: float32, bfloat16, float16, or what the file calls it."""
        kind = str(self._by_name[name].get_slice(name).get_dtype())
        return DTYPES.get(kind, kind)

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype of the file."""
        return self._by_name[name].get_tensor(name)


def read_settings(folder: Path) -> dict[str, Any]:
    """How a model starts and ends a text there: special ids of both configs, where they say any."""
    found: dict[str, Any] = {}
    for name in (CONFIG, GENERATION):
        plain = read_plain(folder / name) if (folder / name).is_file() else {}
        found |= {key: plain[key] for key in SETTINGS if plain.get(key) is not None}
    return found


def read_plain(path: Path) -> dict[str, Any]:
    """A JSON object, or a `UserError` that names the file."""
    with sound(path):
        plain = json.loads(path.read_text("utf-8"))
    require(isinstance(plain, dict), f"'{path}' is damaged: it holds no object")
    return plain


def write_plain(path: Path, plain: Mapping[str, Any]) -> None:
    """Writes JSON as transformers does."""
    path.write_text(json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def write_tensors(folder: Path, tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """Writes tensors, in as many files as they need, with an index if these are several."""
    shards: list[dict[str, np.ndarray]] = [{}]
    paths: list[Path] = []
    places: dict[str, int] = {}
    total = size = 0

    def flush() -> None:
        paths.append(folder / f"part-{len(paths)}")
        safetensors.numpy.save_file(shards[0], paths[-1], metadata={"format": "pt"})
        shards[0] = {}

    for name, value in tensors:
        if shards[0] and size + value.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shards[0][name] = value
        places[name] = len(paths)
        total, size = total + value.nbytes, size + value.nbytes
    flush()
    if len(paths) == 1:
        paths[0].rename(folder / WEIGHTS)
        return
    names = [f"model-{n + 1:05}-of-{len(paths):05}.safetensors" for n in range(len(paths))]
    for path, name in zip(paths, names, strict=True):
        path.rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[place] for name, place in places.items()},
    }
    write_plain(folder / INDEX, index)


def _weight_files(folder: Path) -> list[Path]:
    """Of both, the single file, as transformers."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        listed = read_plain(folder / INDEX).get("weight_map")
        require(isinstance(listed, dict), f"'{folder / INDEX}' is damaged: it has no weight_map")
        names = sorted({str(name) for name in dict(listed or {}).values()})
        outside = [name for name in names if Path(name).name != name]
        require(
            not outside,
            f"'{folder / INDEX}' names '{', '.join(outside)}', which is no file of this folder; "
            "fetch it again",
        )
        files = [folder / name for name in names]
        missing = [path.name for path in files if not path.is_file()]
        require(not missing, f"'{folder}' lacks {', '.join(missing)}; fetch it again")
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    raise UserError(
        f"'{folder}' has no {WEIGHTS}"
        + (
            f", and {pickles[0]} is not read, since a pickle may run any code; in transformers: "
            f"AutoModel.from_pretrained('{folder}').save_pretrained('NEW', "
            "safe_serialization=True), with the class of the model"
            if pickles
            else "; give a folder that transformers' save_pretrained wrote"
        )
    )

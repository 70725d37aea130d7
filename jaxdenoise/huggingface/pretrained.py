"""A model of transformers as ours, and ours as theirs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Params
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.huggingface import files
from jaxdenoise.huggingface.bart import BART
from jaxdenoise.huggingface.bert import BERT
from jaxdenoise.huggingface.family import Family, Place
from jaxdenoise.huggingface.t5 import T5
from jaxdenoise.huggingface.tokenizer_files import read_theirs, tokenizer_files
from jaxdenoise.model.model import Model
from jaxdenoise.tokenizer import Tokenizer

FAMILIES = {family.name: family for family in (T5, BART, BERT)}
SHOWN = 3
"""Tensors that an error names, of all that it is about."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model that was read.

    Attributes:
      family: its `model_type`.
      config: its shape.
      params: of `model`, float32.
      dtype: that its file has; float32, the widest, where there are several.
      tokenizer: None where the folder has none.
      unused: names of tensors that our model has no use for, such as BERT's pooler.
      settings: special ids by their names there.
    """

    family: str
    config: ModelConfig
    params: Params
    dtype: str
    tokenizer: Tokenizer | None
    unused: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def model(self) -> Model:
        """The model whose parameters these are."""
        assert self.config.embedding_rows is not None  # every family says it
        return Model(self.config, self.config.embedding_rows)


def read_pretrained(folder: str | Path, tokenizer: str | Path | None = None) -> Pretrained:
    """Reads a T5, a BART or a BERT that transformers' `save_pretrained` wrote.

    Args:
      folder: with config.json, safetensors in one file or several, and perhaps tokenizer.json, or
        spiece.model (extra `[sentencepiece]`).
      tokenizer: of such a file elsewhere.

    Raises:
      UserError: no such folder, another family, a shape that our models have not, a tensor that is
        missing, too much or of another shape, a damaged file, or a tokenizer with more ids than
        the model has rows.

    Example:
      >>> import dataclasses
      >>> from jaxdenoise.presets import shaped_as
      >>> config = dataclasses.replace(
      ...     shaped_as("t5_1_1_small", ModelConfig()), width=8, mlp_width=8, encoder_layers=1,
      ...     decoder_layers=1, heads=2, head_width=4,
      ... )
      >>> params = Model(config, 128).init(jax.random.key(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = write_pretrained(f"{folder}/t5", config, params)
      ...     found = read_pretrained(f"{folder}/t5")
      >>> found.family, found.config.embedding_rows, found.params["embedding"].shape
      ('t5', 128, (128, 8))
    """
    folder = Path(folder)
    require(
        (folder / files.CONFIG).is_file(),
        f"'{folder}' has no {files.CONFIG}; give a folder that transformers' save_pretrained wrote",
    )
    plain = files.read_plain(folder / files.CONFIG)
    kind = plain.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise unknown("model_type", str(kind), FAMILIES)
    family = FAMILIES[kind]
    with files.Tensors(folder) as tensors:
        names, unused = _names(family, tensors)
        config = family.shape(plain, names)
        params = _params(family, config, tensors, names)
        dtypes = {tensors.dtype(name) for name in names.values()}
    own = [folder / name for name in (files.TOKENIZER, files.SENTENCEPIECE)]
    file = Path(tokenizer) if tokenizer else next(filter(Path.is_file, own), None)
    settings = files.read_settings(folder)
    return Pretrained(
        family=kind,
        config=config,
        params=params,
        dtype=dtypes.pop() if len(dtypes) == 1 else "float32",
        tokenizer=_tokenizer(file, config, kind, settings) if file else None,
        unused=tuple(unused),
        settings=settings,
    )


def write_pretrained(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str = "float32",
    settings: Mapping[str, Any] | None = None,
) -> Family:
    """Writes a model so that transformers' `from_pretrained` reads it; all of it or nothing.

    Args:
      folder: to be made; one that is there and not empty is refused.
      config: the shape.
      params: of a model of that shape.
      tokenizer: to go with it. Without one nothing is said of special ids, and the model does not
        generate there before it is.
      dtype: of the tensors; float32, bfloat16 or float16.
      settings: special ids, as they were read; by default the tokenizer's.

    Returns:
      The family that has such models.

    Raises:
      UserError: no family has such models, naming what stands against it; or a folder in use.
    """
    folder = Path(folder)
    require(
        folder.resolve() != Path.cwd(),
        "a folder is made anew; give another than the working directory",
    )
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"'{folder}' is there and not empty; choose another folder",
    )
    require(
        dtype in files.DTYPES.values(),
        f"dtype is {dtype}; it must be one of {', '.join(files.DTYPES.values())}",
    )
    family, rows = family_of(config), params["embedding"].shape[0]
    plain = {
        **family.write(config, rows),
        "model_type": family.name,
        "architectures": [family.class_of(config)],
        "dtype": dtype,
    }
    named, contents = {}, {}
    if tokenizer is not None:
        named, contents = tokenizer_files(tokenizer, config)
    named = dict(settings) if settings else named
    place = folder.resolve()  # a link to an empty folder stays one
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        files.write_tensors(unfinished, to_tensors(family, config, params, dtype))
        files.write_plain(unfinished / files.CONFIG, {**plain, **named})
        for name, content in contents.items():
            (unfinished / name).write_text(content, "utf-8")
        if config.architecture == "encoder_decoder" and named:
            files.write_plain(unfinished / files.GENERATION, named)
        unfinished.chmod(0o755)
        unfinished.replace(place)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return family


def family_of(config: ModelConfig) -> Family:
    """The family that has models of such a shape.

    Raises:
      UserError: none has; what stands against the nearest one is named.
    """
    against = {name: family.refusals(config) for name, family in FAMILIES.items()}
    nearest = min(against, key=lambda name: len(against[name]))
    if against[nearest]:
        raise UserError(
            f"no model of {', '.join(FAMILIES)} in transformers has this shape; nearest is "
            f"{nearest}, but for {'; '.join(against[nearest])}"
        )
    return FAMILIES[nearest]


def to_tensors(
    family: Family, config: ModelConfig, params: Params, dtype: str = "float32"
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a model under their names, one after another; gradients as well."""
    headless = family.class_of(config) == family.headless
    for place in [*family.places(config), *family.repeated(config)]:
        value = _cast(np.asarray(_at(params, place.path)), dtype, place.path)
        layers = enumerate(value) if "{}" in place.name else [(0, value)]
        for number, one in layers:
            name = place.name.format(number)
            name = name.removeprefix(family.prefix) if headless else name
            yield name, np.ascontiguousarray(_theirs(one, place.form))


def _cast(value: np.ndarray, dtype: str, path: str) -> np.ndarray:
    """The value in a dtype of files, if all of it has one there."""
    with np.errstate(over="ignore"):
        cast = value.astype(jnp.dtype(dtype))
    require(
        bool(np.isfinite(cast).all()) or not np.isfinite(value).all(),
        f"{path} has values that {dtype} has not; choose bfloat16 or float32",
    )
    return cast


def _names(family: Family, tensors: files.Tensors) -> tuple[dict[str, str], list[str]]:
    """The tensors that the model has, by the name that we know them by, and those left out."""
    names = family.spelled(tensors.names)
    unused = [name for spelled, name in names.items() if family.is_unused(spelled)]
    names = {spelled: name for spelled, name in names.items() if name not in unused}
    for copy, original in family.copies.items():
        pair = [names[name] for name in (copy, original) if name in names]
        if len(pair) == 2 and _equal(tensors, *pair):
            del names[copy]
        elif copy in names and original not in names:
            names[original] = names.pop(copy)
    return names, unused


def _equal(tensors: files.Tensors, one: str, other: str) -> bool:
    same = tensors.shape(one) == tensors.shape(other)
    return same and np.array_equal(tensors.read(one), tensors.read(other))


def _params(
    family: Family, config: ModelConfig, tensors: files.Tensors, names: dict[str, str]
) -> Params:
    """The parameters, all checked before the first is read."""
    assert config.embedding_rows is not None
    model = Model(config, config.embedding_rows)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    places = family.places(config)
    wanted: dict[str, tuple[int, ...]] = {}
    for place in places:
        shape = _at(shapes, place.path).shape
        layers = range(shape[0]) if "{}" in place.name else [None]
        one = shape if layers == [None] else shape[1:]
        theirs = {"same": one, "turned": one[::-1], "row": (1, *one)}[place.form]
        wanted |= {place.name.format(number): theirs for number in layers}
    _check(wanted, tensors, names)

    def read(place: Place) -> jax.Array:
        shape = _at(shapes, place.path).shape
        whole = np.empty(shape, np.float32)
        rows = whole if "{}" in place.name else whole[None]
        for number in range(len(rows)):
            value = tensors.read(names[place.name.format(number)])
            rows[number] = _ours(value, place.form)
        return jnp.asarray(whole)

    params: Params = {}
    for place in places:
        *rooms, last = place.path.split("/")
        room = params
        for name in rooms:
            room = room.setdefault(name, {})
        room[last] = read(place)
    return params


def _check(
    wanted: dict[str, tuple[int, ...]], tensors: files.Tensors, names: dict[str, str]
) -> None:
    """Raises `UserError` unless the file has the tensors of the shape, and no others."""
    for found, what in (
        (wanted.keys() - names.keys(), "lacks"),
        (names.keys() - wanted.keys(), "has more tensors than the model that config.json says:"),
    ):
        shown = ", ".join(sorted(found)[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        require(not found, f"the file of weights {what} {shown}{more}; was it cut, or mixed up?")
    for name, shape in wanted.items():
        got = tensors.shape(names[name])
        require(
            got == shape,
            f"{names[name]} has shape {list(got)}, and config.json makes it {list(shape)}; the "
            "two files do not belong together",
        )
        kind = tensors.dtype(names[name])
        require(
            kind in files.DTYPES.values(),
            f"{names[name]} is {kind}; allowed are {', '.join(files.DTYPES.values())}",
        )


def _tokenizer(path: Path, config: ModelConfig, *theirs: Any) -> Tokenizer:
    tokenizer = read_theirs(path, *theirs)
    rows = config.embedding_rows or 0
    require(
        tokenizer.vocab.size <= rows,
        f"'{path}' has {tokenizer.vocab.size} ids, the model has {rows} rows "
        "for them; the two do not belong together",
    )
    return tokenizer


def _at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _ours(value: np.ndarray, form: str) -> np.ndarray:
    return {"same": value, "turned": value.T, "row": value[0]}[form]


def _theirs(value: np.ndarray, form: str) -> np.ndarray:
    return {"same": value, "turned": value.T, "row": value[None]}[form]

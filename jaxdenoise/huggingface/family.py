"""What a family of models is called in transformers' files, and here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError, require

Plain = dict[str, Any]
"""What a config.json holds."""

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Theirs to ours; the first that has one of ours is how it is written."""

COMPUTED = ("initial_scale", "dropout_rate", "compute_dtype", "remat", "scan_unroll")
"""Fields that change no result of a trained model."""


@dataclass(frozen=True)
class Place:
    """A tensor: its name in their files, its path among our parameters.

    Attributes:
      name: with `{}` for the number of the layer, where ours has those of all layers in one array.
      path: "encoder/layers/mlp/wi".
      form: "turned" where theirs is [out, in] and ours [in, out]; "row" where theirs is [1, n].
    """

    name: str
    path: str
    form: Literal["same", "turned", "row"] = "same"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one `model_type` are written.

    Attributes:
      name: the `model_type`.
      defaults: of the fields of a config.json that `read` looks at.
      read: the shape of a model, given its config.json and the names of its tensors.
      write: fields of a config.json for a shape and a number of embedding rows; what it cannot say
        is lost, which `refusals` finds by reading it again.
      places: of all tensors of a model.
      class_of: the class of transformers that has such a model.
      headless: the class of a model alone, whose tensors are named without `prefix`.
      prefix: of what a headless model has, in the others.
      spelling: patterns of older names and what is written today.
      copies: tensors that repeat another one, by name, and which.
      repeated: those of them that are written all the same.
      unused: patterns of tensors that our models have no use for.
    """

    name: str
    defaults: Plain
    read: Callable[[Plain, Collection[str]], ModelConfig]
    write: Callable[[ModelConfig, int], Plain]
    places: Callable[[ModelConfig], list[Place]]
    class_of: Callable[[ModelConfig], str]
    headless: str = ""
    prefix: str = ""
    spelling: Sequence[tuple[str, str]] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeated: Callable[[ModelConfig], list[Place]] = lambda _: []
    unused: Sequence[str] = ()

    def spelled(self, names: Collection[str]) -> dict[str, str]:
        """The names of tensors as `places` has them, and as they are."""
        found = {}
        for name in names:
            today = name
            for old, new in self.spelling:
                today = re.sub(old, new, today)
            found[today] = name
        if any(name.startswith(self.prefix) for name in found):
            return found
        return {self.prefix + today: name for today, name in found.items()}

    def is_unused(self, name: str) -> bool:
        """Whether the tensor of that name has no place in our models, and needs none."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def shape(self, plain: Plain, names: Collection[str]) -> ModelConfig:
        """Our shape for a config.json and the names of its tensors.

        Raises:
          UserError: something that our models have not.
        """
        fields = {**self.defaults, **plain}
        for name, default in self.defaults.items():
            fields[name] = _checked(name, fields[name], default)
        config = self.read(fields, names)
        return dataclasses.replace(config, embedding_rows=fields["vocab_size"])

    def refusals(self, config: ModelConfig) -> list[str]:
        """The fields of a shape that a config.json of this family cannot say."""
        names = [place.name for place in self.places(config)]
        plain = {**self.write(config, 1), "architectures": [self.class_of(config)]}
        try:
            again = self.read({**self.defaults, **plain}, names)
        except UserError as error:
            return [str(error)]
        wanted, got = effective(config), effective(again)
        return [
            f"model.{name} is {value} (there: {got.get(name)})"
            for name, value in wanted.items()
            if value != got.get(name)
        ]


def _checked(name: str, value: Any, default: Any) -> Any:
    """A field of a config.json, of the kind that its default is; null is the default."""
    if value is None:
        return default
    kind = int if default is None else type(default)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits, wanted = {
        bool: (isinstance(value, bool), "true or false"),
        int: (number and float(value).is_integer() and value > 0, "a whole number above 0"),
        float: (number and 0 <= value < float("inf"), "a number, at least 0"),
        str: (isinstance(value, str), "a text"),
    }[kind]
    require(fits, f"config.json: {name} is {value!r}; it must be {wanted}")
    return kind(value)


def effective(config: ModelConfig) -> Plain:
    """The fields of a shape that its results depend on."""
    fields = dataclasses.asdict(config)
    idle = {*COMPUTED, "embedding_rows"}
    of_positions = {
        "learned": {"max_positions", "position_offset"},
        "relative": {"relative_buckets", "relative_max_distance"},
        "rotary": {"rotary_base", "local_rotary_base"},
    }
    for kind, names in of_positions.items():
        idle |= names if config.positions != kind else set()
    if config.architecture != "encoder_decoder":
        other = "decoder" if config.architecture == "encoder" else "encoder"
        idle |= {f"{other}_layers", "shared_embedding", "merged_attention", "continued_positions"}
    idle |= {"scaled_projection"} if not config.tied_embeddings else set()
    idle |= {"global_every"} if config.local_window is None else set()
    fields["key_value_heads"] = config.query_groups
    return {name: value for name, value in fields.items() if name not in idle}


def activation(plain: Plain, field: str, value: str) -> str:
    """Our name of an activation."""
    require(
        value in ACTIVATIONS,
        f"config.json: {field} is '{plain[field]}'; allowed are {', '.join(ACTIVATIONS)}",
    )
    return ACTIVATIONS[value]


def their_activation(config: ModelConfig) -> str:
    """Their name of an activation."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)


def expect(plain: Plain, wanted: Mapping[str, Any]) -> None:
    """Raises `UserError` where a field is not what our models can do."""
    for field, value in wanted.items():
        require(
            plain.get(field) in (value, None),
            f"config.json: {field} is {plain.get(field)}, and our models have {value} alone",
        )


def linear(name: str, path: str, bias: str | None = None) -> list[Place]:
    """A product: its kernel and, where `bias` says its path, what is added."""
    kernel = [Place(f"{name}.weight", path, "turned")]
    return kernel if bias is None else [*kernel, Place(f"{name}.bias", bias)]


def layer_norm(name: str, path: str) -> list[Place]:
    """A LayerNorm with mean and offset."""
    return [Place(f"{name}.weight", f"{path}/scale"), Place(f"{name}.bias", f"{path}/bias")]

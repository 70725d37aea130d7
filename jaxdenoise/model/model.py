"""What the other rooms see of a model: `init` and `apply`, on batches, with plain PyTrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, Key, Params, Projection
from jaxdenoise.config import ModelConfig, check_gradients
from jaxdenoise.errors import require
from jaxdenoise.model.sharding import batch_axes, names_of, unboxed
from jaxdenoise.model.streams import Sight, Slots
from jaxdenoise.model.transformer import Transformer, predicting_stack
from jaxdenoise.vocabulary import Vocabulary

EMBEDDING_MULTIPLE = 128  # rows of the embedding are padded to it, as in T5's 32100 → 32128


class Forward(NamedTuple):
    """What a model makes of a batch.

    Attributes:
      hidden: of P positions, the selected ones or all.
      projection: of these on the vocabulary; stopped where its gradient is.
      peaks: the largest attention logit of each layer, by module.
    """

    hidden: Float[AnyArray, "B P width"]
    projection: Projection
    peaks: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A transformer as pure functions of its parameters.

    Args:
      config: its shape.
      vocab_size: ids that it embeds and predicts.
    """

    config: ModelConfig
    vocab_size: int

    @property
    def stack(self) -> str:
        """The stack that predicts: its targets and weights are the example's."""
        return predicting_stack(self.config)

    @cached_property
    def _module(self) -> Transformer:
        return Transformer(self.config, self.vocab_size)

    @cached_property
    def _init(self) -> Callable[[Key], Any]:
        """Fresh parameters, in boxes that name their axes."""
        ids = np.zeros(1, np.int32)  # kept, so it may not belong to a trace
        example = Example(
            encoder_input_tokens=ids,
            encoder_segment_ids=ids,
            decoder_input_tokens=ids,
            decoder_segment_ids=ids,
        )

        def init(module: Transformer) -> None:
            module(example)
            module.projection()

        return lambda key: self._module.init(key, method=init)["params"]

    def init(self, key: Key) -> Params:
        """Fresh parameters in float32. They depend on the key and the shape alone."""
        return _init_at_once(self, key)

    def axes(self) -> Any:
        """The names of each parameter's axes: a PyTree of `PartitionSpec`s; see `sharding`."""
        return names_of(jax.eval_shape(self._init, jax.random.key(0)))

    def forward(
        self,
        params: Params,
        batch: Example,
        dropout_keys: Key | None = None,
        *,
        gradients: str = "full",
        everywhere: bool = False,
    ) -> Forward:
        """What is projected on the vocabulary, at the selected positions or at all, and how.

        Args:
          params: from `init`.
          batch: an `Example` with B in front.
          dropout_keys: Key[B]; without them there is no dropout.
          gradients: what the backward pass goes through. "full": every position that the loss
            depends on. "output_only", for a decoder alone: the positions of weight other than 0,
            as if the rest, the context, ran with a frozen copy of the parameters. "encoder" or
            "decoder", for an encoder-decoder: the parameters as used in that stack.
          everywhere: at all positions, whatever the batch selects.

        Raises:
          UserError: a batch of other stacks than the architecture's, gradients that it does not
            have, or rows longer than its learned positions.
        """
        self.check(batch, gradients)
        params = _freeze(params, FROZEN.get(gradients, ()))

        def apply(example: Example, key: Key | None) -> tuple[jax.Array, Any]:
            rngs = {} if key is None else {"dropout": key}
            variables = {"params": params}
            return self._module.apply(
                variables, example, gradients, everywhere, rngs=rngs, mutable=["intermediates"]
            )

        hidden, variables = jax.vmap(apply, spmd_axis_name=batch_axes())(batch, dropout_keys)
        peaks = jax.tree.map(lambda x: jnp.max(x, axis=0), variables["intermediates"])
        return Forward(hidden, self.projection(params, gradients=gradients), peaks)

    def projection(self, params: Params, *, gradients: str = "full") -> Projection:
        """How hidden states become logits; `gradients` as in `forward`."""
        params = _freeze(params, FROZEN.get(gradients, ()))
        projection: Any = self._module.apply({"params": params}, method="projection")
        return jax.lax.stop_gradient(projection) if gradients == "encoder" else projection

    def apply(
        self,
        params: Params,
        batch: Example,
        dropout_keys: Key | None = None,
        *,
        gradients: str = "full",
    ) -> Float[AnyArray, "B T V"]:
        """The logits at all positions; for training see `forward`, which forms none.

        Args:
          params: from `init`.
          batch: an `Example` with B in front.
          dropout_keys: Key[B]; without them there is no dropout.
          gradients: as in `forward`.

        Returns:
          Float32[B, T, V], T the length of the predicting stack's inputs.
        """
        hidden, projection, _ = self.forward(
            params, batch, dropout_keys, gradients=gradients, everywhere=True
        )
        return projection(hidden)

    def perturbations(self, batch: Example, gradients: str = "full") -> Any:
        """Zeros to be added to what enters each layer, for `hidden_perturbed`.

        Returns:
          {stack: {"layers": {"stream_0": Float[B, layers, P, width], …}}}. Where `output_only`
          parts a selected decoder's positions, stream 0 holds the selected ones, in their order,
          and stream 1 the others; else there is one stream of all.
        """

        def shapes(example: Example) -> Any:
            collections = ["params", "perturbations"]
            args = (jax.random.key(0), example, gradients)
            return self._module.init(*args, mutable=collections)["perturbations"]

        found = jax.eval_shape(jax.vmap(shapes), batch)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)

    def hidden_perturbed(
        self, params: Params, perturbations: Any, batch: Example, gradients: str = "full"
    ) -> Float[AnyArray, "B P width"]:
        """Hidden states; their derivatives by the perturbations say what flows where."""
        params = _freeze(params, FROZEN.get(gradients, ()))

        def apply(perturbations: Any, example: Example) -> Any:
            variables = {"params": params, "perturbations": perturbations}
            return self._module.apply(variables, example, gradients)

        return jax.vmap(apply)(perturbations, batch)

    def encode(self, params: Params, batch: Example) -> Float[AnyArray, "B T width"]:
        """The encoder's output; needs the encoder's side of the batch alone."""
        self._check_lengths(batch, ["encoder"])

        def encode(example: Example) -> Any:
            return self._module.apply({"params": params}, example, method="encode")

        return jax.vmap(encode)(batch)

    def decode_on(
        self,
        params: Params,
        tokens: Int[AnyArray, "B S"],
        sight: Sight,
        slots: Sight,
        first: AnyArray | int,
        batch: Example,
        encoded: Float[AnyArray, "B T width"] | None = None,
        cache: Any = None,
    ) -> tuple[Float[AnyArray, "B S width"], Any]:
        """The decoder at positions behind those whose keys and values are kept; see `decoding`.

        Args:
          params: from `init`.
          tokens: of these positions.
          sight: where they stand.
          slots: of all positions that there will be.
          first: the slot of the first of these.
          batch: the encoder's side, where there is one.
          encoded: the encoder's output the first time, then None.
          cache: what the last call gave, None the first time.

        Returns:
          What is projected, and what is kept.
        """

        def decode(tokens: AnyArray, sight: Sight, slots: Sight, *rest: Any) -> tuple[Any, Any]:
            example, encoded, cache = rest
            variables = {"params": params} if cache is None else {"params": params, "cache": cache}
            hidden, after = self._module.apply(
                variables,
                tokens,
                sight,
                Slots(slots, jnp.asarray(first)),
                example,
                encoded,
                method="decode_on",
                mutable=["cache"],
            )
            return hidden, after["cache"]

        return jax.vmap(decode)(tokens, sight, slots, batch, encoded, cache)

    def check(self, batch: Example, gradients: str = "full") -> None:
        """Raises `UserError` if the model cannot be applied to such a batch; shapes are enough."""
        check_gradients(self.config.architecture, gradients)
        stacks = STACKS[self.config.architecture]
        made = [
            s for s in ("encoder", "decoder") if getattr(batch, f"{s}_input_tokens") is not None
        ]
        require(
            made == stacks,
            f"the objective makes inputs for the {' and '.join(made) or 'neither stack'}, but "
            f"model.architecture {self.config.architecture} reads {' and '.join(stacks)}; choose "
            "another architecture or another objective",
        )
        self._check_lengths(batch, stacks)

    def _check_lengths(self, batch: Example, stacks: list[str]) -> None:
        """Rows that count up need a learned position each; where given, positions clip."""
        config = self.config
        counted = [batch.size(stack) for stack in stacks if batch.inputs(stack)[2] is None]
        if config.positions != "learned" or not counted:
            return
        longest = sum(counted) if config.continued_positions else max(counted)
        require(
            longest <= config.max_positions,
            f"model.max_positions is {config.max_positions}, the inputs have {longest} tokens; "
            "raise it, or shorten data.raw_length",
        )


STACKS = {
    "encoder_decoder": ["encoder", "decoder"],
    "encoder": ["encoder"],
    "decoder": ["decoder"],
}

FROZEN = {
    "encoder": ("decoder", "decoder_embedding", "projection", "prediction", "prediction_bias"),
    "decoder": ("encoder",),
}
"""Parameters that are stopped; a shared embedding is stopped where the other stack uses it."""


def _freeze(params: Params, names: tuple[str, ...]) -> Params:
    return {k: jax.lax.stop_gradient(v) if k in names else v for k, v in params.items()}


@partial(jax.jit, static_argnums=0)
def _init_at_once(model: Model, key: Key) -> Params:
    """One program instead of one for each operation of each parameter; equal models share it."""
    return unboxed(model._init(key))


def build_model(config: ModelConfig, vocab: Vocabulary) -> Model:
    """The model of a config, with as many rows of the embedding as it says.

    Raises:
      UserError: fewer rows than the vocabulary has ids, or float64 without JAX's x64 mode.
    """
    require(
        config.compute_dtype != "float64" or jnp.result_type(float) == jnp.float64,
        "model.compute_dtype is float64, which needs JAX's x64 mode; set JAX_ENABLE_X64=1",
    )
    rows = config.embedding_rows
    if rows is None:
        rows = -(-vocab.size // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    require(
        rows >= vocab.size,
        f"model.embedding_rows is {rows}, the tokenizer has {vocab.size} ids; give at least that, "
        "or None",
    )
    return Model(config, rows)


def encoder(*, vocab: Vocabulary, width: int, layers: int, **fields: Any) -> Model:
    """An encoder that predicts at every position, for masked language modelling.

    Args:
      vocab: the tokenizer's.
      width: of the residual stream.
      layers: blocks.
      **fields: of `ModelConfig`; heads default to width / 32 of 32 units, the MLP to 2 · width.
    """
    config = _sized(width, fields)
    return build_model(replace(config, architecture="encoder", encoder_layers=layers), vocab)


def encoder_decoder(*, vocab: Vocabulary, width: int, layers: int, **fields: Any) -> Model:
    """A T5 1.1 of `layers` blocks in each stack; `fields` as in `encoder`."""
    config = _sized(width, fields)
    return build_model(replace(config, encoder_layers=layers, decoder_layers=layers), vocab)


def decoder(*, vocab: Vocabulary, width: int, layers: int, **fields: Any) -> Model:
    """A causal language model of `layers` blocks; `fields` as in `encoder`."""
    config = _sized(width, fields)
    return build_model(replace(config, architecture="decoder", decoder_layers=layers), vocab)


def _sized(width: int, fields: dict[str, Any]) -> ModelConfig:
    shape = {"heads": max(width // 32, 1), "head_width": 32, "mlp_width": 2 * width}
    return ModelConfig(width=width, **{**shape, **fields})

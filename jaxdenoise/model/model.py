"""What the other rooms see of a model: `init` and `apply`, on batches, with plain PyTrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, Example, Key, Params
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.transformer import Transformer
from jaxdenoise.vocabulary import Vocabulary

EMBEDDING_MULTIPLE = 128  # rows of the embedding are padded to it, as in T5's 32100 → 32128


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
        return "encoder" if self.config.architecture == "encoder" else "decoder"

    @cached_property
    def _module(self) -> Transformer:
        return Transformer(self.config, self.vocab_size)

    @cached_property
    def _init(self) -> Callable[[Key], Params]:
        """One program instead of one for each operation of each parameter."""
        ids = jnp.zeros(1, jnp.int32)
        example = Example(
            encoder_input_tokens=ids,
            encoder_segment_ids=ids,
            decoder_input_tokens=ids,
            decoder_segment_ids=ids,
        )
        return jax.jit(lambda key: self._module.init(key, example)["params"])

    def init(self, key: Key) -> Params:
        """Fresh parameters in float32. They depend on the key and the shape alone."""
        return self._init(key)

    def apply(
        self, params: Params, batch: Example, dropout_keys: Key | None = None
    ) -> Float[AnyArray, "B T V"]:
        """Logits for a batch.

        Args:
          params: from `init`.
          batch: an `Example` with B in front.
          dropout_keys: Key[B]; without them there is no dropout.

        Returns:
          Float32[B, T, V], T the length of the decoder's (or the lone encoder's) inputs.
        """
        return self.apply_with_stats(params, batch, dropout_keys)[0]

    def apply_with_stats(
        self, params: Params, batch: Example, dropout_keys: Key | None = None
    ) -> tuple[Float[AnyArray, "B T V"], dict[str, Any]]:
        """As `apply`; also the largest attention logit of each layer, by module."""

        def apply(example: Example, key: Key | None) -> tuple[jax.Array, Any]:
            rngs = {} if key is None else {"dropout": key}
            return self._module.apply(
                {"params": params}, example, rngs=rngs, mutable=["intermediates"]
            )

        logits, variables = jax.vmap(apply)(batch, dropout_keys)
        peaks = jax.tree.map(lambda x: jnp.max(x, axis=0), variables["intermediates"])
        return logits, peaks

    def apply_nudged(
        self, params: Params, batch: Example, nudge: Float[AnyArray, "B T width"]
    ) -> Float[AnyArray, "B T V"]:
        """As `apply`, with `nudge` added to the embedded encoder inputs: to differentiate by it."""

        def apply(example: Example, nudge: AnyArray) -> Any:
            def logits(module: Transformer) -> AnyArray:
                return module(example, nudge)

            return self._module.apply({"params": params}, method=logits)

        return jax.vmap(apply)(batch, nudge)

    def encode(self, params: Params, batch: Example) -> Float[AnyArray, "B T width"]:
        """The encoder's output; needs the encoder's side of the batch alone."""

        def encode(example: Example) -> Any:
            return self._module.apply({"params": params}, example, method="encode")

        return jax.vmap(encode)(batch)

    def decode(
        self, params: Params, encoded: Float[AnyArray, "B T width"], batch: Example
    ) -> Float[AnyArray, "B S V"]:
        """Logits of the decoder, given the encoder's output."""

        def decode(encoded: AnyArray, example: Example) -> Any:
            def logits(module: Transformer) -> AnyArray:
                return module.project(module.decode(encoded, example))

            return self._module.apply({"params": params}, method=logits)

        return jax.vmap(decode)(encoded, batch)


def build_model(config: ModelConfig, vocab: Vocabulary) -> Model:
    """The model of a config, with the vocabulary padded to a multiple of 128."""
    return Model(config, -(-vocab.size // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE)


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


def _sized(width: int, fields: dict[str, Any]) -> ModelConfig:
    shape = {"heads": max(width // 32, 1), "head_width": 32, "mlp_width": 2 * width}
    return ModelConfig(width=width, **{**shape, **fields})

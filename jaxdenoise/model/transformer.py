"""The T5 1.1 encoder-decoder and encoder, layers scanned; one example at a time."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, wide
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.attention import Attention, RelativeBias, Visibility
from jaxdenoise.model.layers import FAN_IN, Dropout, GatedMLP, Hidden, RMSNorm, dense

Bias = Float[AnyArray, "H T T"]
Logits = Float[AnyArray, "T V"]

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each with its norm before and its residual after."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Hidden, bias: Bias, sight: Visibility) -> tuple[Hidden, None]:
        y = RMSNorm(self.config, name="self_attention_norm")(x)
        x = x + Attention(self.config, name="self_attention")(y, sight, sight, bias=bias)
        y = RMSNorm(self.config, name="mlp_norm")(x)
        return x + Dropout(self.config)(GatedMLP(self.config, name="mlp")(y)), None


class DecoderBlock(nn.Module):
    """As the encoder's, with attention on the encoder's output in between."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        bias: Bias,
        sight: Visibility,
        memory: Hidden,
        across: Visibility,
        memory_sight: Visibility,
    ) -> tuple[Hidden, None]:
        y = RMSNorm(self.config, name="self_attention_norm")(x)
        x = x + Attention(self.config, name="self_attention")(y, sight, sight, bias=bias)
        y = RMSNorm(self.config, name="cross_attention_norm")(x)
        cross = Attention(self.config, name="cross_attention")
        x = x + cross(y, across, memory_sight, memory=memory)
        y = RMSNorm(self.config, name="mlp_norm")(x)
        return x + Dropout(self.config)(GatedMLP(self.config, name="mlp")(y)), None


def _scanned(block: type[nn.Module], config: ModelConfig, layers: int, inputs: int) -> nn.Module:
    """`layers` blocks as one, parameters stacked in front; `inputs` are the same for all."""
    if config.remat != "none":
        block = nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * inputs,  # type: ignore[arg-type]  # Flax documents tuples
        length=layers,
        unroll=min(config.scan_unroll, layers),
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config, name="layers")


class Encoder(nn.Module):
    """A stack of encoder blocks and a final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Hidden, segment_ids: Int[AnyArray, "T"], positions: Int[AnyArray, "T"] | None
    ) -> Hidden:
        bias = RelativeBias(self.config, True, name="relative_bias")(x.shape[0], positions)
        layers = _scanned(EncoderBlock, self.config, self.config.encoder_layers, 2)
        x, _ = layers(x, bias, Visibility.bidirectional(segment_ids))
        return Dropout(self.config)(RMSNorm(self.config, name="norm")(x))


class Decoder(nn.Module):
    """A stack of decoder blocks and a final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        segment_ids: Int[AnyArray, "T"],
        positions: Int[AnyArray, "T"] | None,
        memory: Hidden,
        memory_segment_ids: Int[AnyArray, "Tk"],
    ) -> Hidden:
        bias = RelativeBias(self.config, False, name="relative_bias")(x.shape[0], positions)
        layers = _scanned(DecoderBlock, self.config, self.config.decoder_layers, 5)
        x, _ = layers(
            x,
            bias,
            Visibility.causal(segment_ids),
            memory,
            Visibility.bidirectional(segment_ids),
            Visibility.bidirectional(memory_segment_ids),
        )
        return Dropout(self.config)(RMSNorm(self.config, name="norm")(x))


class Transformer(nn.Module):
    """Embedding, encoder, decoder if there is one, and the projection on the vocabulary.

    Source: Raffel et al. 2020, section 2.1; T5 1.1 (t5x/examples/t5/t5_1_1).
    """

    config: ModelConfig
    vocab_size: int

    def setup(self):
        config = self.config
        shape = (self.vocab_size, config.width)
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), shape, jnp.float32)
        if not config.tied_embeddings:
            self.projection = self.param("projection", FAN_IN, shape[::-1], jnp.float32)
        self.encoder = Encoder(config)
        if config.architecture == "encoder_decoder":
            self.decoder = Decoder(config)
        self.dropout = Dropout(config)

    def __call__(self, example: Example, nudge: Hidden | None = None) -> Logits:
        """The logits of the stack that predicts: the last one; `nudge` as in `encode`."""
        encoded = self.encode(example, nudge)
        if self.config.architecture == "encoder":
            return self.project(encoded)
        return self.project(self.decode(encoded, example))

    def encode(self, example: Example, nudge: Hidden | None = None) -> Hidden:
        """The encoder's output; `nudge` is added to its embedded inputs."""
        tokens, segment_ids, positions = example.inputs("encoder")
        embedded = self.embed(tokens)
        embedded = embedded if nudge is None else embedded + nudge
        return self.encoder(embedded, segment_ids, positions)

    def decode(self, encoded: Hidden, example: Example) -> Hidden:
        """The decoder's output for the example's decoder inputs."""
        tokens, segment_ids, positions = example.inputs("decoder")
        _, memory_segment_ids, _ = example.inputs("encoder")
        embedded = self.embed(tokens)
        return self.decoder(embedded, segment_ids, positions, encoded, memory_segment_ids)

    def embed(self, tokens: Int[AnyArray, "T"]) -> Hidden:
        """The rows of the embedding, in the compute dtype."""
        embedded = jnp.take(self.embedding, tokens, axis=0)
        return self.dropout(embedded.astype(self.config.compute_dtype))

    def project(self, hidden: Hidden) -> Logits:
        """Logits, a product in float32 as in T5X; a tied projection is scaled by 1/√width."""
        if self.config.tied_embeddings:
            kernel, scale = self.embedding.T, self.config.width**-0.5
        else:
            kernel, scale = self.projection, 1.0
        precise = wide(hidden.dtype)
        return dense(hidden.astype(precise) * scale, kernel.astype(precise))

"""A transformer's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.config.checks import in_range, positive
from jaxdenoise.errors import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A transformer's shape. The defaults are T5 1.1's; `presets` has those of other papers.

    Attributes:
      architecture: "encoder_decoder"; an "encoder" alone, which predicts at its own positions; or a
        "decoder" alone, causal, or bidirectional on a prefix where the objective says so.
      width: of the residual stream (d_model).
      mlp_width: hidden units of the MLP (d_ff).
      heads: attention heads.
      head_width: units of each (d_kv); heads · head_width need not be the width.
      key_value_heads: heads of keys and values, each shared by as many queries (grouped-query
        attention); None for as many as `heads`.
      encoder_layers: blocks of the encoder.
      decoder_layers: blocks of the decoder.
      activation: of the MLP; "gelu_tanh" is GELU's approximation.
      gated: multiply the activation by a second projection (GEGLU, SwiGLU).
      norm: "rms", or "layer" with mean and offset.
      norm_place: "pre" each sublayer, with one more at the end, or "post" the residual sum.
      norm_epsilon: added to the variance.
      biases: on all products of the layers.
      positions: "relative" is T5's bias, "learned" an absolute embedding for each stack.
      relative_buckets: of the relative position bias.
      relative_max_distance: distances from here on share a bucket.
      max_positions: of learned positions.
      position_offset: rows of their table before that of position 0 (BART: 2).
      rotary_base: of the wavelengths of rotary positions (θ).
      local_rotary_base: of local layers; None for the same.
      continued_positions: the decoder counts on from the encoder's last position, and rotary
        positions hold for cross-attention too (RedLLM).
      scaled_attention: divide attention logits by √head_width; T5 does not.
      qk_norm: RMSNorm on queries and keys, head by head.
      local_window: positions that local layers see around each, half of it to either side; None
        for global layers alone.
      global_every: with a window, layer 0 and every so many after it are global.
      merged_attention: the decoder attends to itself and to the encoder in one softmax, with the
        same projections (T5Gemma 2).
      shared_embedding: one embedding for both stacks.
      embedding_rows: of the embedding and the projection; None for the tokenizer's ids, padded to
        a multiple of 128.
      token_types: rows of BERT's embedding of token types, of which every token has the first.
      tied_embeddings: project on the embedding matrix instead of one of its own (T5 1.0).
      scaled_projection: multiply by 1/√width before a tied projection, as T5 1.0 does.
      embedding_norm: a norm on the sum of token and position embeddings (BERT, BART).
      prediction_head: a dense layer, activation and norm before the projection (BERT).
      prediction_bias: one number for each id, added to the logits (BERT, BART).
      initial_scale: standard deviation of every fresh matrix; None for T5's, by fan-in.
      dropout_rate: in training, of embeddings, of what each sublayer adds and inside the MLP; not
        of attention weights.
      compute_dtype: of matrix products; parameters, softmax, logits and loss are float32.
        float64 is for checking gradients, with JAX's x64 mode on and parameters of that type.
      remat: what the backward pass computes again: nothing, whole blocks, or all but products.
      scan_unroll: blocks compiled in one piece; more is faster to run and slower to compile.
    """

    architecture: Literal["encoder_decoder", "encoder", "decoder"] = "encoder_decoder"
    width: int = 512
    mlp_width: int = 1024
    heads: int = 6
    head_width: int = 64
    key_value_heads: int | None = None
    encoder_layers: int = 8
    decoder_layers: int = 8
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] = "gelu_tanh"
    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-6
    biases: bool = False
    positions: Literal["relative", "learned", "rotary"] = "relative"
    relative_buckets: int = 32
    relative_max_distance: int = 128
    max_positions: int = 512
    position_offset: int = 0
    rotary_base: float = 10_000.0
    local_rotary_base: float | None = None
    continued_positions: bool = False
    scaled_attention: bool = False
    qk_norm: bool = False
    local_window: int | None = None
    global_every: int = 3
    merged_attention: bool = False
    shared_embedding: bool = True
    embedding_rows: int | None = None
    token_types: int = 0
    tied_embeddings: bool = False
    scaled_projection: bool = True
    embedding_norm: bool = False
    prediction_head: bool = False
    prediction_bias: bool = False
    initial_scale: float | None = None
    dropout_rate: float = 0.0
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_unroll: int = 1

    def __post_init__(self):
        positive("model", self, "width", "mlp_width", "heads", "head_width", "encoder_layers")
        positive("model", self, "decoder_layers", "max_positions", "global_every", "scan_unroll")
        in_range("model", self, 0, 1, "dropout_rate")
        for name in ("position_offset", "token_types"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} is {value}; it must be at least 0")
        require(
            self.embedding_rows is None or self.embedding_rows > 0,
            f"model.embedding_rows is {self.embedding_rows}; it must be above 0, or None",
        )
        for name in ("norm_epsilon", "rotary_base", "local_rotary_base", "initial_scale"):
            value = getattr(self, name)
            require(value is None or value > 0, f"model.{name} is {value}; it must be above 0")
        require(
            self.query_groups >= 1 and self.heads % self.query_groups == 0,
            f"model.key_value_heads is {self.key_value_heads}; it must divide model.heads "
            f"({self.heads})",
        )
        require(
            self.local_window is None or self.local_window >= 2,
            f"model.local_window is {self.local_window}; it must be at least 2, or None",
        )
        self._check_positions()
        for name in ("merged_attention", "continued_positions"):
            require(
                self.architecture == "encoder_decoder" or not getattr(self, name),
                f"model.{name} is True; it needs model.architecture encoder_decoder, not "
                f"{self.architecture}",
            )

    @property
    def query_groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.key_value_heads is None else self.key_value_heads

    def layers(self, stack: str) -> int:
        """Blocks of a stack, "encoder" or "decoder"."""
        return self.encoder_layers if stack == "encoder" else self.decoder_layers

    def _check_positions(self) -> None:
        require(
            self.relative_buckets >= 4 and self.relative_buckets % 2 == 0,
            f"model.relative_buckets is {self.relative_buckets}; it must be even, at least 4",
        )
        require(
            self.relative_max_distance > self.relative_buckets // 2,
            f"model.relative_max_distance is {self.relative_max_distance}; it must be above half "
            f"of model.relative_buckets ({self.relative_buckets // 2})",
        )
        require(
            self.positions != "rotary" or self.head_width % 2 == 0,
            f"model.head_width is {self.head_width}; rotary positions turn pairs: give an even one",
        )
        require(
            self.positions != "relative" or not self.continued_positions,
            "model.continued_positions is True; it needs model.positions rotary or learned",
        )

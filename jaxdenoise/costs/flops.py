"""FLOPs of a training step by the model's shape: what every implementation has to compute.

Counted are matrix products, 2 for a multiplication and an addition: forward once, backward twice
that, one for each operand's gradient. Not counted: embeddings, which are looked up, norms, softmax,
dropout, the optimizer, what the backward pass computes again (remat), corruption, and the sum of
the relative bias' gradient. Attention counts all pairs of positions, hidden ones too, because they
are computed; local windows as well. Gradients are full ones: under `training.gradients`
output_only, encoder or decoder a part of the backward pass is left out, and these are bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxdenoise.config import ModelConfig

BACKWARD = 2  # products of a backward pass for each of the forward pass


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Positions of one example; of a stack that is not there, 0.

    Attributes:
      encoder: of the encoder.
      decoder: of the decoder.
      predicted: that are projected on the vocabulary.
    """

    encoder: float
    decoder: float
    predicted: float


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """FLOPs of one example, forward and backward.

    Attributes:
      encoder: products with the encoder's matrices.
      decoder: with the decoder's.
      attention: of queries with keys, of weights with values.
      projection: on the vocabulary, the prediction head included.
    """

    encoder: float
    decoder: float
    attention: float
    projection: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.encoder + self.decoder + self.attention + self.projection


def matrix_parameters(config: ModelConfig, stack: str) -> int:
    """Numbers of all matrices of a stack's blocks, each of which a position is multiplied by.

    Example:
      >>> matrix_parameters(ModelConfig(), "encoder")  # 8 · (4 · 512 · 384 + 3 · 512 · 1024)
      18874368
    """
    block = _queries(config) + _keys(config) + _mlp(config)
    if _crosses(config, stack) and not config.merged_attention:
        block += _queries(config) + _keys(config)
    return config.layers(stack) * block


def model_flops(config: ModelConfig, vocab_size: int, positions: Positions) -> ModelFlops:
    """Of one example, with these positions computed, whether they hold text or padding.

    Args:
      config: the model's shape.
      vocab_size: ids that are predicted, as the model pads them.
      positions: of an example as it is computed.

    Example:
      >>> found = model_flops(
      ...     ModelConfig(), 32_128, Positions(encoder=512, decoder=114, predicted=114)
      ... )
      >>> f"{found.total:.3e}"
      '1.063e+11'
    """
    of_encoder = positions.encoder * matrix_parameters(config, "encoder")
    of_decoder = positions.decoder * matrix_parameters(config, "decoder")
    if _crosses(config, "decoder"):
        # Keys and values of the memory are made of the encoder's positions, not of the decoder's.
        instead = 0 if config.merged_attention else positions.decoder
        of_decoder += config.decoder_layers * _keys(config) * (positions.encoder - instead)
    return ModelFlops(
        encoder=_both_ways(of_encoder),
        decoder=_both_ways(of_decoder),
        attention=_both_ways(_attention(config, positions)),
        projection=_both_ways(positions.predicted * _projection(config, vocab_size)),
    )


def text_flops(config: ModelConfig, vocab_size: int, text: Positions) -> float:
    """Of one example, for its MFU: parameters × tokens of text, forward and backward.

    Encoder parameters × input tokens + decoder parameters × target tokens + attention: padding is
    none, and the decoder's keys of the encoder's positions count once for each target, as in most
    published figures. `predicted` tokens are multiplied by the projection.
    """
    products = text.encoder * matrix_parameters(config, "encoder")
    products += text.decoder * matrix_parameters(config, "decoder")
    products += text.predicted * _projection(config, vocab_size)
    return _both_ways(products + _attention(config, text))


def _both_ways(products: float) -> float:
    """FLOPs, forward and backward, of so many multiplications."""
    return 2 * (1 + BACKWARD) * products


def _attention(config: ModelConfig, positions: Positions) -> float:
    """Multiplications of queries with keys and of weights with values, forward."""
    seen = positions.decoder + positions.encoder * _crosses(config, "decoder")
    pairs = config.encoder_layers * positions.encoder**2
    pairs += config.decoder_layers * positions.decoder * seen
    return 2 * pairs * config.heads * config.head_width


def _projection(config: ModelConfig, vocab_size: int) -> int:
    """Numbers of the projection on the vocabulary, and of a prediction head."""
    return config.width * vocab_size + config.prediction_head * config.width**2


def _crosses(config: ModelConfig, stack: str) -> bool:
    return stack == "decoder" and config.architecture == "encoder_decoder"


def _queries(config: ModelConfig) -> int:
    """Of the queries and the outputs."""
    return 2 * config.width * config.heads * config.head_width


def _keys(config: ModelConfig) -> int:
    """Of the keys and the values."""
    return 2 * config.width * config.query_groups * config.head_width


def _mlp(config: ModelConfig) -> int:
    return (3 if config.gated else 2) * config.width * config.mlp_width

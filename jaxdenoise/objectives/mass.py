"""MASS: a span is hidden from the encoder, and the decoder writes it (Song et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check(
    noise_density: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_some(noise_density=noise_density)


@objective(check=_check, needs=("mask",))
def mass(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, noise_density: float = 0.5
) -> Example:
    """Masks one span of the inputs, token by token; the target is the span alone.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <mask> <mask> <mask> <mask> <mask> party last week . </s>
        reads    you for inviting me to
        targets  for inviting me to your

    The decoder reads the token before each, at the span's own positions, and no end. With a span
    of one token this is masked LM of one token, with a span of all a language model.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      noise_density: share of the row that the span has, in (0, 1]; at least a token.

    Returns:
      An encoder-decoder `Example`, with decoder positions.

    Raises:
      UserError: a density outside its range, or a vocabulary without a mask.

    Source: Song et al. 2019, sections 3.2 and 3.3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = mass(vocab=Vocabulary(size=100, mask_id=2))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 13, 2, 2, 2, 2, 1]
      >>> example.decoder_target_tokens.tolist(), example.decoder_positions.tolist()
      ([14, 15, 16, 17], [4, 5, 6, 7])
    """
    import jax.numpy as jnp

    size, examples = tokens.shape[-1], corruption.examples
    counts = lengths.exact_count_table(size, noise_density)
    number, most = jnp.asarray(counts)[length], int(counts.max())
    spans = corruption.spans.one_span(key, length, number)
    noise = corruption.spans.to_mask(spans, size)
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise, vocab.require_mask())
    place = jnp.arange(most)
    at = jnp.minimum(spans.starts[0], size) + place
    real = place < number
    span = jnp.where(real, jnp.take(tokens, at, mode="clip"), vocab.pad_id)
    before = jnp.where(at > 0, jnp.take(tokens, at - 1, mode="clip"), vocab.start_id)
    reading = examples.encoder_decoder(examples.room(inputs, vocab), length, span, 0, vocab)
    return reading.replace(
        decoder_input_tokens=jnp.where(real, before, vocab.pad_id),
        decoder_target_tokens=span,
        decoder_loss_weights=real.astype(jnp.float32),
        decoder_segment_ids=real.astype(jnp.int32),
        decoder_positions=jnp.where(real, at, 0),
        count=number.astype(jnp.float32),
    )

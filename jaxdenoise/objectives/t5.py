"""The T5 family: encoder-decoder denoising (Raffel et al. 2020, sections 3.1.4 and 3.3).

`corruption` loads JAX when a recipe first runs, not here: configurations are checked before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import lengths
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check_spans(
    noise_density: float,
    mean_noise_span_length: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    lengths.check_spans(noise_density, mean_noise_span_length)
    if raw_length is not None and sentinels is not None:
        spans = lengths.max_spans(raw_length, noise_density, mean_noise_span_length)
        lengths.check_sentinels(spans, sentinels)


def _span_output_lengths(
    key: Key,
    length: AnyArray,
    *,
    vocab: Vocabulary,
    raw_length: int,
    noise_density: float,
    mean_noise_span_length: float,
) -> lengths.Lengths:
    import jax.numpy as jnp

    del key, vocab  # span counts follow from the length alone
    table = lengths.noise_count_table(raw_length, noise_density, mean_noise_span_length)
    noise, spans = jnp.moveaxis(jnp.asarray(table)[length], -1, 0)
    return lengths.Lengths(length - noise + spans + 1, noise + spans + 1)


@objective(check=_check_spans, lengths=_span_output_lengths)
def span_corruption(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> Example:
    """Replaces noise spans by sentinels; the target is each sentinel followed by its span.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <0> me to your party <1> week . </s>
        targets  <0> for inviting <1> last </s>

    A row of fewer than two tokens passes through clean, with weight and count 0.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with as many sentinels as a row may have spans.
      noise_density: share of the tokens that is noise, in (0, 1).
      mean_noise_span_length: tokens in a span on average, at least 1.

    Returns:
      An encoder-decoder `Example`.

    Raises:
      UserError: a value outside its range, or more spans than sentinels.

    Source: Raffel et al. 2020, section 3.1.4, "Replace spans" of table 5.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = span_corruption(vocab=Vocabulary.with_sentinels(size=1000))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 22), 12)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 999, 1]
      >>> example.decoder_target_tokens.tolist()
      [999, 20, 21, 1]
    """
    masks, rewrite = corruption.masks, corruption.rewrite
    size = tokens.shape[-1]
    spans = masks.random_spans(key, size, length, noise_density, mean_noise_span_length)
    longest = lengths.span_lengths(size, noise_density, mean_noise_span_length)
    return rewrite.encoder_decoder_example(
        rewrite.spans_to_sentinels(tokens, spans, vocab, longest.encoder),
        length - spans.noise + spans.used,
        rewrite.spans_after_sentinels(tokens, spans, vocab, longest.decoder),
        spans.noise + spans.used,
        vocab,
    )

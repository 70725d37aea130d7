"""Span corruption whose target is the whole text, beside T5's, whose target is the spans alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.objectives import objective
from jaxdenoise.objectives.t5 import span_corruption

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


@objective(check=span_corruption.check)
def spans_full_target(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    mean_noise_span_length: Rate = 3.0,
    unbiased: bool = False,
) -> Example:
    """Replaces noise spans by sentinels; the target is the whole text.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <0> me to your party <1> week . </s>
        targets  Thank you for inviting me to your party last week . </s>

    The spans are those that `span_corruption` draws from the same key, and so are options and
    errors.

    Source: Xiao and Zhu 2025, "Foundations of Large Language Models", section 1.2.3: denoising
    autoencoding, on the inputs of masked spans.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = spans_full_target(vocab=Vocabulary.with_sentinels(size=1000))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 13, 14, 15, 16, 999, 1]
      >>> example.decoder_target_tokens.tolist()
      [10, 11, 12, 13, 14, 15, 16, 17, 1]
    """
    spans = span_corruption.corrupt(
        key,
        tokens,
        length,
        vocab=vocab,
        noise_density=noise_density,
        mean_noise_span_length=mean_noise_span_length,
        unbiased=unbiased,
    )
    clean = corruption.examples.full_target(tokens, length, tokens, length, vocab)
    return dataclasses.replace(
        clean,
        encoder_input_tokens=spans.encoder_input_tokens,
        encoder_segment_ids=spans.encoder_segment_ids,
    )

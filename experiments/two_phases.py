"""A lone decoder that is a causal language model for some rows and a masked one for the others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, rates
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.objectives import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check(
    masked_share: float,
    evaluation_masked_share: float | None,
    noise_density: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_shares(masked_share=masked_share, noise_density=noise_density)
    if evaluation_masked_share is not None:
        checks.check_shares(evaluation_masked_share=evaluation_masked_share)


@objective(check=_check, needs=("mask",))
def causal_or_masked(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    masked_share: Rate = 0.5,
    evaluation_masked_share: float | None = None,
    noise_density: Rate = 0.4,
) -> Example:
    """Predicts every token from those before it, or masked tokens from all others.

        causal   <pad> Thank you for inviting        Thank you for inviting me
        masked   <pad> Thank <mask> for <mask>             you     inviting

    Position t reads token t − 1 and predicts token t in both, so that the masked language model
    too is read one position earlier. It sees the whole row.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      masked_share: how many rows are masked, in [0, 1]; a schedule makes phases of it.
      evaluation_masked_share: the same for held-out rows; None for no difference.
      noise_density: probability of an ordinary token of these rows to be masked, in [0, 1].

    Returns:
      A decoder's `Example`, with visibility.

    Raises:
      UserError: a value outside its range, or a vocabulary without a mask.

    Source: Gisserot-Boukhlef et al. 2025, sections 2 and 4 (causal, then masked); Charpentier and
    Samuel 2024 (GPT-BERT), section 2 (both at once, shifted so).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = causal_or_masked(vocab=Vocabulary(size=100, mask_id=2), masked_share=1.0)
      >>> example = corrupt(jax.random.key(1), jnp.arange(10, 18), 8)
      >>> example.decoder_input_tokens.tolist()
      [0, 10, 11, 2, 2, 14, 15, 2]
      >>> example.decoder_loss_weights.tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    """
    import jax
    import jax.numpy as jnp

    from jaxdenoise.arrays import Visibility

    which, where = jax.random.split(key)
    size, masks, examples = tokens.shape[-1], corruption.masks, corruption.examples
    masked = jax.random.uniform(which) < rates.value(masked_share)
    noise = masks.iid(where, tokens, length, noise_density, vocab)
    seen = Visibility.prefix(size, jnp.where(masked, size, 0))
    example = examples.decoder(tokens, length, noise | ~masked, vocab, visibility=seen)
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise & masked, vocab.require_mask())
    read = examples.shift_right(inputs, vocab)
    return dataclasses.replace(example, decoder_input_tokens=read)

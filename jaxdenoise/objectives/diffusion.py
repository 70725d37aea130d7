"""Masked diffusion: an encoder denoises a row at a time t, with mask-weighted cross-entropy.

In every recipe `key` is the example's randomness, `tokens` Int[L] a row, `length` Int[] the real
tokens in it, `uniform` the number in [0, 1) that its time is made of, and the result an encoder's
`Example`, whose `count` is the number of ordinary tokens: dividing by the sum of random weights
would be biased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jaxdenoise import corruption
from jaxdenoise.corruption import checks
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check_diffusion(
    form: str,
    epsilon: float,
    schedule: str,
    weighting: str,
    time: str,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del weighting, time, raw_length, sentinels
    checks.check_inside(epsilon=epsilon)
    require(
        form == "mdlm" or schedule == "linear",
        f"objective.schedule is {schedule}; with objective.form {form} it can be linear",
    )


def _never(form: str, **options: object) -> tuple[str, ...]:
    return ("mask",) if form == "mdlm" else ()


@objective(check=_check_diffusion, needs=("mask",), normalisation="count", never_predicted=_never)
def masked_diffusion(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    uniform: AnyArray,
    form: Literal["mdlm", "llada"] = "mdlm",
    epsilon: float = 1e-3,
    schedule: Literal["linear", "cosine"] = "linear",
    weighting: Literal["unbiased", "plain"] = "unbiased",
    time: Literal["uniform", "bell"] = "uniform",
) -> Example:
    """Masks every ordinary token with a probability that is drawn for the row: its time t.

        source   Thank you for inviting me to your party last week .
        t = 0.4  Thank <mask> for inviting <mask> to <mask> party <mask> week .

    Each masked token is predicted, with weight 1/t.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      uniform: Float[] in [0, 1), of the time.
      form: "mdlm", which never predicts the mask, or "llada", which may.
      epsilon: the least time, inside (0, 1).
      schedule: of the probability 1 − α of being masked: t ("linear"), or 1 − cos(πt/2) ("cosine").
        The weight is −α′/(1 − α).
      weighting: "unbiased" bounds the likelihood whatever the times; "plain" weighs all alike.
      time: spread evenly, or a "bell" around a half (logit-normal).

    Returns:
      An encoder's `Example`, its count the number of ordinary tokens.

    Raises:
      UserError: an epsilon outside its range, a schedule that the form does not have, or a
        vocabulary without a mask.

    Source: Sahoo et al. 2024, sections 3.2 and 3.4; Nie et al. 2025, section 2.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = masked_diffusion(vocab=Vocabulary(size=100, mask_id=2))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8, uniform=0.5)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 2, 2, 14, 2, 2, 17]
      >>> example.encoder_loss_weights.round(2).tolist(), float(example.count)
      ([0.0, 0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0], 8.0)
    """
    masks = corruption.masks
    at, density = corruption.times.draw(uniform, epsilon, time)
    chance, weight = corruption.times.noise(at, schedule)
    candidates = masks.maskable(tokens, length, vocab)
    noise = masks.at_random(key, candidates, chance)
    weights = noise * (weight / density if weighting == "unbiased" else 1.0)
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise, vocab.require_mask())
    return corruption.examples.encoder(inputs, tokens, weights, count=candidates.sum())


@objective(needs=("mask",), normalisation="count", never_predicted=("mask",))
def any_order(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, uniform: AnyArray
) -> Example:
    """Masks l of the n ordinary tokens, l from 1 to n equally often; each weighs n / l.

        source  Thank you for inviting me to your party last week .
        l = 4   Thank <mask> for inviting <mask> to <mask> party <mask> week .

    The expected loss is the negative log-likelihood averaged over all orders of the tokens: the
    bound of `masked_diffusion` with less variance.

    Source: Uria et al. 2014, section 4; Ou et al. 2025, section 3; Nie et al. 2025, appendix B.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = any_order(vocab=Vocabulary(size=100, mask_id=2))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8, uniform=0.2)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 13, 14, 2, 2, 17]
      >>> example.encoder_loss_weights.tolist()
      [0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 0.0]
    """
    import jax.numpy as jnp

    candidates = corruption.masks.maskable(tokens, length, vocab)
    total = candidates.sum()
    number = jnp.clip(jnp.floor(uniform * total).astype(jnp.int32) + 1, 0, total)
    noise = corruption.masks.choose(key, candidates, number)
    weights = noise * (total / jnp.maximum(number, 1))
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise, vocab.require_mask())
    return corruption.examples.encoder(inputs, tokens, weights, count=total)


def _check_blocks(
    block_length: int | None,
    epsilon: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_inside(epsilon=epsilon)
    if block_length is not None:
        checks.check_positive(block_length=block_length)


@objective(check=_check_blocks, needs=("mask",), normalisation="count", never_predicted=("mask",))
def block_diffusion(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    uniform: AnyArray,
    block_length: int = 16,
    epsilon: float = 1e-3,
) -> Example:
    """Masked diffusion block after block, each given the clean blocks before it.

        reads  Thank <mask> for | <mask> me <mask> | your party <mask>    noisy copy
               Thank you for    | inviting me to   | your party last      clean copy

    The encoder has both copies, 2L positions: a noisy block sees itself and the clean blocks before
    it, a clean block itself and those. Each block has a time of its own, and the masked tokens of
    the noisy copy weigh 1/t.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      uniform: Float[] in [0, 1), of the first block's time; the others follow, spread evenly.
      block_length: tokens of a block; the last one may be shorter.
      epsilon: the least time, inside (0, 1).

    Returns:
      An encoder's `Example`, with visibility.

    Raises:
      UserError: a value outside its range, or a vocabulary without a mask.

    Source: Arriola et al. 2025 (BD3-LM), sections 3.1 and 3.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = block_diffusion(vocab=Vocabulary(size=100, mask_id=2), block_length=3)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 16), 6, uniform=0.5)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 2, 13, 14, 15, 10, 11, 12, 13, 14, 15]
      >>> example.encoder_loss_weights.round(2).tolist()
      [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    masks = corruption.masks
    at = corruption.times.of_blocks(uniform, epsilon, tokens.shape[-1], block_length)
    candidates = masks.maskable(tokens, length, vocab)
    noise = masks.at_random(key, candidates, at)
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise, vocab.require_mask())
    return corruption.examples.two_copies(
        inputs, tokens, length, noise / at, block_length, candidates.sum()
    )


@objective(check=_check_blocks, normalisation="count")
def canvas(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    uniform: AnyArray,
    block_length: int | None = None,
    epsilon: float = 1e-3,
) -> Example:
    """Puts random ids in place of tokens, with a probability drawn for the row or the block.

        source   Thank you for inviting me to your party last week .
        t = 0.4  Thank apple for inviting run to blue party old week .

    Every ordinary token is predicted, changed or not, and all weigh alike. With `block_length` the
    blocks are denoised one after another, in the layout of `block_diffusion`; None is one block.

    Source: Austin et al. 2021, section 3.1 (uniform transitions); von Rütte et al. 2025.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = canvas(vocab=Vocabulary(size=100))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8, uniform=0.5)
      >>> example.encoder_input_tokens.tolist(), float(example.encoder_loss_weights.sum())
      ([10, 82, 98, 33, 7, 15, 16, 97], 8.0)
    """
    import jax

    where, which = jax.random.split(key)
    masks, size = corruption.masks, tokens.shape[-1]
    at = corruption.times.of_blocks(uniform, epsilon, size, block_length or max(size, 1))
    candidates = masks.maskable(tokens, length, vocab)
    noise = masks.at_random(where, candidates, at)
    inputs = corruption.rewrite.tokens_to_mask(
        tokens, noise, masks.ordinary_ids(which, size, vocab)
    )
    if block_length is None:
        return corruption.examples.encoder(inputs, tokens, candidates, count=candidates.sum())
    return corruption.examples.two_copies(
        inputs, tokens, length, candidates, block_length, candidates.sum()
    )

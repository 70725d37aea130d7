"""The BERT family: an encoder predicts tokens in their places (Devlin et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import lengths
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check_ratios(
    noise_density: float,
    mask_ratio: float,
    random_ratio: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del raw_length, sentinels  # any will do
    require(
        0 < noise_density <= 1,
        f"objective.noise_density is {noise_density}; it must be in (0, 1], such as 0.15",
    )
    require(
        mask_ratio >= 0 and random_ratio >= 0 and mask_ratio + random_ratio <= 1 + 1e-9,
        f"objective.mask_ratio is {mask_ratio} and objective.random_ratio {random_ratio}; neither "
        "can be negative, nor their sum above 1",
    )


@objective(check=_check_ratios)
def masked_lm(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: float = 0.15,
    mask_ratio: float = 0.8,
    random_ratio: float = 0.1,
) -> Example:
    """Masks tokens of an encoder's input, and predicts them in their places.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <mask> inviting me to apple party last week .
        targets            for               your

    Of the noise most becomes the mask, some a random ordinary id, and the rest stays as it is.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      noise_density: share of the ordinary tokens that is noise, in (0, 1]; their number is exact,
        at least 1.
      mask_ratio: share of the noise that becomes the mask.
      random_ratio: share of the noise that becomes a random id.

    Returns:
      An encoder's `Example`, the noise selected.

    Raises:
      UserError: a value outside its range, or a vocabulary without a mask.

    Source: Devlin et al. 2019, section 3.1 and appendix A.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = masked_lm(vocab=Vocabulary(size=100, mask_id=2), mask_ratio=1, random_ratio=0)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 20), 10)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 2, 14, 15, 16, 17, 18, 2]
      >>> example.encoder_selected.tolist()
      [3, 9]
    """
    import jax

    masks, rewrite = corruption.masks, corruption.rewrite
    size = tokens.shape[-1]
    where, how, which = jax.random.split(key, 3)
    noise = masks.exact(where, tokens, length, noise_density, vocab)
    share = jax.random.uniform(how, (size,))
    ids = masks.ordinary_ids(which, size, vocab)
    inputs = rewrite.tokens_to_mask(tokens, noise & (share < mask_ratio + random_ratio), ids)
    inputs = rewrite.tokens_to_mask(inputs, noise & (share < mask_ratio), vocab.require_mask())
    capacity = int(lengths.exact_count_table(size, noise_density).max())
    return rewrite.encoder_example(inputs, tokens, noise, capacity)

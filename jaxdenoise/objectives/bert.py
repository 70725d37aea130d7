"""The BERT family: an encoder predicts tokens in their places (Devlin et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths, rates
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, NoiseMask, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary

GEOMETRIC, LONGEST_SPAN = 0.2, 10  # of SpanBERT's span lengths


def _check(
    noise_density: float,
    mask_replace_prob: float,
    random_replace_prob: float,
    evaluation_noise_density: float | None = None,
    prediction_density: float | None = None,
    count: str = "exact",
    unit: str = "token",
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_some(noise_density=noise_density)
    checks.check_replacement(mask_replace_prob, random_replace_prob)
    for name, share in (
        ("evaluation_noise_density", evaluation_noise_density),
        ("prediction_density", prediction_density),
    ):
        if share is not None:
            checks.check_some(**{name: share})
    require(
        count == "exact" or unit == "token",
        f"objective.count is {count}; with objective.unit {unit} it can be exact",
    )
    require(
        prediction_density is None or (count, unit) == ("exact", "token"),
        f"objective.prediction_density is {prediction_density}; it needs objective.count exact and "
        f"objective.unit token, not {count} and {unit}",
    )


@objective(check=_check, needs=("mask",))
def masked_lm(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    evaluation_noise_density: float | None = None,
    prediction_density: float | None = None,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
    count: Literal["exact", "iid"] = "exact",
    unit: Literal["token", "word", "span"] = "token",
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
      noise_density: share of the ordinary tokens that is noise, in (0, 1].
      evaluation_noise_density: the same for held-out rows; None for no difference.
      prediction_density: share that is predicted; None for all noise. Less than the noise: some of
        it is not predicted. More: some that is predicted is not noise.
      mask_replace_prob: share of the noise that becomes the mask.
      random_replace_prob: share of the noise that becomes a random id.
      count: "exact", max(1, round(n · density)) of n; or "iid", each independently.
      unit: of the noise: "token"; whole "word"; or "span", of geometric lengths (p = .2) up to 10,
        each masked, random or kept as a whole.

    Returns:
      An encoder's `Example`, the predicted positions selected.

    Raises:
      UserError: a value outside its range, units or rates that do not go together, or a vocabulary
        without a mask.

    Source: Devlin et al. 2019, section 3.1 and appendix A.1; Joshi et al. 2020, section 3.1
    (spans); Wettig et al. 2023, section 5 (corruption and prediction rate); Warner et al. 2024
    (30% noise in training, 15% in evaluation).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> vocab = Vocabulary(size=100, mask_id=2)
      >>> corrupt = masked_lm(vocab=vocab, mask_replace_prob=1, random_replace_prob=0)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 20), 10)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 2, 14, 15, 16, 17, 18, 2]
      >>> example.encoder_selected.tolist()
      [3, 9]
    """
    import jax

    masks, size = corruption.masks, tokens.shape[-1]
    where, how, which = jax.random.split(key, 3)
    share = jax.random.uniform(how, (size,))
    if prediction_density is not None:
        candidates = masks.maskable(tokens, length, vocab)
        noise, predicted = _apart(where, candidates, noise_density, prediction_density)
    elif unit == "span":
        noise, number = _spans(where, tokens, length, noise_density, vocab)
        share, predicted = share[number], noise
    else:
        draw = masks.words if unit == "word" else masks.iid if count == "iid" else masks.exact
        predicted = noise = draw(where, tokens, length, noise_density, vocab)
    inputs = corruption.rewrite.replace_tokens(
        tokens,
        noise,
        share,
        masks.ordinary_ids(which, size, vocab),
        vocab.require_mask(),
        mask_replace_prob,
        random_replace_prob,
    )
    most = _most(size, noise_density, prediction_density, count, unit)
    return corruption.examples.encoder(inputs, tokens, predicted, most)


def _check_next(
    noise_density: float,
    mask_replace_prob: float,
    random_replace_prob: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    _check(noise_density, mask_replace_prob, random_replace_prob)


@objective(check=_check_next, needs=("mask",))
def masked_next_token(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
) -> Example:
    """Masked LM read one position earlier: the token before a masked one predicts it.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <mask> inviting me to <mask> party last week .
        targets        for                   your

    So an encoder learns with the output of a language model, and may be trained as one too. The
    first token is never noise. Options and errors as in `masked_lm`.

    Source: Charpentier and Samuel 2024 (GPT-BERT), section 2.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = masked_next_token(vocab=Vocabulary(size=100, mask_id=2), noise_density=0.3)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 2, 14, 15, 16, 2]
      >>> example.encoder_selected.tolist()
      [2, 6]
    """
    import jax
    import jax.numpy as jnp

    masks, size = corruption.masks, tokens.shape[-1]
    where, how, which = jax.random.split(key, 3)
    candidates = masks.maskable(tokens, length, vocab) & (jnp.arange(size) > 0)
    noise = masks.choose(where, candidates, masks.exact_count(candidates, noise_density))
    inputs = corruption.rewrite.replace_tokens(
        tokens,
        noise,
        jax.random.uniform(how, (size,)),
        masks.ordinary_ids(which, size, vocab),
        vocab.require_mask(),
        mask_replace_prob,
        random_replace_prob,
    )
    ahead = jnp.pad(tokens[1:], (0, 1), constant_values=vocab.pad_id)
    ahead = jnp.where(jnp.arange(size) < length - 1, ahead, vocab.pad_id)
    most = _most(size, noise_density)
    return corruption.examples.encoder(inputs, ahead, jnp.pad(noise[1:], (0, 1)), most)


def _spans(
    key: Key, tokens: Tokens, length: Scalar, noise_density: Rate, vocab: Vocabulary
) -> tuple[NoiseMask, AnyArray]:
    """What is ordinary in spans of geometric lengths, and the number of each token's span."""
    import jax.numpy as jnp

    size, chances = tokens.shape[-1], lengths.geometric_cumulative(GEOMETRIC, LONGEST_SPAN)
    counts = rates.table(lambda d: lengths.exact_count_table(size, d), noise_density)
    slots = lengths.budget_slots(_most(size, noise_density), chances)
    budget = jnp.asarray(counts)[length]
    spans = corruption.spans.budget_spans(key, length, budget, chances, slots)
    begun = jnp.zeros(size, jnp.int32).at[spans.starts].add(1, mode="drop")
    inside = corruption.spans.to_mask(spans, size)
    ordinary = corruption.masks.maskable(tokens, length, vocab)
    return inside & ordinary, jnp.maximum(corruption.sums.running(begun) - 1, 0)


def _apart(
    key: Key, candidates: NoiseMask, noise_density: Rate, prediction_density: float
) -> tuple[NoiseMask, NoiseMask]:
    """The noise, and what is predicted: the smaller of the two is part of the larger."""
    import jax
    import jax.numpy as jnp

    masks = corruption.masks
    noise, predicted = (
        masks.exact_count(candidates, d) for d in (noise_density, prediction_density)
    )
    first, second = jax.random.split(key)
    outer = masks.choose(first, candidates, jnp.maximum(noise, predicted))
    inner = masks.choose(second, outer, jnp.minimum(noise, predicted))
    more = noise > predicted
    return jnp.where(more, outer, inner), jnp.where(more, inner, outer)


def _most(
    size: int,
    noise_density: Rate,
    prediction_density: float | None = None,
    count: str = "exact",
    unit: str = "token",
) -> int:
    """The most positions that are predicted in a row: all but surely, where they are drawn."""
    if prediction_density is not None:
        return int(lengths.exact_count_table(size, prediction_density).max())
    densities = [d for (d,) in rates.combinations(noise_density)]
    if count == "iid":
        return max(lengths.iid_slots(size, density) for density in densities)
    if unit == "word":
        return size  # a word may be longer than the budget
    return max(int(lengths.exact_count_table(size, density).max()) for density in densities)

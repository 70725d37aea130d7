"""Noise in the characters: a text with typing errors in, the clean text out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths, rates
from jaxdenoise.corruption.lengths import Lengths
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check(
    noise_density: float,
    edits: tuple[float, ...],
    growth: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_shares(noise_density=noise_density)
    require(
        len(edits) == 4 and min(edits) >= 0 and 0 < sum(edits) < math.inf,
        f"objective.edits is {edits}; it is how often to insert, delete, substitute and transpose "
        "against the others: four numbers, none negative and one above 0, such as (1, 1, 1, 1)",
    )
    require(
        0 <= growth < math.inf,
        f"objective.growth is {growth}; it is a share of the row, 0 or above, finite",
    )


def _longest(
    key: Key, length: AnyArray, raw_length: int, growth: float, **options: object
) -> Lengths:
    import jax.numpy as jnp

    more = jnp.asarray(lengths.budget_table(raw_length, growth))[length]
    return Lengths(length + more + 1, length + 1)


@objective(check=_check, needs=("spellings",), longest=_longest)
def character_noise(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.03,
    edits: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    growth: float = 1.0,
) -> Example:
    """Inserts, deletes, substitutes and transposes characters; the target is the clean text.

        source   Thank you for inviting me to your party last week .
        inputs   Thank y u o for inviting me to y o r u party last week . </s>
        targets  Thank you for inviting me to your party last week . </s>

    A token with an edit is written in its characters, all others are kept. A new character is any
    of the row's own, so that they are of its language; a transposition changes places with the
    next character of the same token. Tokens that no single characters spell are never corrupted.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with spellings.
      noise_density: the share of the characters with an edit, in [0, 1].
      edits: how often to insert, delete, substitute and transpose, against the others.
      growth: the inputs have room for ceil(length · growth) tokens more than the row; of edits for
        which it is not enough, those of tokens in random order are dropped, never any text.

    Returns:
      An encoder-decoder `Example`; `output_lengths` gives the most that its inputs can have.

    Raises:
      UserError: a value outside its range, or a vocabulary without spellings.

    Source: edits as in Pruthi et al. 2019, there with neighbours on the keyboard for substitution;
    characters of the input as in the synthetic noise of Xue et al. 2022 (ByT5).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> texts = ["", "</s>", *" acehmnrty", " the", " cat", " came", " near", " my", " hat"]
      >>> spellings = tuple(tuple(map(texts.index, t)) for t in texts[2:])
      >>> vocab = Vocabulary(size=len(texts), spellings=((), (), *spellings))
      >>> corrupt = character_noise(vocab=vocab, noise_density=0.1)
      >>> example = corrupt(jax.random.key(1), jnp.arange(12, 18), 6)
      >>> "".join(texts[token] for token in example.encoder_input_tokens)
      ' the cat cam near my hay</s>'
    """
    import jax
    import jax.numpy as jnp

    characters, size = corruption.characters, tokens.shape[-1]
    where, order, which = jax.random.split(key, 3)
    budgets = lengths.budget_table(size, growth)
    spelled = characters.spell(tokens, length, vocab)
    happens = characters.random_edits(where, spelled, rates.value(noise_density), edits)
    happens = characters.fit(order, spelled, happens, length, jnp.asarray(budgets)[length])
    drawn = characters.random_characters(which, spelled, size + int(budgets[-1]))
    inputs, inputs_length = characters.write(tokens, length, spelled, happens, drawn)
    return corruption.examples.full_target(inputs, inputs_length, tokens, length, vocab)

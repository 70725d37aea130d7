"""Language models: a lone decoder predicts a row, or the rest of it, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths
from jaxdenoise.corruption.lengths import Lengths
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import Objective, objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


@objective
def causal_lm(key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary) -> Example:
    """Predicts every token from those before it.

        inputs   <pad> Thank you for inviting
        targets  Thank you for inviting me

    Args:
      key: not used.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: for what the decoder starts with.

    Returns:
      A decoder's `Example`, causal.

    Source: Radford et al. 2018, section 3.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> example = causal_lm(vocab=Vocabulary(size=100))(jax.random.key(0), jnp.arange(10, 14), 3)
      >>> example.decoder_input_tokens.tolist(), example.decoder_loss_weights.tolist()
      ([0, 10, 11, 12], [1.0, 1.0, 1.0, 0.0])
    """
    import jax.numpy as jnp

    del key
    everything = jnp.ones(tokens.shape[-1], bool)
    return corruption.examples.decoder(tokens, length, everything, vocab)


def _check_output(
    longest_output: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    del sentinels
    checks.check_some(longest_output=longest_output)
    checks.check_row(raw_length, 2, "a prefix and an output have a token each")


@objective(check=_check_output)
def causal_prefix_lm(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    longest_output: float = 1.0,
) -> Example:
    """Predicts the end of a row; its beginning, the prefix, sees all of itself.

        inputs   <pad> Thank you for inviting me to
        targets                      me to your

    The output has 1 token up to `longest_output` of the row, every number equally likely. A row of
    fewer than two tokens has weight 0.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: for what the decoder starts with.
      longest_output: as a share of the row, in (0, 1]; 1 is T5's uniform split, a half UL2's
        S-denoiser of mean .25.

    Returns:
      A decoder's `Example`, bidirectional on the prefix, the output selected.

    Raises:
      UserError: a share outside its range.

    Source: Raffel et al. 2020, section 3.2.1 ("prefix LM") and figure 4; Tay et al. 2022, section
    3.1.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = causal_prefix_lm(vocab=Vocabulary(size=100), longest_output=0.5)
      >>> example = corrupt(jax.random.key(1), jnp.arange(10, 18), 8)
      >>> example.decoder_loss_weights.tolist()
      [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
      >>> example.decoder_selected.tolist()  # room for 4
      [7, 8, 8, 8]
    """
    import jax.numpy as jnp

    from jaxdenoise.arrays import Visibility

    size = tokens.shape[-1]
    output = corruption.reorder.output_length(key, size, length, longest_output)
    prefix = length - output
    return corruption.examples.decoder(
        tokens,
        length,
        jnp.arange(size) >= prefix,
        vocab,
        # The position that predicts the first output reads the last token of the prefix.
        visibility=Visibility.prefix(size, prefix + 1),
        capacity=int(lengths.noise_count_table(size, longest_output, 1.0)[:, 0].max()),
    )


def _check_fim(
    fim_rate: float, spm_rate: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_shares(fim_rate=fim_rate, spm_rate=spm_rate)


@objective(check=_check_fim, needs=("fim_prefix", "fim_middle", "fim_suffix"))
def fill_in_the_middle(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    fim_rate: float = 0.5,
    spm_rate: float = 0.5,
) -> Example:
    """Predicts a row whose middle has been moved to its end; the rest of the rows as they are.

        source  Thank you for inviting me to your party last week .
        PSM     <pre> Thank you <suf> last week . <mid> for inviting me to your party </s>
        SPM     <pre> <suf> last week . <mid> Thank you for inviting me to your party </s>

    Every token is predicted but the three marks. The two cuts may be anywhere, at one place too.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with the marks `fim_prefix`, `fim_middle` and `fim_suffix`.
      fim_rate: share of the rows that are moved, in [0, 1].
      spm_rate: share of these whose suffix comes first, in [0, 1].

    Returns:
      A decoder's `Example`, causal, of L + 4 positions.

    Raises:
      UserError: a rate outside its range, or a vocabulary without a mark.

    Source: Bavarian et al. 2022, sections 3 and 3.1 (SPM variant 2), at the level of tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> marks = (("fim_prefix", 90), ("fim_middle", 91), ("fim_suffix", 92))
      >>> corrupt = fill_in_the_middle(vocab=Vocabulary(size=100, named_ids=marks), fim_rate=1.0)
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).decoder_target_tokens.tolist()
      [90, 92, 14, 15, 16, 17, 91, 10, 11, 12, 13, 1]
    """
    import jax
    import jax.numpy as jnp

    size, reorder = tokens.shape[-1], corruption.reorder
    whether, order, cutting = jax.random.split(key, 3)
    moved, suffix_first = reorder.happens(whether, fim_rate), reorder.happens(order, spm_rate)
    cuts = reorder.random_cuts(cutting, length)
    text = corruption.examples.room(tokens, vocab, 4)
    text = corruption.examples.end(text, length, vocab)
    row = jnp.where(
        moved, reorder.fill_in_the_middle(tokens, length, cuts, suffix_first, vocab), text
    )
    real = jnp.where(moved, length + 4, length + 1)
    place = jnp.arange(size + 4)
    row = jnp.where(place < real, row, vocab.pad_id)
    marks = jnp.array([vocab.named(f"fim_{part}") for part in ("prefix", "middle", "suffix")])
    predicted = ~jnp.isin(row, marks) & (jnp.asarray(length) > 0)
    return corruption.examples.decoder(row, real, predicted, vocab)


def _check_target(
    longest_target: int | None, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    del sentinels
    require(
        longest_target is None or longest_target >= 1,
        f"objective.longest_target is {longest_target}; it must be at least 1",
    )
    checks.check_row(raw_length, 3, "a source, a separator and a target have a token each")


def _require_separator(objective: Objective) -> None:
    require(
        objective.vocab.separator_id is not None,
        "the vocabulary has no separator, which parts source and target; add <doc> to the "
        "tokenizer",
    )


def _longest_target(
    key: Key, length: AnyArray, raw_length: int, *, longest_target: int | None
) -> Lengths:
    import jax.numpy as jnp

    del key
    length = jnp.asarray(length)
    most = raw_length if longest_target is None else longest_target
    return Lengths(length + 1, jnp.minimum(length, most) + 1)


@objective(check=_check_target, built=_require_separator, longest=_longest_target, pairs="only")
def text_to_text(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    longest_target: int | None = None,
) -> Example:
    """The encoder reads the source of a pair, the decoder writes its target.

        row      square 2 . <sep> The result is 4 .
        inputs   square 2 . </s>
        targets  The result is 4 . </s>

    Args:
      key: not used.
      tokens: Int[L]: source, separator, target, with or without EOS. A row without a separator is
        all source, with nothing to predict.
      length: Int[], real tokens in the row.
      vocab: with a separator.
      longest_target: tokens that a target may have before its EOS, the rest is cut; None for L.

    Returns:
      An encoder-decoder `Example`.

    Raises:
      UserError: no room for a target, or a vocabulary without a separator.

    Source: Raffel et al. 2020, section 2.4.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = text_to_text(vocab=Vocabulary(size=10, separator_id=9), longest_target=3)
      >>> example = corrupt(jax.random.key(0), jnp.array([5, 6, 9, 7, 8, 1, 0]), 6)
      >>> example.encoder_input_tokens.tolist(), example.decoder_target_tokens.tolist()
      ([5, 6, 1, 0, 0, 0, 0, 0], [7, 8, 1, 0])
    """
    import jax.numpy as jnp

    del key
    size = tokens.shape[-1]
    most = size if longest_target is None else min(longest_target, size)
    place = jnp.arange(size)
    parted = (tokens == vocab.separator_id) & (place < length)
    border = jnp.where(parted.any(), jnp.argmax(parted), length)
    target = jnp.roll(tokens, -(border + 1))
    ended = (target == vocab.eos_id) & (border + 1 + place < length)
    written = jnp.where(ended.any(), jnp.argmax(ended), jnp.maximum(length - border - 1, 0))
    return corruption.examples.encoder_decoder(
        corruption.examples.room(tokens, vocab),
        border,
        corruption.examples.room(target[:most], vocab),
        jnp.minimum(written, most),
        vocab,
    )


def _check_context(
    context_length: int | None,
    bidirectional_context: bool,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del bidirectional_context, sentinels
    if context_length is not None:
        require(
            context_length >= 0,
            f"objective.context_length is {context_length}; it cannot be negative",
        )
        why = f"objective.context_length is {context_length}, and an output has a token"
        checks.check_row(raw_length, context_length + 1, why)


@objective(check=_check_context, pairs="also")
def subsequence(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    context_length: int | None = None,
    bidirectional_context: bool = False,
) -> Example:
    """A row is a context and an output; only the output is predicted.

        inputs   <pad> square this number . 2 . <sep> The result is
        targets                                   The result is 4 .

    Args:
      key: not used.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a separator, unless `context_length` is given.
      context_length: tokens of the context; None for all up to the first separator, with it. A
        row without one is all output.
      bidirectional_context: the context sees all of itself.

    Returns:
      A decoder's `Example`.

    Raises:
      UserError: a context that leaves no output.

    Source: Xiao and Zhu 2025, "Foundations of Large Language Models", section 1.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> words = "What do puppies do ? They play .".split()
      >>> corrupt = subsequence(vocab=Vocabulary(size=10, pad_id=8, eos_id=9), context_length=5)
      >>> example = corrupt(jax.random.key(0), jnp.arange(8), 8)
      >>> [word for word, weight in zip(words, example.decoder_loss_weights) if weight]
      ['They', 'play', '.']
    """
    import jax.numpy as jnp

    from jaxdenoise.arrays import Visibility

    del key
    place = jnp.arange(tokens.shape[-1])
    if context_length is None:
        parted = (tokens == (-1 if vocab.separator_id is None else vocab.separator_id)) & (
            place < length
        )
        context = jnp.where(parted.any(), jnp.argmax(parted) + 1, 0)
    else:
        context = jnp.minimum(context_length, length)
    seen = Visibility.prefix(len(place), context + 1) if bidirectional_context else None
    return corruption.examples.decoder(tokens, length, place >= context, vocab, visibility=seen)

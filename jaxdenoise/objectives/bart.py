"""The BART family: a corrupted text in, the whole clean text out (Lewis et al. 2020, section 2.2).

In every recipe `key` is the example's randomness, `tokens` Int[L] a row, `length` Int[] the real
tokens in it, and the result an encoder-decoder `Example` whose target is the clean text and EOS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary

Replace = Literal[1, 0, -1]
"""What becomes of a span in text infilling: one mask, nothing, or a mask for every token."""


def _check_shares(
    raw_length: int | None = None, sentinels: int | None = None, **shares: float
) -> None:
    del raw_length, sentinels  # any will do
    checks.check_shares(**shares)


def _check_infilling(
    poisson_lambda: float,
    replace_length: int,
    raw_length: int | None = None,
    sentinels: int | None = None,
    **shares: float,
) -> None:
    del raw_length, sentinels
    checks.check_shares(**shares)
    checks.check_positive(poisson_lambda=poisson_lambda)
    checks.check_replace_length(replace_length)


@objective(check=_check_shares, needs=("mask",))
def token_masking(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    mask_ratio: float = 0.15,
    random_ratio: float = 0.0,
) -> Example:
    """Masks ceil(n · mask_ratio) of the n ordinary tokens.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <mask> inviting me to your <mask> last week . </s>

    A share of the masks, `random_ratio`, is a random id instead. Both are in [0, 1].

    Source: Lewis et al. 2020, section 2.2 ("token masking"); fairseq/data/denoising_dataset.py.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = token_masking(vocab=Vocabulary(size=100, mask_id=2), mask_ratio=0.3)
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 2, 12, 2, 14, 15, 16, 2, 1]
    """
    import jax

    masks, size = corruption.masks, tokens.shape[-1]
    which, how = jax.random.split(key)
    candidates = masks.maskable(tokens, length, vocab)
    noise = masks.choose(which, candidates, _budget(candidates.sum(), size, mask_ratio))
    inputs = corruption.rewrite.tokens_to_mask(
        tokens, noise, _masks(how, size, random_ratio, vocab)
    )
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


def _longest_kept(
    key: Key, length: AnyArray, raw_length: int, mask_ratio: float
) -> lengths.Lengths:
    """With one special token in the row, which is never deleted: what ends a document."""
    import jax.numpy as jnp

    kept = length - jnp.asarray(lengths.budget_table(raw_length, mask_ratio))[length]
    return lengths.Lengths(jnp.maximum(kept, length > 0) + 1, length + 1)


@objective(check=_check_shares, longest=_longest_kept)
def token_deletion(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, mask_ratio: float = 0.15
) -> Example:
    """Deletes tokens; the model has to find out where.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you inviting me to your last week . </s>

    ceil(length · mask_ratio) of the ordinary tokens are deleted, or all if there are fewer.

    Source: Lewis et al. 2020, section 2.2 ("token deletion").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = token_deletion(vocab=Vocabulary(size=100), mask_ratio=0.3)
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 11, 13, 14, 17, 1, 0, 0, 0]
    """
    import jax.numpy as jnp

    size = tokens.shape[-1]
    candidates = corruption.masks.maskable(tokens, length, vocab)
    noise = corruption.masks.choose(key, candidates, _budget(length, size, mask_ratio))
    kept = ~noise & (jnp.arange(size) < length)
    inputs = corruption.rewrite.keep_tokens(tokens, kept, size)
    return corruption.examples.full_target(inputs, kept.sum(), tokens, length, vocab)


@objective(check=_check_infilling, needs=("mask",))
def text_infilling(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: Replace = 1,
    random_ratio: float = 0.0,
) -> Example:
    """Replaces spans of Poisson lengths by one mask each; spans of length 0 insert one.

        source   Thank you for inviting me to your party last week .
        inputs   Thank <mask> me to your <mask> party last <mask> </s>

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      mask_ratio: ceil(length · mask_ratio) tokens are in spans; in [0, 1].
      poisson_lambda: mean length of a span; the last one is cut to the budget.
      replace_length: a span becomes 1 mask, nothing (0), or a mask for each token (-1).
      random_ratio: share of the masks that is a random id instead.

    Returns:
      An encoder-decoder `Example`. Its inputs have room for as many spans as all but one row in a
      billion has; then the last one takes what is left of the budget.

    Raises:
      UserError: a value outside its range, or a vocabulary without a mask.

    Source: Lewis et al. 2020, section 2.2 ("text infilling").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = text_infilling(vocab=Vocabulary(size=100, mask_id=2))
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 2, 13, 2, 15, 16, 17, 1, 0, 0, 0, 0, 0, 0, 0]
    """
    inputs, inputs_length = _infill(
        key, tokens, length, vocab, mask_ratio, poisson_lambda, replace_length, random_ratio
    )
    return corruption.examples.full_target(inputs, inputs_length, tokens, length, vocab)


@objective(check=_check_shares, needs=("sentence_ends",))
def sentence_permutation(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    permute_sentence_ratio: float = 1.0,
) -> Example:
    """Shuffles sentences, each kept whole: ceil(s · ratio) of s change places.

        source   Thank you . It was fun . See you
        inputs   It was fun . See you Thank you . </s>

    Source: Lewis et al. 2020, section 2.2 ("sentence permutation").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = sentence_permutation(vocab=Vocabulary(size=100, sentence_end_ids=(9,)))
      >>> tokens = jnp.array([10, 11, 9, 20, 9, 30, 31, 32])
      >>> corrupt(jax.random.key(2), tokens, 8).encoder_input_tokens.tolist()
      [30, 31, 32, 20, 9, 10, 11, 9, 1]
    """
    inputs = _permute(key, tokens, length, vocab, permute_sentence_ratio)
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


@objective(check=_check_shares)
def document_rotation(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, rotate_ratio: float = 1.0
) -> Example:
    """Begins the text at another token, any but the first, and goes on around its end.

        source   Thank you for inviting me to your party last week .
        inputs   your party last week . Thank you for inviting me to </s>

    `rotate_ratio` is the share of the rows that are rotated.

    Source: Lewis et al. 2020, section 2.2 ("document rotation").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = document_rotation(vocab=Vocabulary(size=100))
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [16, 17, 10, 11, 12, 13, 14, 15, 1]
    """
    offset = corruption.reorder.random_offset(key, length, rotate_ratio)
    inputs = corruption.reorder.rotate(tokens, length, offset)
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


@objective(check=_check_shares, needs=("mask",))
def token_insertion(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    insert_ratio: float = 0.1,
    random_ratio: float = 0.0,
) -> Example:
    """Inserts ceil(length · insert_ratio) masks anywhere; a share `random_ratio` are random ids.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you for <mask> inviting me to your party last <mask> week . </s>

    Source: fairseq/data/denoising_dataset.py, add_insertion_noise.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = token_insertion(vocab=Vocabulary(size=100, mask_id=2), insert_ratio=0.3)
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 11, 12, 2, 13, 14, 15, 16, 17, 2, 2, 1]
    """
    inputs, inputs_length = _insert(key, tokens, length, vocab, insert_ratio, random_ratio)
    return corruption.examples.full_target(inputs, inputs_length, tokens, length, vocab)


def _needs(permute_sentence_ratio: float, **options: float) -> tuple[str, ...]:
    return ("mask", "sentence_ends") if permute_sentence_ratio else ("mask",)


@objective(check=_check_infilling, needs=_needs)
def bart(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: Replace = 1,
    random_ratio: float = 0.0,
    permute_sentence_ratio: float = 1.0,
    insert_ratio: float = 0.0,
    rotate_ratio: float = 0.0,
) -> Example:
    """BART: shuffles the sentences, then infills; insertion and rotation where they are asked for.

        source   Thank you . It was fun . See you
        inputs   It <mask> fun . See you <mask> you . </s>

    Each step works on what the last one left. Options and errors as in `sentence_permutation`,
    `text_infilling`, `token_insertion` and `document_rotation`.

    Source: Lewis et al. 2020, section 3; fairseq/data/denoising_dataset.py, which edits its source
    in place and rotates half of the rows unless told not to.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = bart(vocab=Vocabulary(size=100, mask_id=2, sentence_end_ids=(9,)))
      >>> tokens = jnp.array([10, 11, 9, 20, 9, 30, 31, 32])
      >>> corrupt(jax.random.key(2), tokens, 8).encoder_input_tokens.tolist()
      [2, 30, 31, 32, 2, 11, 9, 1, 0, 0, 0, 0, 0, 0, 0]
    """
    import jax

    permuting, infilling, inserting, rotating = jax.random.split(key, 4)
    inputs, now = tokens, length
    if permute_sentence_ratio:
        inputs = _permute(permuting, inputs, now, vocab, permute_sentence_ratio)
    if mask_ratio:
        how = poisson_lambda, replace_length, random_ratio
        inputs, now = _infill(infilling, inputs, now, vocab, mask_ratio, *how)
    if insert_ratio:
        inputs, now = _insert(inserting, inputs, now, vocab, insert_ratio, random_ratio)
    if rotate_ratio:
        offset = corruption.reorder.random_offset(rotating, now, rotate_ratio)
        inputs = corruption.reorder.rotate(inputs, now, offset)
    return corruption.examples.full_target(inputs, now, tokens, length, vocab)


def _budget(number: Scalar, size: int, ratio: float) -> AnyArray:
    import jax.numpy as jnp

    return jnp.asarray(lengths.budget_table(size, ratio))[number]


def _masks(key: Key, size: int, random_ratio: float, vocab: Vocabulary) -> AnyArray:
    """What is written in place of noise: the mask, or a share of random ids."""
    import jax
    import jax.numpy as jnp

    if not random_ratio:
        return jnp.full(size, vocab.require_mask())
    whether, which = jax.random.split(key)
    ids = corruption.masks.ordinary_ids(which, size, vocab)
    return jnp.where(jax.random.uniform(whether, (size,)) < random_ratio, ids, vocab.require_mask())


def _permute(key: Key, tokens: Tokens, length: Scalar, vocab: Vocabulary, ratio: float) -> Tokens:
    reorder = corruption.reorder
    pieces = reorder.sentences(tokens, length, vocab)
    counts = lengths.budget_table(pieces.starts.shape[-1], ratio)
    return reorder.permute(tokens, pieces, reorder.random_piece_order(key, pieces, counts))


def _infill(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    vocab: Vocabulary,
    mask_ratio: float,
    poisson_lambda: float,
    replace_length: int,
    random_ratio: float,
) -> tuple[AnyArray, AnyArray]:
    """The corrupted tokens and how many they are; room for the longest."""
    import jax
    import jax.numpy as jnp

    where, how = jax.random.split(key)
    size = tokens.shape[-1]
    slots = lengths.infilling_slots(size, mask_ratio, poisson_lambda)
    chances = lengths.poisson_cumulative(poisson_lambda)
    budget = _budget(length, size, mask_ratio)
    spans = corruption.spans.budget_spans(where, length, budget, chances, slots)
    most = int(lengths.budget_table(size, mask_ratio)[-1])  # tokens in spans
    if replace_length == 1:
        ids = _masks(how, slots, random_ratio, vocab)
        inputs = corruption.rewrite.spans_to_mask(tokens, spans, ids, size - most + slots)
        return inputs, length - spans.noise + spans.used
    # Nothing or a mask for every token, but a mask where the span is empty.
    tokenwise = replace_length == -1
    written = jnp.maximum(spans.lengths, 1) if tokenwise else spans.lengths == 0
    kept = size if tokenwise else size - most
    written = jnp.where(jnp.arange(slots) < spans.used, written, 0)
    ids = _masks(how, slots + most, random_ratio, vocab)
    inputs = corruption.rewrite.spans_to_ids(tokens, length, spans, written, ids, kept + slots)
    return inputs, length - spans.noise + written.sum()


def _insert(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    vocab: Vocabulary,
    insert_ratio: float,
    random_ratio: float,
) -> tuple[AnyArray, AnyArray]:
    """The tokens with others between them, and how many they are; room for the longest."""
    import jax
    import jax.numpy as jnp

    where, how = jax.random.split(key)
    room = tokens.shape[-1]
    counts = lengths.budget_table(room, insert_ratio)
    more = jnp.asarray(counts)[length]
    longest = room + int(counts[-1])
    inserted = corruption.masks.choose(where, jnp.arange(longest) < length + more, more)
    ids = _masks(how, longest, random_ratio, vocab)
    return corruption.rewrite.insert_tokens(tokens, inserted, ids), length + more

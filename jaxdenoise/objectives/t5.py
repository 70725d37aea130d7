"""The T5 family: encoder-decoder denoising (Raffel et al. 2020, sections 3.1.4 and 3.3).

`corruption` loads JAX when a recipe first runs, not here: configurations are checked before.

In every recipe `key` is the example's randomness, `tokens` Int[L] a row, `length` Int[] the real
tokens in it, and the result an encoder-decoder `Example`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import checks, lengths, rates
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, NoiseSpans, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


def _check_spans(
    noise_density: float,
    mean_noise_span_length: float,
    unbiased: bool = False,
    trailing_sentinel: bool = False,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    checks.check_spans(noise_density, mean_noise_span_length)
    checks.check_row(raw_length, 2, "one token is noise and one is not")
    if raw_length is not None and sentinels is not None:
        spans = lengths.max_spans(raw_length, noise_density, mean_noise_span_length)
        checks.check_sentinels(spans + unbiased + trailing_sentinel, sentinels)


@objective(check=_check_spans)
def span_corruption(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    mean_noise_span_length: Rate = 3.0,
    unbiased: bool = False,
    trailing_sentinel: bool = False,
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
      unbiased: rotate the mask, so that every token is noise equally often. T5's own never
        begins with noise and always ends with it.
      trailing_sentinel: one more sentinel behind the last span, as in T5's paper but not its code.

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
    import jax

    size, chosen = tokens.shape[-1], (noise_density, mean_noise_span_length)
    where, turn = jax.random.split(key) if unbiased else (key, key)
    spans = corruption.spans.random_spans(where, size, length, *chosen)
    if unbiased:
        spans = corruption.spans.rotate(spans, length, corruption.reorder.any_place(turn, length))
    longest = lengths.span_lengths(size, *chosen)
    sizes = lengths.Lengths(longest.encoder + unbiased, longest.decoder + unbiased)
    return _replace_spans(tokens, length, spans, vocab, sizes, trailing_sentinel)


def _replace_spans(
    tokens: Tokens,
    length: Scalar,
    spans: NoiseSpans,
    vocab: Vocabulary,
    sizes: lengths.Lengths,
    trailing_sentinel: bool = False,
) -> Example:
    """T5's inputs and targets of these spans; none is weighed where there are none."""
    import jax.numpy as jnp

    rewrite = corruption.rewrite
    written = spans.append(length) if trailing_sentinel else spans
    targets_length = jnp.where(spans.used > 0, spans.noise + written.used, 0)
    return corruption.examples.encoder_decoder(
        rewrite.spans_to_sentinels(tokens, spans, vocab, sizes.encoder),
        length - spans.noise + spans.used,
        rewrite.spans_after_sentinels(tokens, written, vocab, sizes.decoder + trailing_sentinel),
        targets_length,
        vocab,
    )


def _check_dropped(
    noise_density: float,
    mean_noise_span_length: float,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    del sentinels  # any will do
    checks.check_spans(noise_density, mean_noise_span_length)
    checks.check_row(raw_length, 2, "one token is noise and one is not")


@objective(check=_check_dropped)
def drop_spans(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    mean_noise_span_length: Rate = 3.0,
) -> Example:
    """Deletes noise spans; the target is the deleted tokens, joined.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you me to your party week . </s>
        targets  for inviting last </s>

    Spans, options and errors as in `span_corruption`, whose sentinels it does without.

    Source: Raffel et al. 2020, section 3.3.2, "Drop corrupted tokens" of table 5.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = drop_spans(vocab=Vocabulary(size=1000))
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 22), 12)
      >>> example.encoder_input_tokens.tolist(), example.decoder_target_tokens.tolist()
      ([10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 1], [20, 21, 1])
    """
    size, chosen = tokens.shape[-1], (noise_density, mean_noise_span_length)
    spans = corruption.spans.random_spans(key, size, length, *chosen)
    most = lengths.most_noise(size, *chosen)
    return corruption.examples.encoder_decoder(
        corruption.rewrite.drop_spans(tokens, spans, most.encoder),
        length - spans.noise,
        corruption.rewrite.keep_spans(tokens, spans, most.decoder),
        spans.noise,
        vocab,
    )


def _check_iid_spans(
    noise_density: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    checks.check_inside(noise_density=noise_density)
    if raw_length is not None and sentinels is not None:
        checks.check_sentinels(lengths.iid_run_slots(raw_length, noise_density), sentinels)


@objective(check=_check_iid_spans)
def iid_denoising(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, noise_density: Rate = 0.15
) -> Example:
    """Makes every token noise independently; each run of noise becomes a sentinel.

        source   Thank you for inviting me to your party last week .
        inputs   Thank <0> for inviting me to <1> party <2> . </s>
        targets  <0> you <1> your <2> last week </s>

    A row that draws no noise has weight 0. Beyond as many runs as one row in a billion has, and
    the sentinels reach for, nothing is noise.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with as many sentinels as a row may have runs.
      noise_density: probability of being noise, in (0, 1).

    Returns:
      An encoder-decoder `Example`.

    Raises:
      UserError: a density outside its range, or more runs than sentinels.

    Source: Raffel et al. 2020, section 3.3.4, "Baseline (i.i.d.)" of table 7.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = iid_denoising(vocab=Vocabulary.with_sentinels(size=1000), noise_density=0.5)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 999, 12, 998, 14, 15, 997, 17, 1]
      >>> example.decoder_target_tokens.tolist()
      [999, 11, 998, 13, 997, 16, 1, 0, 0, 0, 0, 0, 0]
    """
    size = tokens.shape[-1]
    slots = max(lengths.iid_run_slots(size, d) for (d,) in rates.combinations(noise_density))
    spans = corruption.spans.iid_spans(key, size, length, noise_density, slots)
    return _replace_spans(tokens, length, spans, vocab, lengths.Lengths(size + 1, size + slots + 1))


def _check_bert_style(
    noise_density: float,
    mask_replace_prob: float = 1.0,
    random_replace_prob: float = 0.0,
    raw_length: int | None = None,
    sentinels: int | None = None,
) -> None:
    checks.check_shares(noise_density=noise_density)
    checks.check_replacement(mask_replace_prob, random_replace_prob)


@objective(check=_check_bert_style, needs=("mask",))
def bert_style(
    key: Key,
    tokens: Tokens,
    length: Scalar,
    *,
    vocab: Vocabulary,
    noise_density: Rate = 0.15,
    mask_replace_prob: float = 0.9,
    random_replace_prob: float = 0.1,
) -> Example:
    """Masks tokens of the inputs, or puts random ones in their place; the target is the whole text.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you <mask> <mask> me to your party apple week . </s>
        targets  Thank you for inviting me to your party last week . </s>

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: with a mask token.
      noise_density: probability of an ordinary token to be noise, in [0, 1].
      mask_replace_prob: share of the noise that becomes the mask.
      random_replace_prob: share of the noise that becomes a random id.

    Returns:
      An encoder-decoder `Example`.

    Raises:
      UserError: a value outside its range, or a vocabulary without a mask.

    Source: Raffel et al. 2020, section 3.3.1, "BERT-style" of tables 4 and 5.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = bert_style(vocab=Vocabulary(size=1000, mask_id=2), noise_density=0.5)
      >>> example = corrupt(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 2, 2, 2, 2, 15, 16, 2, 1]
      >>> example.decoder_target_tokens.tolist()
      [10, 11, 12, 13, 14, 15, 16, 17, 1]
    """
    import jax

    masks, size = corruption.masks, tokens.shape[-1]
    where, how, which = jax.random.split(key, 3)
    inputs = corruption.rewrite.replace_tokens(
        tokens,
        masks.iid(where, tokens, length, noise_density, vocab),
        jax.random.uniform(how, (size,)),
        masks.ordinary_ids(which, size, vocab),
        vocab.require_mask(),
        mask_replace_prob,
        random_replace_prob,
    )
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


@objective(check=_check_bert_style, needs=("mask",))
def mass_style(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, noise_density: Rate = 0.15
) -> Example:
    """Masks tokens of the inputs; the target is the whole text: `bert_style` without random ids.

    Source: Raffel et al. 2020, section 3.3.2, "MASS-style" of table 5. MASS itself is `mass`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = mass_style(vocab=Vocabulary(size=1000, mask_id=2), noise_density=0.5)
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 11, 2, 2, 14, 2, 2, 17, 1]
    """
    noise = corruption.masks.iid(key, tokens, length, noise_density, vocab)
    inputs = corruption.rewrite.tokens_to_mask(tokens, noise, vocab.require_mask())
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


@objective(check=_check_bert_style)
def deshuffling(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, noise_density: Rate = 1.0
) -> Example:
    """Shuffles the tokens of the inputs; the target is the whole text in its order.

        source   Thank you for inviting me to your party last week .
        inputs   party me for your to . last you inviting week Thank </s>
        targets  Thank you for inviting me to your party last week . </s>

    `noise_density` is the probability of an ordinary token to be among the shuffled, in [0, 1].

    Source: Raffel et al. 2020, section 3.3.1, "Deshuffling" of table 4; Liu et al. 2019a.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> corrupt = deshuffling(vocab=Vocabulary(size=1000))
      >>> corrupt(jax.random.key(0), jnp.arange(10, 18), 8).encoder_input_tokens.tolist()
      [10, 11, 15, 16, 14, 13, 12, 17, 1]
    """
    import jax

    which, how = jax.random.split(key)
    noise = corruption.masks.iid(which, tokens, length, noise_density, vocab)
    inputs = tokens[corruption.reorder.random_order(how, noise)]
    return corruption.examples.full_target(inputs, length, tokens, length, vocab)


def check_output(
    longest_output: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    """Of `prefix_lm` and `causal_prefix_lm`."""
    checks.check_some(longest_output=longest_output)
    checks.check_row(raw_length, 2, "a prefix and an output have a token each")


@objective(check=check_output)
def prefix_lm(
    key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary, longest_output: float = 1.0
) -> Example:
    """The inputs are the beginning of a row, the target is its end.

        source   Thank you for inviting me to your party last week .
        inputs   Thank you for inviting </s>
        targets  me to your party last week . </s>

    A row of fewer than two tokens passes through clean, with weight and count 0.

    Args:
      key: randomness.
      tokens: Int[L].
      length: Int[], real tokens in the row.
      vocab: for EOS and padding.
      longest_output: share of the row that the target may have, in (0, 1]; it has 1 token up to
        that, all equally likely. 1 is T5's, a half UL2's S-denoiser of mean .25.

    Returns:
      An encoder-decoder `Example`.

    Raises:
      UserError: a share outside its range.

    Source: Raffel et al. 2020, section 3.3.1, "Prefix language modeling" of table 4; Tay et al.
    2022, section 3.1.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> example = prefix_lm(vocab=Vocabulary(size=1000))(jax.random.key(0), jnp.arange(10, 18), 8)
      >>> example.encoder_input_tokens.tolist()
      [10, 11, 12, 13, 14, 15, 1, 0, 0]
      >>> example.decoder_target_tokens.tolist()
      [16, 17, 1, 0, 0, 0, 0, 0]
    """
    size = tokens.shape[-1]
    output = corruption.reorder.output_length(key, size, length, longest_output)
    most = lengths.most_noise(size, longest_output, 1.0)
    return corruption.examples.encoder_decoder(
        corruption.examples.room(tokens, vocab),
        length - output,
        corruption.rewrite.join_pieces(tokens, (length - output)[None], output[None], most.decoder),
        output,
        vocab,
    )

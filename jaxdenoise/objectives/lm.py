"""Language models: a lone decoder predicts a row, or the rest of it, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.corruption import lengths
from jaxdenoise.errors import require
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
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
      vocab: for padding, which the decoder starts with.

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
    return corruption.rewrite.decoder_example(tokens, length, everything, vocab)


def _check_share(
    longest_output: float, raw_length: int | None = None, sentinels: int | None = None
) -> None:
    del sentinels
    require(
        0 < longest_output <= 1,
        f"objective.longest_output is {longest_output}; it is a share of the row, in (0, 1]",
    )
    require(
        raw_length is None or raw_length >= 2,
        f"data.raw_length is {raw_length}; a prefix and an output need at least 2 tokens",
    )


@objective(check=_check_share)
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
      vocab: for padding, which the decoder starts with.
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
      [7, 0, 1, 2]
    """
    import jax
    import jax.numpy as jnp

    from jaxdenoise.arrays import Visibility

    size = tokens.shape[-1]
    longest = lengths.noise_count_table(size, longest_output, 1.0)[:, 0]
    most = jnp.asarray(longest)[length]
    output = jax.random.randint(key, (), 1, jnp.maximum(most, 1) + 1)
    prefix = length - jnp.where(most > 0, output, 0)
    return corruption.rewrite.decoder_example(
        tokens,
        length,
        jnp.arange(size) >= prefix,
        vocab,
        # The position that predicts the first output reads the last token of the prefix.
        visibility=Visibility.prefix(size, prefix + 1),
        capacity=int(longest.max()),
    )

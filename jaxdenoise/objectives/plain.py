"""No corruption at all, to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdenoise import corruption
from jaxdenoise.objectives.registry import objective

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


@objective
def identity(key: Key, tokens: Tokens, length: Scalar, *, vocab: Vocabulary) -> Example:
    """The plain autoencoder: an encoder-decoder reads a text and writes it again.

        inputs   Thank you for inviting me </s>
        targets  Thank you for inviting me </s>

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> example = identity(vocab=Vocabulary(size=100))(jax.random.key(0), jnp.arange(10, 14), 4)
      >>> example.encoder_input_tokens.tolist(), example.decoder_target_tokens.tolist()
      ([10, 11, 12, 13, 1], [10, 11, 12, 13, 1])
    """
    del key
    return corruption.examples.full_target(tokens, length, tokens, length, vocab)

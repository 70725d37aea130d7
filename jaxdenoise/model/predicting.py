"""What a model takes for likely: tokens and their probabilities, position by position."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, Params
from jaxdenoise.errors import require
from jaxdenoise.model.decoding import allowed
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary


class Predictions(NamedTuple):
    """The likeliest tokens of P positions, from the likeliest on.

    Attributes:
      probabilities: among all ids that were allowed.
      tokens: ids.
    """

    probabilities: Float[AnyArray, "B P k"]
    tokens: Int[AnyArray, "B P k"]


def predict(
    model: Model,
    params: Params,
    batch: Example,
    vocab: Vocabulary,
    *,
    top_k: int = 1,
    special: bool = True,
    everywhere: bool = False,
) -> Predictions:
    """The likeliest `top_k` tokens of the positions that the batch selects.

    Args:
      model: of any architecture; an encoder-decoder and a decoder read the batch's own inputs
        (teacher forcing; see `decoding` for what they write by themselves).
      params: of the model.
      batch: an `Example` with B in front. Where it selects positions, P is their number, in the
        order of `selected_targets`.
      vocab: whose ids are allowed.
      top_k: how many.
      special: special ids are allowed too.
      everywhere: at all positions, whatever the batch selects.

    Raises:
      UserError: a `top_k` that is not positive or above the number of allowed ids.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdenoise.model.model import encoder
      >>> vocab = Vocabulary(size=100, mask_id=2)
      >>> model = encoder(vocab=vocab, width=16, layers=1)
      >>> row = jnp.array([[10, 2, 12]])
      >>> batch = Example(encoder_input_tokens=row, encoder_segment_ids=jnp.ones_like(row))
      >>> found = predict(model, model.init(jax.random.key(0)), batch, vocab, top_k=5)
      >>> found.tokens.shape, bool((jnp.diff(found.probabilities) <= 0).all())
      ((1, 3, 5), True)
    """
    most = vocab.size if special else len(vocab.ordinary_ids)
    require(1 <= top_k <= most, f"top_k is {top_k}; it must be in 1 to {most}, the ids allowed")
    hidden, project, _ = model.forward(params, batch, everywhere=everywhere)
    shares = jax.nn.softmax(allowed(project(hidden), vocab, special=special), axis=-1)
    return Predictions(*jax.lax.top_k(shares, top_k))

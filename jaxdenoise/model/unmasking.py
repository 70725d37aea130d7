"""Masks filled over several rounds: how a masked-diffusion model writes."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise import corruption
from jaxdenoise.arrays import AnyArray, Example, Key, Params
from jaxdenoise.errors import require
from jaxdenoise.model.decoding import allowed
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary

Tokens = Int[AnyArray, "B T"]


def unmask(
    model: Model,
    params: Params,
    tokens: Tokens,
    lengths: Int[AnyArray, "B"],
    vocab: Vocabulary,
    *,
    rounds: int = 1,
    block_length: int | None = None,
    clean_copy: bool = False,
    keys: Key | None = None,
    temperature: float = 1.0,
    order: Literal["confidence", "random"] = "confidence",
) -> Tokens:
    """Puts a token of text in place of each mask, a part of them in each round.

    In every round the model reads what stands there, proposes a token for each mask that is left,
    and those it is surest of are kept: with r rounds left, one in r, rounded up. What is kept is
    not changed again.

    Args:
      model: an encoder.
      params: of the model.
      tokens: Int[B, T], one document in each row, masks where tokens are missing.
      lengths: Int[B], real tokens of each row.
      vocab: with a mask token. Special ids are never proposed.
      rounds: how many; as many as there are masks fills one at a time. One fills all at once.
      block_length: fill blocks of so many positions one after another, from the left, in `rounds`
        rounds each; None is one block.
      clean_copy: the model was trained by `block_diffusion`, on a noisy and a clean copy: a block
        reads itself and those before it.
      keys: Key[B], by which tokens are drawn; None takes the likeliest.
      temperature: of the draws; logits are divided by it.
      order: keep what the model is surest of, or any, as `keys` say. Random order and a
        temperature of 1 draw from the model's own distribution as the rounds become many.

    Returns:
      Int32[B, T]: `tokens` without masks.

    Raises:
      UserError: a model of another architecture, a number that is not positive, a random order or
        another temperature without keys, a clean copy without `block_length`, or a vocabulary
        without a mask.

    Source: Chang et al. 2022 (MaskGIT), section 3.2; Nie et al. 2025 (LLaDA), section 2.4. The
    random order: Sahoo et al. 2024 (MDLM), section 3.2. Blocks: Arriola et al. 2025, section 3.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdenoise.model.model import encoder
      >>> vocab = Vocabulary(size=100, mask_id=2)
      >>> model = encoder(vocab=vocab, width=16, layers=1)
      >>> params = model.init(jax.random.key(0))
      >>> row = jnp.array([[10, 2, 2, 13, 2, 0]])
      >>> filled = unmask(model, params, row, jnp.array([5]), vocab, rounds=3)
      >>> filled.shape, bool((filled == 2).any()), filled[0, 3].item()
      ((1, 6), False, 13)
    """
    _check(model, rounds, block_length, clean_copy, keys, temperature, order)
    mask, size = vocab.require_mask(), tokens.shape[1]
    span = block_length or size
    block = jnp.arange(size) // span

    def propose(number: AnyArray, tokens: Tokens) -> tuple[Tokens, Float[AnyArray, "B T"]]:
        """A token for every position, and how much it is preferred to the others'."""
        batch = _read(tokens, lengths, span if clean_copy else None)
        hidden, project, _ = model.forward(params, batch)
        logits = allowed(project(hidden), vocab, special=False)
        if keys is None:
            proposed = jnp.argmax(logits, axis=-1)
        else:
            drawing, ranking = _split(keys, number)
            logits = logits / temperature
            proposed = jax.vmap(jax.random.categorical)(drawing, logits)
            if order == "random":
                return proposed, jax.vmap(lambda key: jax.random.uniform(key, (size,)))(ranking)
        logs = jax.nn.log_softmax(logits, axis=-1)
        return proposed, jnp.take_along_axis(logs, proposed[..., None], axis=-1)[..., 0]

    def go_on(number: AnyArray, tokens: Tokens) -> Tokens:
        left = (tokens == mask) & (block == number // rounds)

        def keep_some(tokens: Tokens) -> Tokens:
            proposed, preference = propose(number, tokens)
            share = rounds - number % rounds
            kept = -(-jnp.sum(left, axis=1, keepdims=True) // share)
            falling = jnp.argsort(jnp.where(left, -preference, jnp.inf), axis=1)
            rank = jnp.argsort(falling, axis=1)
            return jnp.where(left & (rank < kept), proposed.astype(tokens.dtype), tokens)

        return jax.lax.cond(jnp.any(left), keep_some, lambda tokens: tokens, tokens)

    blocks = -(-size // span)
    return jax.lax.fori_loop(0, blocks * rounds, go_on, jnp.asarray(tokens, jnp.int32))


def _read(tokens: Tokens, lengths: Int[AnyArray, "B"], block_length: int | None) -> Example:
    """The rows as the encoder reads them; of a length of blocks, with a clean copy behind each."""
    if block_length is None:
        real = jnp.arange(tokens.shape[1]) < lengths[:, None]
        return Example(encoder_input_tokens=tokens, encoder_segment_ids=real.astype(jnp.int32))

    def twice(row: AnyArray, length: AnyArray) -> Example:
        nothing = jnp.zeros(row.shape)
        return corruption.examples.two_copies(row, row, length, nothing, block_length, length)

    return jax.vmap(twice)(tokens, lengths)


def _split(keys: Key, number: AnyArray) -> tuple[Key, Key]:
    """Keys of a round: for what is drawn, and for the order."""
    of_round = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    both = jax.vmap(jax.random.split)(of_round)
    return both[:, 0], both[:, 1]


def _check(
    model: Model,
    rounds: int,
    block_length: int | None,
    clean_copy: bool,
    keys: Key | None,
    temperature: float,
    order: str,
) -> None:
    kind = model.config.architecture
    require(kind == "encoder", f"masks are filled by an encoder; this model is a {kind}")
    require(rounds >= 1, f"rounds is {rounds}; it must be at least 1")
    require(
        block_length is None or block_length >= 1,
        f"block_length is {block_length}; it must be at least 1, or None",
    )
    require(
        block_length is not None or not clean_copy,
        "clean_copy is True; set block_length to that of the model's training",
    )
    require(temperature > 0, f"temperature is {temperature}; it must be above 0 (keys None is 0's)")
    require(order in ("confidence", "random"), f"order is '{order}'; confidence or random")
    require(
        keys is not None or (order == "confidence" and temperature == 1),
        f"order is {order} and temperature {temperature}, which need keys, one for each row",
    )

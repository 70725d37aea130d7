"""Which positions, layers and parameters receive gradient from which targets of an example.

Zero is exact: where nothing flows, the number is 0 and not merely small.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import AnyArray, Example, Params, part_places
from jaxdenoise.errors import require
from jaxdenoise.losses import Loss, cross_entropy
from jaxdenoise.model.model import Model
from jaxdenoise.training.metrics import SCANNED, norms_by_module


@dataclass(frozen=True, kw_only=True)
class GradientFlow:
    """Norms of the gradient of N targets' losses, one target at a time, without their weights.

    Attributes:
      gradients: the routing.
      stack: the one that predicts.
      places: Int[N], where in that stack the targets stand, in order.
      tokens: Int[N], the targets.
      number: of targets that the example has; N, or more where the first N were asked for.
      positions: by stack Float[N, layers, T], by what enters a layer at a position; layer 0 is
        entered by the embedded input.
      modules: by name Float[N], or Float[N, layers], by all parameters of the module.
      sizes: by name Int[] or Int[layers], how many parameters those are.
    """

    gradients: str
    stack: str
    places: np.ndarray
    tokens: np.ndarray
    number: int
    positions: dict[str, np.ndarray]
    modules: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]

    @property
    def silent_parameters(self) -> float:
        """The share of the parameters whose module, in its layer, receives nothing."""
        silent = {name: (norms == 0).all(axis=0) for name, norms in self.modules.items()}
        nothing = sum((size * silent[name]).sum() for name, size in self.sizes.items())
        return float(nothing / sum(size.sum() for size in self.sizes.values()))


def gradient_flow(
    model: Model,
    params: Params,
    example: Example,
    loss: Loss = cross_entropy,
    gradients: str = "full",
    *,
    first: int | None = None,
) -> GradientFlow:
    """‖∂loss[t] / ∂x‖ for every target t, x a position's input to a layer, or a module.

    Targets are the selected positions of weight other than 0. One forward pass, and a backward
    pass for each target, one after the other.

    Args:
      model: maps a batch to hidden states, and these to logits.
      params: of the model.
      example: unbatched.
      loss: of (logits[…, V], targets[…]).
      gradients: what the backward pass goes through; see `Model.forward`.
      first: so many targets alone, from the left; None for all.

    Raises:
      UserError: an example without targets, or gradients that the architecture does not have.

    Example:
      >>> from jaxdenoise.model.model import decoder
      >>> from jaxdenoise.objectives import objectives
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> vocab = Vocabulary(size=100)
      >>> model = decoder(vocab=vocab, width=8, layers=2)
      >>> example = objectives["causal_lm"](vocab=vocab)(jax.random.key(0), jnp.arange(10, 14), 3)
      >>> flow = gradient_flow(model, model.init(jax.random.key(0)), example)
      >>> flow.positions["decoder"].shape  # targets, layers, positions
      (3, 2, 4)
      >>> (flow.positions["decoder"][:, 0] > 0).astype(int)  # causal; the last is padding
      array([[1, 0, 0, 0],
             [1, 1, 0, 0],
             [1, 1, 1, 0]])
    """
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
    model.check(batch, gradients)
    tokens, weights = (np.asarray(x[0]) for x in batch.selected_targets(model.stack))
    selected = batch.places(model.stack)
    places = np.arange(len(tokens)) if selected is None else np.asarray(selected[0])
    used = np.flatnonzero(weights != 0)
    require(len(used) > 0, "the example has no targets, so that there is no gradient")
    chosen = used[np.argsort(places[used])][:first]
    by_position, by_module = jax.device_get(
        _norms(params, batch, chosen, model=model, loss=loss, gradients=gradients)
    )
    parts = None if selected is None or gradients != "output_only" else places
    return GradientFlow(
        gradients=gradients,
        stack=model.stack,
        places=places[chosen],
        tokens=tokens[chosen],
        number=len(used),
        positions={stack: _in_place(x[SCANNED], parts) for stack, x in by_position.items()},
        modules=by_module,
        sizes=_sizes(params),
    )


@functools.partial(jax.jit, static_argnames=("model", "loss", "gradients"))
def _norms(
    params: Params, batch: Example, chosen: AnyArray, *, model: Model, loss: Loss, gradients: str
) -> tuple[Any, dict[str, jax.Array]]:
    """By stream Float[N, layers, positions], by module Float[N, …]; `chosen` of the selected."""
    targets = batch.selected_targets(model.stack)[0][:, chosen]

    def losses(params: Params, perturbations: Any) -> jax.Array:
        hidden = model.hidden_perturbed(params, perturbations, batch, gradients)
        return loss(model.projection(params, gradients=gradients)(hidden[:, chosen]), targets)[0]

    def norms(one_hot: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        of_params, of_positions = pull(one_hot)
        return jax.tree.map(lambda x: _norm(x[0]), of_positions), norms_by_module(of_params)

    found, pull = jax.vjp(losses, params, model.perturbations(batch, gradients))
    return jax.lax.map(norms, jnp.eye(len(chosen), dtype=found.dtype))


def _norm(x: jax.Array) -> jax.Array:
    """Over the last axis; scaled, so that no square of a number above 0 becomes 0."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scaled = x / jnp.where(largest == 0, 1, largest)
    return largest[..., 0] * jnp.linalg.norm(scaled, axis=-1)


def _in_place(streams: Mapping[str, np.ndarray], selected: np.ndarray | None) -> np.ndarray:
    """Streams [N, layers, …] as positions [N, layers, T]; `selected` where there can be two."""
    if selected is None:
        return np.asarray(streams["stream_0"])
    joined = np.concatenate([streams[name] for name in sorted(streams)], axis=-1)
    size = joined.shape[-1]
    rest = np.asarray(part_places(selected, size)[1])
    return joined[..., np.argsort(np.concatenate([selected, rest]))]


def _sizes(params: Params) -> dict[str, np.ndarray]:
    """Parameters by module, as `norms_by_module` divides them: a norm² of ones."""

    def norm_of_ones(path: tuple, leaf: AnyArray) -> np.ndarray:
        scanned = any(getattr(entry, "key", None) == SCANNED for entry in path)
        layers = leaf.shape[:1] if scanned else ()
        return np.full(layers, np.sqrt(leaf.size / np.prod(layers, initial=1)), np.float32)

    ones = jax.tree_util.tree_map_with_path(norm_of_ones, params)
    squares = {name: np.asarray(norm) ** 2 for name, norm in norms_by_module(ones).items()}
    return {name: np.rint(square).astype(int) for name, square in squares.items()}

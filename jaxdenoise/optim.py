"""Optax chains and learning-rate schedules, by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxdenoise.arrays import Params
from jaxdenoise.config import OptimizerConfig


def build_schedule(
    config: OptimizerConfig, steps: int, peak: float | None = None
) -> optax.Schedule:
    """The learning rate of each step: linear warm-up from 0, then as `config.schedule` says.

    T5's "rsqrt" has no such warm-up: it begins at the peak.

    Args:
      config: name, peak, warm-up and final fraction.
      steps: of the whole run.
      peak: instead of `config.learning_rate`.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = config.warmup_steps
    decay = max(steps - warmup, 1)
    final = config.final_fraction
    if config.schedule == "rsqrt":
        return rsqrt_schedule(peak, max(warmup, 1))
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, decay),
        "cosine": optax.cosine_decay_schedule(peak, decay, final),
    }[config.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def rsqrt_schedule(peak: float, warmup_steps: int) -> optax.Schedule:
    """T5's inverse square root: constant for `warmup_steps`, then peak · √(warmup / step).

    T5 has peak = 0.01 and 10,000 warm-up steps: 1/√max(step, 10⁴).

    Source: Raffel et al. 2020, section 3.1.2.
    """
    return lambda step: peak * jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))


def build_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The gradient transformation of a config for a run of `steps`."""
    rate = build_schedule(config, steps)
    if config.name == "adamw":
        update = optax.adamw(
            rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=_is_matrix
        )
    elif config.name == "adafactor":
        update = optax.adafactor(
            rate,
            multiply_by_parameter_scale=True,
            clipping_threshold=1.0,
            weight_decay_rate=config.weight_decay or None,
            weight_decay_mask=_is_matrix,
        )
    else:
        update = optax.contrib.muon(
            rate,
            beta=config.b1,
            weight_decay=config.weight_decay,
            adam_b2=config.b2,
            adam_learning_rate=build_schedule(config, steps, config.embedding_rate),
            muon_weight_dimension_numbers=_muon_dimensions,
        )
    if config.clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def _is_matrix(params: Params) -> Params:
    """True for kernels and embeddings; scanned layers have an axis more than the others."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x.ndim - _scanned(path) >= 2, params)


def _muon_dimensions(params: Params) -> Params:
    """Muon for the kernels inside layers, each layer on its own; None (AdamW) for the rest."""

    def dimensions(path: tuple, x: jax.Array) -> MuonDimensionNumbers | None:
        kernel = _scanned(path) and x.ndim == 3
        return MuonDimensionNumbers(reduction_axis=1, output_axis=2) if kernel else None

    return jax.tree_util.tree_map_with_path(dimensions, params)


def _scanned(path: tuple) -> bool:
    return any(getattr(entry, "key", None) == "layers" for entry in path)

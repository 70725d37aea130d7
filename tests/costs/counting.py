"""An oracle: FLOPs of the products in a traced program, before any compiler has seen it."""

import math

import jax
import jax.numpy as jnp

from jaxdenoise.arrays import Example
from jaxdenoise.config import ModelConfig
from jaxdenoise.losses import projected_terms
from jaxdenoise.model.model import Model

ROWS, ENCODER, DECODER, PREDICTED, IDS = 3, 12, 8, 4, 128

SHAPE = {"width": 16, "mlp_width": 24, "heads": 4, "head_width": 6}
SHAPE |= {"encoder_layers": 2, "decoder_layers": 3, "positions": "rotary"}


def batch_of(architecture: str, predicted: int | None) -> Example:
    """Ones; shapes are all that counts."""
    sizes = {"encoder": ENCODER, "decoder": DECODER}
    if architecture != "encoder_decoder":
        sizes = {architecture: sizes[architecture]}
    last = list(sizes)[-1]
    fields = {}
    for stack, size in sizes.items():
        ids = jnp.ones((ROWS, size), jnp.int32)
        fields |= {f"{stack}_input_tokens": ids, f"{stack}_segment_ids": ids}
    ids = jnp.ones((ROWS, sizes[last]), jnp.int32)
    fields |= {f"{last}_target_tokens": ids, f"{last}_loss_weights": ids * 1.0}
    if predicted is not None:
        places = jnp.tile(jnp.arange(predicted), (ROWS, 1))
        fields[f"{last}_selected"] = places
    return Example(**fields)


def gradient_of(config: ModelConfig, batch: Example):
    """The gradient of the loss by all parameters, and their shapes."""
    model = Model(config, IDS)

    def loss(params):
        hidden, projection, _ = model.forward(params, batch)
        return projected_terms(hidden, projection, *batch.selected_targets(model.stack)).loss

    return jax.grad(loss), jax.eval_shape(model.init, jax.random.key(0))


def traced_flops(jaxpr) -> float:
    """2 · multiplications of all `dot_general`s; loops as often as they run."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = sum(traced_flops(j) for j in _jaxprs(eqn.params))
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += 2.0 * eqn.outvars[0].aval.size * math.prod(left[d] for d in contracted)
        elif eqn.primitive.name == "scan":
            total += eqn.params["length"] * inner
        else:
            total += inner
    return total


def _jaxprs(params):
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part

"""A training step compiled without data, for devices that need not be there, and what it costs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Rows
from jaxdenoise.costs.chips import Chip, check_topology
from jaxdenoise.costs.flops import Positions, model_flops, text_flops
from jaxdenoise.costs.program import Costs, program_costs
from jaxdenoise.costs.roofline import Memory
from jaxdenoise.data.stand_in import stand_in_tokens
from jaxdenoise.errors import UserError, require
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.training.setup import Plan, batches_of
from jaxdenoise.training.step import corrupted

SAMPLE = 16  # rows that are corrupted to see how much of them is text
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""So that the TPU's compiler looks for no TPU, and does not mind who else uses one."""
_TOO_MUCH = (
    r"[Ee]xceeded hbm capacity by (?P<excess>[\d.]+[KMGT])",
    r"\((?P<wanted>[\d.]+[KMGT])\) exceeds available HBM \((?P<there>[\d.]+[KMGT])\)",
)
"""What a TPU's compiler says where memory does not suffice."""


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A compiled training step.

    Attributes:
      devices: in all.
      parameters: bytes of them on a device.
      optimizer: bytes of the optimizer's state on a device.
      computed: positions of an example, as they are computed.
      text: of these, what is no padding, on average, where rows are full.
      model: FLOPs of the model in a step, over all devices.
      useful: as `costs.flops.text_flops` counts them, over all devices.
      seconds: that tracing and compiling took.
      memory: of a device; None where the compiler found that it does not fit.
      costs: of a device; None likewise.
      excess: bytes that there were too many, where it did not fit.
    """

    devices: int
    parameters: int
    optimizer: int
    computed: Positions
    text: Positions
    model: float
    useful: float
    seconds: float
    memory: Memory | None = None
    costs: Costs | None = None
    excess: float = 0.0

    @property
    def ratio(self) -> float | None:
        """FLOPs of the program for each of the model's."""
        return None if self.costs is None else self.costs.flops * self.devices / self.model


def topology_devices(topology: str) -> tuple[Chip, Sequence[Any]]:
    """The devices of a slice of TPUs, as something to compile for; one device a chip.

    Args:
      topology: such as "v5e:16x16".

    Raises:
      UserError: there is no such slice, or the TPU's compiler is not installed.
    """
    chip, sides = check_topology(topology)
    require(
        importlib.util.find_spec("libtpu") is not None,
        "--topology needs the compiler of TPUs, libtpu, which is for Linux; it needs no TPU: "
        "pip install 'jaxdenoise[tpu]'. Without it, --devices N compiles for N virtual CPU devices",
    )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip.cores > 1 else {}
    if max(sides) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # of larger slices 2 × 2
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # JAX's own, of several kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"libtpu cannot compile for {topology}: {reason}") from error
    return chip, found.devices


def cpu_devices(number: str) -> Sequence[Any]:
    """So many virtual CPU devices.

    Raises:
      UserError: no number of devices, or this process has begun with fewer.
    """
    require(number.isdecimal() and int(number) >= 1, f"--devices is '{number}'; give such as 8")
    wanted = int(number)
    with contextlib.suppress(RuntimeError):  # JAX has begun: it has as many as it has
        jax.config.update("jax_num_cpu_devices", wanted)
    found = jax.devices("cpu")
    require(
        len(found) >= wanted,
        f"--devices is {wanted}, but this process has begun with {len(found)}; start another",
    )
    return found[:wanted]


def compile_step(plan: Plan, devices: int) -> CompiledStep:
    """Compiles the training step that a run of this plan would have.

    Args:
      plan: for devices that may be of another kind than this machine's.
      devices: how many there are.
    """
    sample = sample_rows(plan)
    batch_size, vocab_size = plan.experiment.training.batch_size, plan.model.vocab_size
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), sample)
    state, rows = plan.backend.shapes(plan.state_shapes(), rows)
    computed, text = count_positions(plan.objective, sample, plan.model.stack)
    config = plan.model.config
    begin = time.perf_counter()
    memory, costs, excess = None, None, 0.0
    try:
        compiled = plan.backend.compile(plan.step(), state, rows)
        memory, costs = Memory.of(compiled), program_costs(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        excess = _excess(error)
    seconds = time.perf_counter() - begin
    return CompiledStep(
        devices=devices,
        parameters=_on_a_device(state.params),
        optimizer=_on_a_device(state.opt_state),
        computed=computed,
        text=text,
        model=batch_size * model_flops(config, vocab_size, computed).total,
        useful=batch_size * text_flops(config, vocab_size, text),
        seconds=seconds,
        memory=memory,
        costs=costs,
        excess=excess,
    )


def sample_rows(plan: Plan) -> Rows:
    """A few full rows of a run, of text that says nothing."""
    length = plan.experiment.data.raw_length
    pairs = plan.experiment.data.pairs
    tokens = stand_in_tokens(plan.objective.vocab, SAMPLE, length, pairs)
    starts = np.arange(SAMPLE) * length
    documents = np.stack([starts, np.full(SAMPLE, length)], axis=1)
    return batches_of(plan, tokens, documents).take(range(SAMPLE))


def count_positions(objective: Objective, rows: Rows, stack: str) -> tuple[Positions, Positions]:
    """Of an example: those that are computed, and how many of them are text on average.

    Args:
      objective: corrupts the rows.
      rows: a sample.
      stack: the one that predicts.
    """
    batch = corrupted(objective, rows)
    computed, text = {}, {}
    for name in ("encoder", "decoder"):
        segments = batch.fields(name)["segment_ids"]
        computed[name] = 0 if segments is None else segments.shape[-1]
        text[name] = 0.0 if segments is None else float(jnp.mean(jnp.sum(segments > 0, axis=-1)))
    weights = batch.selected_targets(stack)[1]
    predicted = float(jnp.mean(jnp.sum(weights != 0, axis=-1)))
    return (
        Positions(**computed, predicted=weights.shape[-1]),
        Positions(**text, predicted=predicted),
    )


def _on_a_device(shapes: Any) -> int:
    """Bytes of arrays on one device; those of `pmap` have the devices in front."""

    def one(x: Any) -> int:
        shape = x.shape[1:] if x.sharding is None else x.sharding.shard_shape(x.shape)
        return int(np.prod(shape)) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(shapes)))


def _excess(error: Exception) -> float:
    """Bytes too many, from what the compiler says; raises the error again if it is another."""
    found = [match for text in _TOO_MUCH if (match := re.search(text, str(error)))]
    if not found:
        raise error
    sizes = {name: _bytes(size) for name, size in found[0].groupdict().items()}
    return sizes.get("excess") or sizes["wanted"] - sizes["there"]


def _bytes(size: str) -> float:
    """Of such as "4.38G"."""
    return float(size[:-1]) * 2 ** (10 * (1 + "KMGT".index(size[-1])))

"""jaxdenoise compile EXPERIMENT --topology v5e:16x16: what a step takes, before renting the pod."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_costs import print_costs, summary
from jaxdenoise.costs.chips import Chip, check_topology
from jaxdenoise.errors import require
from jaxdenoise.experiment import Experiment, experiments, load_experiments, override
from jaxdenoise.flags import parse_flags, split_flags, take_single
from jaxdenoise.training.run_directory import write_json

USAGE = """usage: jaxdenoise compile EXPERIMENT --topology v5e:16x16 [--field value …]
       jaxdenoise compile EXPERIMENT --devices 8 [--field value …]

Compiles the experiment's real training step, without data, for a slice of TPUs that need not be
there (pip install 'jaxdenoise[tpu]'; no TPU is needed), or for virtual CPU devices. Prints memory
a chip, FLOPs of the model and of the program, what chips send each other, and how long a step
takes at least.

  --topology T     such as v5e:16x16 or v5p:8x8x8
  --devices N      virtual CPU devices: shows how things are cut, not how long they take
  --output FILE    the figures as JSON
  --module NAME    a Python module that registers experiments of your own

Exit status: 0 if it fits (or nothing says how much there is), 1 if it does not, 2 for a mistake.
"""
DOES_NOT_FIT = 1


def run(args: Sequence[str]) -> int:
    """Compiles and prints; returns the exit status."""
    if not args or args[0].startswith("-"):
        print(USAGE)
        return 0 if "--help" in args or "-h" in args else 2
    name, *rest = args
    asks_help = "--help" in rest or "-h" in rest
    flags = split_flags([arg for arg in rest if arg not in ("--help", "-h")])
    load_experiments(tuple(flags.pop("module", ())))
    topology, number = take_single(flags, "topology"), take_single(flags, "devices")
    output = take_single(flags, "output")
    experiment = experiments[name]()
    if asks_help:
        print(USAGE)
        parse_flags(experiment, ["--help"], program=f"jaxdenoise compile {name}")
    require(
        (topology is None) != (number is None),
        "say where the step is to run: --topology v5e:16x16, or --devices 8 for virtual CPU "
        "devices; one of the two",
    )
    experiment = override(experiment, flags)
    if topology is not None:
        _check_slice(experiment, topology)
    found = _compile(experiment, topology, number)
    console = make_console()
    figures = {"experiment": name, "topology": topology, **found}
    print_costs(figures, console)
    if output is not None:
        write_json(Path(output), figures)
    return DOES_NOT_FIT if figures["fits"] is False else 0


def _check_slice(experiment: Experiment, topology: str) -> None:
    """Raises `UserError` if the experiment cannot use such a slice; before JAX is loaded."""
    chips, training = math.prod(check_topology(topology)[1]), experiment.training
    require(
        training.backend != "single" or chips == 1,
        f"training.backend is single, which uses one of the {chips} chips of {topology}; say "
        "--training.backend mesh",
    )
    training.check_devices(chips, processes=1)


def _compile(experiment: Experiment, topology: str | None, number: str | None) -> dict[str, Any]:
    """The figures of the compiled step."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs on a device here
    from jaxdenoise.data.stand_in import vocabulary_of
    from jaxdenoise.training.compiled import compile_step, cpu_devices, topology_devices
    from jaxdenoise.training.setup import plan

    chip: Chip | None = None
    if topology is not None:
        chip, devices = topology_devices(topology)
    else:
        devices = cpu_devices(number or "")
    planned = plan(experiment, vocabulary_of(experiment.data), devices)
    with make_console().status("compiling"):
        step = compile_step(planned, len(devices))
    return summary(step, experiment, chip)

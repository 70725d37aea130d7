"""One of several processes of a run: its devices get the right rows, and it trains with the others.

python -m tests.training.member CONFIG.json RUN_DIR NUMBER INDEX PORT
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from jaxdenoise.experiment import from_dict
from jaxdenoise.training import processes
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory
from jaxdenoise.training.setup import Setup, build

DEVICES = 8  # of all processes together


def check_rows(setup: Setup) -> None:
    """What lies on each device of this process is its part of the batch, and nothing else."""
    size = setup.batches.batch_size
    mine = setup.batches.only(setup.backend.rows(size))
    for step in (0, 7):
        whole, spread = setup.batches[step], setup.backend.split(mine[step])
        for expected, leaf in zip(*map(jax.tree.leaves, (whole, spread)), strict=True):
            assert leaf.shape == expected.shape
            for shard in leaf.addressable_shards:
                np.testing.assert_array_equal(shard.data, expected[shard.index])


def main() -> None:
    config, run, number, index, port = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // int(number))
    jax.config.update("jax_disable_most_optimizations", True)
    processes.join(
        processes.Membership(
            number=int(number), index=int(index), coordinator=f"localhost:{port}", patience=120
        )
    )
    assert jax.device_count() == DEVICES
    setup = build(from_dict(json.loads(Path(config).read_text())))
    assert len(setup.backend.rows(setup.batches.batch_size)) < setup.batches.batch_size
    if setup.experiment.training.backend == "mesh":
        check_rows(setup)
    train(setup, "test", RunDirectory(Path(run)), Console(quiet=True))


if __name__ == "__main__":
    main()

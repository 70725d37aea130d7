"""Topologies that exist, figures of chips, and what follows from them."""

import pytest

from jaxdenoise.config import MeshConfig, ModelConfig, TrainingConfig
from jaxdenoise.costs.chips import GIB, GPUS, TPUS, check_topology, chip_of
from jaxdenoise.costs.collectives import Collective
from jaxdenoise.costs.program import Costs
from jaxdenoise.costs.roofline import Memory, Roofline, advice, verdict
from jaxdenoise.errors import UserError


@pytest.mark.parametrize("chip", [*TPUS.values(), *GPUS.values()], ids=lambda chip: chip.name)
def test_a_chips_figures_are_in_the_right_units(chip):
    assert 1e14 < chip.flops < 3e15
    assert 15 * GIB < chip.memory < 200 * GIB
    assert 5e11 < chip.bandwidth < 1e13
    assert 1e11 < chip.links < chip.bandwidth
    assert chip_of(chip.kind + " 80GB" * chip.kind.startswith("NVIDIA")) == chip


def test_topologies():
    assert check_topology("v5e:16x16") == (TPUS["v5e"], (16, 16))
    assert check_topology("v5p:4x4x28")[1] == (4, 4, 28)
    assert check_topology("v5p:2x2x1")[1] == (2, 2, 1)


@pytest.mark.parametrize(
    ("topology", "says"),
    [
        ("v5e:3x7", "v5e:16x16"),
        ("v5e:16x32", "v5e:16x16"),
        ("v5p:8x8", "v5p:8x8x8"),
        ("v5p:8x4x4", "ascending"),
        ("v5p:16x20x28", "at most 6144"),
        ("v5p:axbxc", "v5p:8x8x8"),
        ("v9:2x2", "Known: v4, v5e, v5p, v6e"),
        ("v5e", "v5e:16x16"),
        ("", "v5e:16x16"),
    ],
)
def test_a_topology_that_does_not_exist_lists_those_that_do(topology, says):
    with pytest.raises(UserError, match=says):
        check_topology(topology)


def test_a_roofline_by_hand():
    chip = TPUS["v5e"]
    sent = Costs(197e12, 2 * 819e9).collectives
    sent[Collective("all-reduce", 4)] = 1e9
    roof = Roofline.of(Costs(197e12, 2 * 819e9, sent), chip)
    assert (roof.compute, roof.memory) == (1.0, 2.0)
    assert roof.collectives == 1.5e9 / 200e9
    assert roof.bound == "memory" and roof.shortest == 2.0
    assert roof.longest == pytest.approx(3.0075)
    assert roof.mfu(98.5e12, chip) == pytest.approx((0.25, 0.5 / 3.0075))


def test_memory_counts_donated_buffers_once():
    memory = Memory(arguments=100, outputs=90, shared=80, temporaries=50, code=5)
    assert memory.peak == 100 + 10 + 50 + 5


def test_what_fits():
    assert verdict(10 * GIB, TPUS["v5e"]) == (True, "fits: 6.0 of the 16.0 GiB of a v5e are left")
    fits, says = verdict(17 * GIB, TPUS["v5e"])
    assert not fits and "1.0 GiB too much" in says


def flags(found: list[str]) -> list[str]:
    return [line.split(":")[0] for line in found]


def test_advice_names_flags_that_change_something():
    training = TrainingConfig(backend="pmap", batch_size=64, micro_batches=2)
    assert flags(advice(8, 8, ModelConfig(), training, devices=8)) == [
        "--training.backend mesh --training.mesh.fsdp 8",
        "--model.compute-dtype bfloat16",
        "--training.micro-batches 4",
        "--model.remat dots",
        "--training.batch-size 32",
    ]
    model = ModelConfig(compute_dtype="bfloat16", remat="full", width=24)
    mesh = MeshConfig(fsdp=2, tensor=2)
    training = TrainingConfig(backend="mesh", mesh=mesh, batch_size=16)
    found = advice(8, 8, model, training, devices=32)  # 16 groups; 8 of them divide 24
    assert flags(found) == ["--training.mesh.fsdp 8"]
    found = advice(1, 8, model, training, devices=32)
    assert found == ["a larger slice, or chips with more memory"]

"""`jaxdenoise compile`: the real step, without data, on virtual devices or for a TPU slice."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from jaxdenoise.cli import main
from jaxdenoise.commands import compile as command
from jaxdenoise.config import MeshConfig
from jaxdenoise.costs.chips import GIB, TPUS
from jaxdenoise.costs.flops import Positions
from jaxdenoise.costs.roofline import Memory
from jaxdenoise.data.stand_in import stand_in_vocabulary
from jaxdenoise.experiment import experiments, load_experiments, override
from jaxdenoise.training import compiled
from jaxdenoise.training.compiled import CompiledStep, compile_step, cpu_devices
from jaxdenoise.training.setup import build, plan, state_shapes

SMALL = ["--model.width", "64", "--model.mlp-width", "128", "--optimizer.name", "adamw"]
SMALL += ["--model.encoder-layers", "1", "--model.decoder-layers", "1"]


@pytest.fixture(autouse=True)
def begun():
    """JAX has begun with eight devices."""
    assert len(jax.devices()) == 8


def on_mesh(experiment, **fields):
    training = dataclasses.replace(
        experiment.training, backend="mesh", mesh=MeshConfig(**fields), batch_size=16
    )
    return dataclasses.replace(experiment, training=training)


def planned(experiment, devices: int = 8):
    vocab = stand_in_vocabulary(experiment.data.vocabulary_size, experiment.data.sentinels)
    return plan(experiment, vocab, cpu_devices(str(devices)))


@pytest.mark.slow
def test_the_figures_of_a_step_on_a_mesh(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    file = tmp_path / "costs.json"
    args = ["compile", "quickstart", "--devices", "8", *SMALL, "--output", str(file)]
    args += ["--training.backend", "mesh", "--training.mesh.fsdp", "4"]
    assert main(args) == 0
    figures = json.loads(file.read_text("utf-8"))
    assert figures["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    sizes, flops = figures["bytes"], figures["flops"]
    # AdamW keeps two numbers for each parameter; arguments are these, the rows and counters.
    state = sizes["parameters"] + sizes["optimizer"]
    assert sizes["optimizer"] == pytest.approx(2 * sizes["parameters"], rel=0.01)
    assert state < sizes["arguments"] < state + 2**16
    assert sizes["peak"] >= sizes["arguments"] + sizes["temporaries"]
    assert 1.0 <= flops["ratio"] < 1.3  # corruption and the bias weigh more in so small a model
    assert set(figures["collectives"]["sent"]) >= {"all-reduce", "all-gather"}
    text, positions = (figures["positions"][name] for name in ("text", "computed"))
    assert 0 < text["encoder"] <= positions["encoder"]
    out = capsys.readouterr().out
    assert "compiled / model" in out and "Traceback" not in out
    assert all(len(line) <= 60 for line in out.splitlines())


def test_parameters_and_optimizer_are_cut_evenly(tiny):
    found = {}
    for fsdp in (1, 2, 8):
        built = planned(on_mesh(tiny, data=1, fsdp=fsdp), fsdp)
        state, _ = built.backend.shapes(state_shapes(built.model, built.tx), ())
        found[fsdp] = compiled._on_a_device(state)
    fixed = 4 * 2 * 3 * 32 * 2 + 64  # relative biases and counters, which are small and whole
    for fsdp in (2, 8):
        assert found[fsdp] == pytest.approx(found[1] / fsdp, abs=fixed)


@pytest.mark.parametrize("packing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_shapes_are_those_of_a_run(tiny, packing):
    data = dataclasses.replace(tiny.data, packing=packing)
    experiment = on_mesh(dataclasses.replace(tiny, data=data), fsdp=2)
    setup = build(experiment)
    seen = {}

    def look(step, state, rows):
        seen.update(state=state, rows=rows)
        raise RuntimeError("seen")

    built = planned(experiment)
    built.backend.compile = look  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="seen"):
        compile_step(built, 8)
    real = setup.backend.layout(state_shapes(setup.model, setup.tx)), setup.batches[0]
    for made, wanted in zip((seen["state"], seen["rows"]), real, strict=True):
        assert_same_shapes(made, wanted)


def assert_same_shapes(made, wanted):
    assert jax.tree.structure(made) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_positions_are_those_of_full_rows(tiny):
    built = planned(on_mesh(tiny))
    computed, text = compiled.count_positions(
        built.objective, compiled.sample_rows(built), built.model.stack
    )
    # Of 40 tokens 6 are noise, in 2 spans: 34 + 2 sentinels + EOS, and 6 + 2 + EOS.
    assert (text.encoder, text.decoder, text.predicted) == (37, 9, 9)
    assert (computed.encoder, computed.decoder, computed.predicted) == (37, 9, 9)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["single", "pmap"])
def test_other_backends_compile_too(tiny, backend):
    training = dataclasses.replace(tiny.training, backend=backend, batch_size=16)
    model = dataclasses.replace(tiny.model, encoder_layers=1, decoder_layers=1)
    experiment = dataclasses.replace(tiny, training=training, model=model)
    step = compile_step(planned(experiment, 1 if backend == "single" else 8), 8)
    assert step.memory is not None and step.memory.arguments > step.parameters + step.optimizer
    assert step.parameters == 4 * sum(
        x.size for x in leaves(state_shapes(*parts(experiment)).params)
    )


def parts(experiment):
    built = planned(experiment, 1)
    return built.model, built.tx


def leaves(tree):
    return jax.tree.leaves(tree)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--topology v5e:16x16, or --devices 8"),
        (["--devices", "8", "--topology", "v5e:2x2"], "one of the two"),
        (["--devices", "many"], "--devices is 'many'"),
        (["--devices", "0"], "--devices is '0'"),
        (["--devices", "999"], "has begun with 8"),
        (["--topology", "v5e:3x7"], "slices of v5e are v5e:1x1, v5e:2x2"),
        (["--topology", "v7:2x2"], "unknown TPU 'v7'"),
        (["--topology", "v5e:2x2"], "uses one of the 4 chips of v5e:2x2"),
        (
            ["--topology", "v5e:2x2", "--training.backend", "pmap", "--training.batch-size", "6"],
            "training.batch_size is 6, which 4 devices do not divide",
        ),
        (["--devices", "8", "--training.mesh.fsdp", "4"], "--training.backend mesh"),
        (
            ["--devices", "8", "--training.backend", "mesh", "--training.mesh.fsdp", "3"],
            "does not divide the 8 devices",
        ),
        (
            ["--devices", "8", "--training.backend", "mesh", "--training.batch-size", "12"],
            "training.batch_size is 12",
        ),
        (["--devices", "8", "--data.tokenizer", "none.json"], "'none.json' is not a file"),
    ],
)
def test_what_bad_input_gets(args, message, capsys):
    assert main(["compile", "quickstart", *args]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("jaxdenoise: ") and err.count("\n") == 1
    assert message in err and "Traceback" not in out + err


def test_without_the_compiler_of_tpus_it_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", "quickstart", "--topology", "v5e:1x1"]) == 2
    assert "pip install 'jaxdenoise[tpu]'" in capsys.readouterr().err


STEP = CompiledStep(
    devices=4,
    parameters=4 * GIB,
    optimizer=8 * GIB,
    computed=Positions(encoder=64, decoder=14, predicted=14),
    text=Positions(encoder=60, decoder=12, predicted=12),
    model=1e12,
    useful=9e11,
    seconds=1.0,
)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"excess": 4.5 * GIB}, "does not fit: 4.5 GiB too much for a v5e, says its compiler"),
        (
            {
                "memory": Memory(
                    arguments=12 * GIB, outputs=12 * GIB, shared=12 * GIB, temporaries=6 * GIB
                ),
                "costs": compiled.Costs(1e12, 1e9),
            },
            "does not fit: 2.0 GiB too much for the 16.0 GiB of a v5e",
        ),
    ],
)
def test_what_does_not_fit_has_a_status_of_its_own(fields, says, capsys, monkeypatch, tmp_path):
    step = dataclasses.replace(STEP, **fields)
    monkeypatch.setattr(compiled, "topology_devices", lambda name: (TPUS["v5e"], cpu_devices("4")))
    monkeypatch.setattr(compiled, "compile_step", lambda plan, devices: step)
    args = ["--topology", "v5e:2x2", "--training.backend", "mesh"]
    assert main(["compile", "quickstart", *args, *SMALL]) == 1
    out = capsys.readouterr().out
    assert says in " ".join(out.split())
    assert "--training.mesh.fsdp 4" in out


@pytest.mark.parametrize(
    ("said", "excess"),
    [
        ("Ran out of memory. Used 20.13G of 15.75G hbm. Exceeded hbm capacity by 4.38G.", 4.38),
        (
            "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (33.78G) exceeds available HBM (15.75G). HLO module: jit_step.",
            18.03,
        ),
    ],
)
def test_how_much_too_much_in_the_compilers_own_words(said, excess):
    found = compiled._excess(RuntimeError(f"RESOURCE_EXHAUSTED: {said}"))
    assert found == pytest.approx(excess * GIB)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        compiled._excess(RuntimeError("INTERNAL: something else"))


@pytest.mark.slow
def test_every_experiment_can_be_planned_for_a_mesh():
    load_experiments()
    for name in experiments.names():
        experiment = on_mesh(experiments[name](), fsdp=8)
        assert planned(experiment).backend.parts == 8


def test_help_and_nothing(capsys):
    assert main(["compile"]) == 2 and main(["compile", "--help"]) == 0
    assert capsys.readouterr().out.count(command.USAGE) == 2


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install '.[tpu]'"
)


@pytest.mark.slow
@needs_libtpu
def test_a_slice_of_tpus_that_is_not_here(tmp_path):
    """Compiled FLOPs are the model's, parameters and AdamW's two numbers for each are cut in 8."""
    file = tmp_path / "costs.json"
    flags = {"training.backend": "mesh", "training.mesh.fsdp": 8, "training.batch_size": 16}
    flags |= {"model.encoder_layers": 1, "model.decoder_layers": 1, "optimizer.name": "adamw"}
    args = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    args += ["--model.compute-dtype", "bfloat16", "--topology", "v5e:2x4"]
    assert main(["compile", "t5_small", *args, "--output", str(file)]) == 0
    figures = json.loads(file.read_text("utf-8"))
    assert 1.0 <= figures["flops"]["ratio"] <= 1.05
    assert figures["fits"] is True and 0 < figures["mfu"]["at_most"] < 1
    built = planned(override(experiments["t5_small"](), flags))
    numbers = sum(x.size for x in jax.tree.leaves(state_shapes(built.model, built.tx).params))
    assert figures["bytes"]["arguments"] == pytest.approx(3 * 4 * numbers / 8, rel=0.01)

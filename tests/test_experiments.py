"""Every registered experiment and config: built, round-tripped, stepped once."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdenoise import ablation, experiment
from jaxdenoise.cli import main
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import Experiment, digest, experiments, from_dict, override, to_dict
from jaxdenoise.flags import parse_flags
from jaxdenoise.model.model import build_model
from jaxdenoise.training.run_directory import RunDirectory, read_json, write_json
from jaxdenoise.vocabulary import Vocabulary

experiment.load_experiments()
NAMES = experiments.names()


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_survives_json_and_says_what_it_is(name):
    built = experiments[name]()
    again = from_dict(json.loads(json.dumps(to_dict(built))))
    assert again == built
    assert digest(again) == digest(built)
    assert len(experiments[name].__doc__) > 20


@pytest.mark.parametrize(
    ("name", "millions"),
    [("t5_small", 77), ("t5_base", 248), ("t5_large", 783), ("t5_xl", 2850), ("t5_xxl", 11_135)],
)
def test_t5_has_its_published_number_of_parameters(name, millions):
    model = build_model(experiments[name]().model, Vocabulary.with_sentinels(size=32_100))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    total = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert round(total / 1e6) == millions


def test_t5s_table_6_has_its_four_rates():
    resolved = ablation.load_ablation(ablation.config_files()["t5_table6_corruption_rate"])
    assert resolved.arms == ("10%", "15%", "25%", "50%")
    rates = [run.experiment.objective.options()["noise_density"] for run in resolved.runs]
    assert rates == [rate for rate in (0.1, 0.15, 0.25, 0.5) for _ in range(3)]
    same = resolved.runs[0].experiment
    changed = [
        dataclasses.replace(run.experiment, objective=same.objective, seed=same.seed)
        for run in resolved.runs
    ]
    assert len(set(map(digest, changed))) == 1  # arms differ in rate and seed alone


def test_the_runs_of_a_config_are_listed_at_a_scale(capsys):
    assert main(["list", "t5_table6_corruption_rate", "--scale", "smoke"]) == 0
    title, *runs = capsys.readouterr().out.splitlines()
    assert title == "Corruption rate: Raffel et al. 2020, table 6"
    assert [run.strip() for run in runs][:3] == ["10%,seed=0", "10%,seed=1", "15%,seed=0"]
    assert len(runs) == 8
    assert main(["list", "t5_table6", "--scale", "smoke"]) == 2
    assert "did you mean 't5_table6_corruption_rate'" in capsys.readouterr().err
    assert main(["list", "--scale", "smoke"]) == 2


def test_axes_multiply_and_seeds_come_last():
    plain = {
        "experiment": "quickstart",
        "seeds": [0, 1],
        "overrides": {"training": {"steps": 10}},
        "axes": {
            "objective": {"noise_density": [0.1, 0.2], "mean_noise_span_length": [2, 3, 5]},
        },
    }
    resolved = ablation.resolve("x", plain, {"training.batch_size": 8})
    assert len(resolved.runs) == 12
    assert resolved.runs[0].name == "noise_density=0.1,mean_noise_span_length=2,seed=0"
    assert {run.experiment.training.steps for run in resolved.runs} == {10}
    assert {run.experiment.training.batch_size for run in resolved.runs} == {8}


def test_an_axis_cannot_be_overridden_and_seeds_are_replaced():
    plain = {"experiment": "quickstart", "axes": {"objective": {"noise_density": [0.1, 0.2]}}}
    with pytest.raises(UserError, match=r"noise_density is what run noise_density=0.1 differs in"):
        ablation.resolve("x", plain, {"objective.noise_density": ["0.3"]})
    resolved = ablation.resolve("x", plain, {"seed": ["4", "5"]})
    assert [run.experiment.seed for run in resolved.runs] == [4, 5, 4, 5]
    assert resolved.runs[0].name == "noise_density=0.1,seed=4"


def test_tables_of_axes_are_a_union_and_arms_go_along_them():
    plain = {
        "experiment": "quickstart",
        "arms": {"small": {"model.width": 64}, "usual": {}},
        "axes": [{"objective.noise_density": [0.1]}, {"training.steps": [5, 6]}],
    }
    resolved = ablation.resolve("x", plain)
    names = ["noise_density=0.1", "steps=5", "steps=6"]
    assert resolved.arms == tuple(f"{arm},{name}" for arm in ("small", "usual") for name in names)
    assert [run.experiment.model.width for run in resolved.runs] == [64] * 3 + [128] * 3


def test_a_scale_overrides_the_overrides_and_may_start_from_another_experiment():
    plain = {
        "experiment": "quickstart",
        "seeds": [0, 1, 2],
        "overrides": {"training.steps": 5, "training.batch_size": 8},
        "arms": {"a": {}},
        "scales": {"tiny": {"experiment": "ablation_smoke", "seeds": [7], "training.steps": 2}},
    }
    [run] = ablation.resolve("x", plain, scale="tiny").runs
    assert (run.experiment.training.steps, run.experiment.training.batch_size) == (2, 8)
    assert (run.experiment.seed, run.experiment.model.width) == (7, 16)
    assert ablation.resolve("x", plain, scale="tiny").folder == "x-tiny"
    with pytest.raises(UserError, match="unknown scale 'full'"):
        ablation.resolve("x", plain, scale="full")


def test_an_axis_may_be_a_structure():
    plain = {
        "experiment": "quickstart",
        "axes": {"objective": [{"name": "span_corruption", "noise_density": 0.3}]},
    }
    [run] = ablation.resolve("x", plain).runs
    assert run.experiment.objective.options()["noise_density"] == 0.3


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "names no experiment"),
        ({"experiment": "quikstart"}, "did you mean 'quickstart'"),
        ({"experiment": "quickstart", "axis": {}}, "unknown key of config x 'axis'"),
        ({"experiment": "quickstart", "axes": {"seed": []}}, "at least one value"),
        ({"experiment": 3}, "experiment of config x is 3; it must be text"),
        ({"experiment": "quickstart", "axes": 3}, "axes of config x is 3; it must be a table"),
        ({"experiment": "quickstart", "axes": {"seed": 3}}, "at least one value"),
        (
            {"experiment": "quickstart", "axes": {"training.steps, seed": [[1, 2], [3]]}},
            "moves 2 fields together, but has \\[3\\]",
        ),
        (
            {"experiment": "quickstart", "axes": {"seed": [1], "training.steps, seed": [[1, 2]]}},
            "seed is given twice in",
        ),
        (
            {"experiment": "quickstart", "arms": {"a": {"seed": 1}}, "axes": {"seed": [1, 2]}},
            "seed is given twice in a,seed=1",
        ),
        ({"experiment": "quickstart", "arms": {"a": 1}}, "arms.a of config x is 1; it must be a"),
        ({"experiment": "quickstart", "seeds": []}, "seeds is empty"),
        ({"experiment": "quickstart", "budget": "flop"}, "did you mean 'flops'"),
        ({"experiment": "quickstart", "published": {"measure": "F1"}}, "a measure and values"),
        (
            {"experiment": "quickstart", "published": {"measure": "F1", "values": {"b": 1}}},
            "unknown arm in published 'b'",
        ),
        (
            {"experiment": "quickstart", "axes": {"data.raw_lenth": [64]}},
            r"raw_lenth=64: .*did you mean 'data.raw_length'",
        ),
        (
            {"experiment": "quickstart", "axes": {"objective.noise_density": [0.1, 1.5, 2.5, 0.2]}},
            r"2 of 4 arms cannot be built, nothing was started. noise_density=1.5: "
            r"objective.noise_density is 1.5; .*; noise_density=2.5: objective.noise_density is 2.5"
            r".*The others can: noise_density=0.1, noise_density=0.2",
        ),
        ({"experiment": "quickstart", "seeds": [0, 1, 0]}, r"seeds has \[0\] twice"),
        (
            {"experiment": "quickstart", "axes": {"seed, seed": [[1, 2]]}},
            "axis seed, seed has a field twice",
        ),
    ],
)
def test_wrong_configs_are_refused_by_name(plain, message):
    with pytest.raises(UserError, match=message):
        ablation.resolve("x", plain)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "x.toml"
    for content in ("experiment = quickstart", "x = " + "[" * 100_000):
        path.write_text(content)
        with pytest.raises(UserError, match=r"x.toml is not TOML"):
            ablation.load_ablation(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.raw_lengt": 3}, "did you mean 'data.raw_length'"),
        ({"zeal": 1}, "Known: data, model, objective, optimizer, seed, training"),
        ({"training.steps": "many"}, "training.steps is 'many'; it must be a whole number"),
        ({"optimizer.b1": "x"}, "optimizer.b1 is 'x'; it must be a number"),
        ({"optimizer.name": "adam"}, "invalid choice 'adam'"),
        ({"seed": -1}, "seed is -1"),
        ({"model.dropout_rate": 1.0}, r"model.dropout_rate is 1.0; it must be in \[0, 1\)"),
        ({"model.width": 0}, "model.width is 0; it must be at least 1"),
        ({"data.held_out": 0}, "data.held_out is 0"),
        ({"data.train_tokens": 69}, "data.train_tokens is 69; it must be at least 70, one row"),
        (
            {"data.train_tokens": 70, "data.mixture": ["a.txt", "1", "b.txt", "1"]},
            "data.train_tokens is 70, and data.mixture has several corpora",
        ),
        ({"data.sentinels": 2}, r"noise spans but the vocabulary has only 2 sentinels"),
        ({"training.normalisation": "token"}, "invalid choice 'token'"),
        ({"objective.name": "drop"}, "unknown objective 'drop'"),
        ({"optimizer.clip_norm": 0.0}, "optimizer.clip_norm is 0.0"),
    ],
)
def test_wrong_fields_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        override(experiments["quickstart"](), changes)
    assert "\n" not in str(error.value)


def test_values_are_parsed_as_flags_are():
    changed = override(
        Experiment(),
        {
            "data.files": ["a.txt", "b.txt"],
            "optimizer.clip_norm": None,
            "model.tied_embeddings": True,
            "objective.noise_density": "0.5",
        },
    )
    assert changed.data.files == ("a.txt", "b.txt")
    assert changed.optimizer.clip_norm is None
    assert changed.model.tied_embeddings is True
    assert changed.objective.options()["noise_density"] == 0.5
    switched = parse_flags(changed, ["--model.tied-embeddings", "false", "--data.pairs=false"])
    assert not switched.model.tied_embeddings


def test_fields_of_speed_are_no_part_of_a_run(tmp_path):
    built = experiments["quickstart"]()
    faster = override(built, {"data.workers": 2, "training.reading_threads": 0})
    assert digest(faster) == digest(built)
    run = RunDirectory(tmp_path / "run")
    run.claim("quickstart", built, {"identity_digest": "x"})
    run.check(faster)
    with pytest.raises(UserError, match="data.raw_length is 70 there and 64 here"):
        run.check(override(built, {"data.raw_length": 64}))


def test_a_field_that_is_added_later_changes_no_digest_and_no_run(tmp_path, monkeypatch):
    built = experiments["quickstart"]()
    digest_before, run = digest(built), RunDirectory(tmp_path / "run")
    run.claim("quickstart", built, {"identity_digest": "x"})
    saved = read_json(run.config)
    del saved["experiment"]["training"]["z_loss"]  # as if it had not existed then
    write_json(run.config, saved)
    run.check(built)
    plain = to_dict(built)
    monkeypatch.setattr(
        experiment, "to_dict", lambda e: {**plain, "training": {**plain["training"], "new": 0}}
    )
    defaults = experiment._defaults(built)
    monkeypatch.setattr(
        experiment,
        "_defaults",
        lambda e: {**defaults, "training": {**defaults["training"], "new": 0}},
    )
    assert digest(built) == digest_before


def test_lists_and_paths_on_an_axis_name_a_folder():
    plain = {"experiment": "quickstart", "axes": {"data.files": [["a/b.txt"], ["c.txt", "d.txt"]]}}
    names = [run.name for run in ablation.resolve("x", plain).runs]
    assert names == ["files=a_b.txt,seed=0", "files=c.txt+d.txt,seed=0"]


def test_an_objective_is_named_in_short():
    changed = override(experiments["quickstart"](), {"objective": "span_corruption"})
    assert changed == experiments["quickstart"]()
    with pytest.raises(UserError, match="did you mean 'span_corruption'"):
        override(experiments["quickstart"](), {"objective": "span_coruption"})


def test_an_objective_and_the_fields_that_it_needs_are_changed_together():
    base = experiments["t5_base"]()
    changed = override(base, {"objective": "iid_denoising", "data.sentinels": 114})
    assert changed.objective.name == "iid_denoising"
    assert base.objective.name == "span_corruption"
    with pytest.raises(UserError, match="up to 114 noise spans .* only 100 sentinels"):
        override(base, {"objective": "iid_denoising"})


def test_a_module_that_is_no_python_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"broken_module cannot be imported \(SyntaxError"):
        experiment.load_experiments(("broken_module",))


def test_a_local_package_that_fails_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("import nothing_there")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"experiments cannot be imported \(ModuleNotFoundError"):
        experiment.load_experiments()


def test_a_local_experiments_package_and_a_module_are_found(tmp_path, monkeypatch):
    import subprocess
    import sys

    source = (
        "from jaxdenoise.experiment import Experiment, experiment\n"
        "@experiment\n"
        "def {name}() -> Experiment:\n"
        '    """Mine."""\n'
        "    return Experiment(seed=7)\n"
    )
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(source.format(name="local_one"))
    (tmp_path / "other.py").write_text(source.format(name="module_one"))
    script = Path(sys.executable).with_name("jaxdenoise")  # the folder it stands in is no help
    command = [script, "list", "--module", "other"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "local_one" in listed.stdout
    assert "module_one" in listed.stdout
    assert "quickstart" in listed.stdout
    with pytest.raises(UserError, match="--module nothing_there cannot be imported"):
        experiment.load_experiments(("nothing_there",))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_built_and_stepped_once(name, corpus, pairs):
    """In its own shapes, on one row of its own length; stepped with two layers a stack at most."""
    from jaxdenoise.training.setup import build

    model = experiments[name]().model
    layers = {f: getattr(model, f) for f in ("encoder_layers", "decoder_layers")}
    small = {
        "training.batch_size": 1,
        "training.backend": "single",
        "data.files": [str(pairs if experiments[name]().data.pairs else corpus)],
        "data.held_out": 0.2,
    }
    setup = build(override(experiments[name](), small))
    rows = setup.backend.split(setup.batches[0])
    shapes = jax.eval_shape(setup.initial_state)
    assert jax.eval_shape(setup.step(), shapes, rows)[0] == shapes  # whole
    two = {f"model.{field}": min(number, 2) for field, number in layers.items()}
    setup = build(override(experiments[name](), {**small, **two}))
    backend = setup.backend
    shapes = jax.eval_shape(setup.initial_state)
    if sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) > 3e8:
        return  # XL, XXL: their states are too large to step here
    state = backend.place(setup.initial_state())
    step = backend.compile(setup.step(), state, rows)
    state, metrics = step(state, rows)
    assert np.isfinite(float(backend.fetch(metrics)["loss"]))
    assert int(state.step) == 1


def test_runs_of_other_held_out_rows_are_not_compared(tmp_path, capsys):
    for name, length in (("one", 70), ("other", 64)):
        (tmp_path / name).mkdir()
        built = override(experiments["quickstart"](), {"data.raw_length": length})
        saved = {"name": name, "experiment": to_dict(built), "store": {"identity_digest": "x"}}
        write_json(tmp_path / name / "config.json", saved)
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "other and one cannot be compared" in said
    assert "data.raw_length is 64 and 70" in said
    assert said.count("\n") == 1

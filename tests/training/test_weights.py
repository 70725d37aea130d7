"""Parameters that a run starts from: another run's, with as many rows for ids as it needs."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxdenoise.cli import main
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import override
from jaxdenoise.model.model import build_model
from jaxdenoise.training.run_directory import RunDirectory, open_run, started_from
from jaxdenoise.training.setup import build
from jaxdenoise.training.weights import (
    _check_ids,
    fitted,
    initial_state,
    restore_params,
    write_imported,
)
from jaxdenoise.vocabulary import Vocabulary
from tests.huggingface.folders import folder_of


@pytest.fixture
def source(tiny, tmp_path):
    """A run of the tiny experiment's model, none of whose parameters is what its seed makes."""
    setup = build(tiny)
    params = jax.tree.map(lambda x: x + 1, setup.model.init(jax.random.key(5)))
    run = RunDirectory(tmp_path / "source")
    write_imported(run, tiny, params, setup.store.tokenizer, {})
    return run, params


@pytest.mark.parametrize(
    "backend",
    ["single", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pmap", "mesh"))],
)
def test_a_run_starts_from_the_parameters_of_another(tiny, source, backend):
    run, params = source
    fields = {"training.init_from": str(run.path), "training.backend": backend}
    fields |= {"training.mesh.fsdp": 4} if backend == "mesh" else {}
    setup = build(override(tiny, fields))
    state = initial_state(setup)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert int(state.step) == 0
    fresh = setup.initial_state()
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    for ours, wanted in zip(*map(jax.tree.leaves, (state, fresh)), strict=True):
        assert ours.sharding.is_equivalent_to(wanted.sharding, ours.ndim)
    other = jax.tree.map(lambda a, b: bool((a != b).any()), params, fresh.params)
    assert jax.tree.all(other)


def test_without_one_it_starts_from_its_seed(tiny):
    setup = build(tiny)
    jax.tree.map(np.testing.assert_array_equal, initial_state(setup), setup.initial_state())


def test_the_command_takes_model_and_tokenizer_from_the_run(tiny, source):
    run, _ = source
    other = override(tiny, {"model.width": 64, "model.compute_dtype": "bfloat16"})
    started = started_from(other, str(run.path))
    assert started.model == dataclasses.replace(tiny.model, compute_dtype="bfloat16")
    assert started.data.tokenizer == str(run.tokenizer)
    assert started.training.init_from == str(run.path)
    assert started.objective == tiny.objective
    with pytest.raises(UserError, match="is not a run"):
        started_from(tiny, str(run.path.parent))


def test_another_tokenizer_or_shape_is_refused(tiny, source):
    run, _ = source
    start = {"training.init_from": str(run.path)}
    with pytest.raises(UserError, match=r"knows id \d+ as .*; give --data.tokenizer .*source/tok"):
        initial_state(build(override(tiny, {**start, "data.sentinels": 21})))
    with pytest.raises(UserError, match=r"has \S+ of shape .*, the model of .*; give the model's"):
        initial_state(build(override(tiny, {**start, "model.mlp_width": 8})))


SMALL = {
    "embedding": np.arange(12.0).reshape(4, 3),
    "projection": np.arange(12.0).reshape(3, 4),
    "prediction_bias": np.arange(4.0),
    "encoder": {"norm": np.ones(3)},
}


def shapes(rows):
    sized = {"embedding": (rows, 3), "projection": (3, rows), "prediction_bias": (rows,)}
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in sized.items()}
    return {**tree, "encoder": {"norm": jax.ShapeDtypeStruct((3,), np.float32)}}


@pytest.mark.parametrize("rows", [3, 4, 6])
def test_rows_of_no_id_are_left_and_new_ones_are_the_mean(rows):
    """Of 4 rows, 3 are ids; the last one fills up."""
    found = fitted(SMALL, shapes(rows), 3, "x")
    for name, axis in (("embedding", 0), ("projection", 1), ("prediction_bias", 0)):
        ours, theirs = (np.moveaxis(tree[name], axis, 0) for tree in (found, SMALL))
        assert ours.shape[0] == rows
        np.testing.assert_array_equal(ours[:3], theirs[:3])
        filled = theirs[3] if rows == 4 else theirs[:3].mean(axis=0)
        assert all((row == filled).all() for row in ours[3:])
    np.testing.assert_array_equal(found["encoder"]["norm"], SMALL["encoder"]["norm"])


def test_parameters_that_do_not_fit_are_named():
    for change, message in [
        ({"encoder": {}}, "'x' has encoder/norm, other than the model"),
        ({"decoder": {"norm": np.ones(3)}}, "'x' lacks decoder/norm"),
        ({"encoder": {"norm": np.ones(4)}}, r"encoder/norm of shape \[3\], the model of \[4\]"),
    ]:
        with pytest.raises(UserError, match=message):
            fitted(SMALL, {**shapes(4), **change}, 3, "x")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_an_imported_model_is_trained_on(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder_of(kind, tmp_path / "small")
    file = tmp_path / "small" / "tokenizer.json"
    file.write_text(file.read_text("utf-8").replace("<doc>", "<other>"), "utf-8")
    assert main(["import", "small"]) == 0
    args = ["train", "ablation_smoke", "--init-from", "runs/small", "--run-dir", "on"]
    args += ["--training.steps", "4", "--training.evaluate-every", "4", "--data.raw-length", "24"]
    args += ["--objective", "masked_lm"] if kind == "bert" else []
    assert main(args) == 0
    assert "4 steps" in capsys.readouterr().out
    directory, _, experiment = open_run("on")
    assert experiment.model.tied_embeddings
    tokenizer = build(experiment).store.tokenizer
    model = build_model(experiment.model, tokenizer.vocab)
    assert tokenizer.vocab.size == 401  # the separator has come to it
    assert model.vocab_size == 512
    assert restore_params(directory, experiment, model)["embedding"].shape[0] == 512


def test_a_tokenizer_with_fewer_ids_is_refused():
    small, large = (
        SimpleNamespace(vocab=Vocabulary(size=n), name=list(map(str, range(n))).__getitem__)
        for n in (8, 9)
    )
    _check_ids(small, large, "x")
    with pytest.raises(UserError, match="'x' knows id 8 as '8'"):
        _check_ids(large, small, "x")


def test_a_decoders_own_embedding_is_fitted_too():
    x = np.arange(12.0).reshape(4, 3)
    shapes = {"decoder_embedding": jax.ShapeDtypeStruct((6, 3), np.float32)}
    found = fitted({"decoder_embedding": x}, shapes, 3, "x")
    np.testing.assert_array_equal(found["decoder_embedding"], [*x[:3], *[x[:3].mean(axis=0)] * 3])

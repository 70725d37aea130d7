"""Both sides of the bench's comparison do the same work; needs PyTorch and transformers."""

import dataclasses
import functools
import importlib.util
import json

import jax
import numpy as np
import pytest

from jaxdenoise.bench import decoding, peers
from jaxdenoise.cli import main
from jaxdenoise.commands.bench_against import compared
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import override
from jaxdenoise.losses import loss_terms, mean_loss
from jaxdenoise.model.model import build_model

TINY = {
    "data.raw_length": 60,
    "model.width": 16,
    "model.mlp_width": 24,
    "model.heads": 2,
    "model.head_width": 6,
    "model.encoder_layers": 2,
    "model.decoder_layers": 1,
    "data.vocabulary_size": 384,
    "training.batch_size": 2,
}
MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
needs_peer = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # PyTorch warns of itself


@needs_peer
@pytest.mark.parametrize("shape", [{}, {"model.gated": True, "model.activation": "gelu_tanh"}])
def test_both_sides_have_the_same_model_tokens_and_loss(shape):
    import torch
    import transformers

    experiment = override(compared(), {**TINY, **shape})
    tied = bool(not shape)  # T5 1.1's projection is not; transformers ties it, unscaled
    model = dataclasses.replace(experiment.model, tied_embeddings=tied)
    experiment = dataclasses.replace(experiment, model=peers._tied(model))
    peers.check(experiment)
    _, batch, parameters = peers._our_step(experiment)
    theirs = peers._their_model(torch, transformers, experiment, "sdpa")
    assert parameters == sum(p.numel() for p in theirs.parameters())
    inputs = peers._tensors(torch, batch, "cpu")
    assert peers._count(batch) == (inputs["input_ids"].numel(), int((inputs["labels"] >= 0).sum()))

    ours = build_model(experiment.model, peers._vocabulary(experiment))
    params = ours.init(jax.random.key(0))
    _copy(params, theirs, torch)
    terms = loss_terms(ours.apply(params, batch), *batch.targets("decoder"))
    with torch.no_grad():
        expected = theirs(**inputs).loss.item()
    np.testing.assert_allclose(mean_loss(terms), expected, rtol=1e-5)


def _copy(params, model, torch):
    """Our parameters into their model."""
    named = {"shared.weight": params["embedding"]}
    for stack in ("encoder", "decoder"):
        ours, layers = params[stack], params[stack]["layers"]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        named[bias] = ours["relative_bias"]["table"]
        named[f"{stack}.final_layer_norm.weight"] = ours["norm"]["scale"]
        for number in range(len(layers["mlp"]["wo"])):
            block, place = f"{stack}.block.{number}.layer", 0
            for name, theirs in (
                ("self_attention", "SelfAttention"),
                ("cross_attention", "EncDecAttention"),
                ("mlp", "DenseReluDense"),
            ):
                if name not in layers:
                    continue
                norm = layers[f"{name}_norm"]["scale"][number]
                named[f"{block}.{place}.layer_norm.weight"] = norm
                for kernel, value in layers[name].items():
                    short = kernel[0] if name != "mlp" else kernel
                    named[f"{block}.{place}.{theirs}.{short}.weight"] = value[number].T
                place += 1
    tensors = {name: torch.tensor(np.array(value)) for name, value in named.items()}
    left = model.load_state_dict(tensors, strict=False)
    assert not left.unexpected_keys
    assert all("embed_tokens" in key or "lm_head" in key for key in left.missing_keys)  # tied


@needs_peer
def test_both_generate_the_same_tokens(monkeypatch, capsys, tmp_path):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    sized = functools.partial(decoding.greedy_beside_transformers, **sizes)
    monkeypatch.setattr(decoding, "greedy_beside_transformers", sized)
    monkeypatch.setattr(decoding, "TOKENS", 6)
    file = tmp_path / "decode.json"
    args = ["bench", "decode", "--against", "transformers", "--rounds", "3", "--output", str(file)]
    assert main(args) == 0
    assert "100.0% of the tokens equal" in capsys.readouterr().out
    assert json.loads(file.read_text())["decode"]["same"] == 1.0


@needs_peer
def test_a_step_of_each_lowers_the_loss():
    import torch
    import transformers

    experiment = override(compared(), TINY)
    step, batch, _ = peers._our_step(experiment)
    model = peers._their_model(torch, transformers, experiment, "eager")
    run = peers._their_step(torch, model, experiment, batch, "cpu", compiled=False)
    assert run() > [run() for _ in range(5)][-1]
    rows_of_zero_rate = step()[1]["loss"]  # the first step's learning rate is 0, of the warm-up
    assert rows_of_zero_rate > [step()[1]["loss"] for _ in range(5)][-1]


def test_a_missing_peer_is_one_line_that_says_how_to_install_it(monkeypatch, capsys):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr("jaxdenoise.bench.peers.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"torch cannot be .* pip install 'jaxdenoise\[peers\]'"):
        peers.steps_beside_transformers(compared())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bench", "--against", "transformers"], "jaxdenoise bench step --against transformers"),
        (["bench", "step", "--against", "fairseq"], "unknown peer 'fairseq'"),
        (["bench", "decode"], "measured beside a peer: add --against transformers"),
        (["bench", "decode", "--against", "transformers", "--seed", "1"], "flag of bench decode"),
        (["bench", "parity", "--seed", "1"], "unknown flag of bench parity 'seed'"),
        (["bench", "step", "--against", "transformers", "--rounds", "2"], "at least 3"),
        (["bench", "step", "--against", "transformers", "--rounds", "x"], "a whole number"),
    ],
)
def test_mistakes_get_one_line(args, message, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bart_base"}, "model.norm is layer, which transformers' T5 has not; give rms"),
        ({"model.dropout_rate": 0.1}, "model.dropout_rate is 0.1"),
        ({"optimizer.name": "adafactor"}, "optimizer.name is adafactor"),
        ({"model.compute_dtype": "float64"}, "give float32 or bfloat16"),
    ],
)
def test_what_the_peer_has_not_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        peers.check(override(compared(), changes))

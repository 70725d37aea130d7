"""Models by name: their published sizes, and how a name becomes fields."""

import json

import jax
import numpy as np
import pytest

from jaxdenoise.ablation import resolve
from jaxdenoise.cli import main
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import (
    Experiment,
    digest,
    from_dict,
    load_experiments,
    override,
    to_dict,
)
from jaxdenoise.flags import split_flags
from jaxdenoise.model.model import Model
from jaxdenoise.presets import presets


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_has_its_number_of_parameters(name):
    preset = presets[name]
    model = Model(preset.config, preset.vocabulary_size)
    shapes = jax.eval_shape(model.init, jax.random.key(0))  # no memory
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == preset.parameters


# As Transformers 5.23 counts them with the published configs. Ours: a bias for each of 47 norms and
# one norm more; a projection of its own.
@pytest.mark.parametrize(
    ("name", "elsewhere", "difference"),
    [
        ("bart_base", 139_420_416, 0),
        ("bart_large", 406_291_456, 0),
        ("bert_base", 109_514_298, 0),
        ("bert_large", 335_174_458, 0),
        ("modern_encoder_base", 149_655_232, 47 * 768 + 768),
        ("t5_1_0_base", 222_903_552, 0),
        ("t5_1_1_base", 222_903_552, 32_128 * 768),  # there the projection is tied
    ],
)
def test_a_preset_differs_from_the_published_model_as_it_says(name, elsewhere, difference):
    assert presets[name].parameters == elsewhere + difference


@pytest.mark.parametrize("name", presets.names())
def test_a_named_model_survives_json_without_its_name(name):
    named = override(Experiment(), {"model": name})
    assert named.model == presets[name].config
    plain = json.loads(json.dumps(to_dict(named)))
    assert "name" not in plain["model"]
    assert from_dict(plain) == named
    assert digest(from_dict(plain)) == digest(named)


def test_a_model_is_named_on_the_command_line():
    flags = split_flags(["--model.width", "64", "--model", "bert_base", "--model.norm=rms"])
    model = override(Experiment(), flags).model
    assert (model.width, model.norm) == (64, "rms")
    assert (model.architecture, model.encoder_layers) == ("encoder", 12)
    again = override(Experiment(), {"model": "bert_base", "model.width": 64, "model.norm": "rms"})
    assert again.model == model
    named = override(Experiment(), {"model.name": "t5_1_0_base"})
    assert named.model == presets["t5_1_0_base"].config


def test_a_model_is_named_in_a_config():
    named = from_dict({"model": {"name": "bert_base", "width": 64}, "seed": 3})
    assert named == override(Experiment(seed=3), {"model": "bert_base", "model.width": 64})
    load_experiments()
    plain = {"experiment": "quickstart", "axes": {"model": ["t5_1_0_small", "bert_base"]}}
    runs = resolve("x", plain).runs
    assert [run.name for run in runs] == ["model=t5_1_0_small,seed=0", "model=bert_base,seed=0"]
    assert [run.experiment.model.width for run in runs] == [512, 768]


def test_what_is_no_shape_stays_the_experiments():
    kept = {"compute_dtype": "bfloat16", "remat": "dots", "scan_unroll": 2, "dropout_rate": 0.1}
    named = override(Experiment(model=ModelConfig(width=8, **kept)), {"model": "bert_base"})
    assert named.model.width == 768
    assert {field: getattr(named.model, field) for field in kept} == kept
    assert override(named, {"model": "bert_base", "model.remat": "none"}).model.remat == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "bert_bse"},
            "unknown model 'bert_bse': did you mean 'bert_base'.* t5_1_0_small",
        ),
        ({"model.name": 3}, "unknown model '3'"),
        ({"model": ["bert_base", "t5_1_0_base"]}, "--model takes one name, not 2"),
        ({"model": "bert_base", "model.widht": 3}, "did you mean 'model.width'"),
        ({"model": "modern_base", "model.heads": 6}, "model.key_value_heads is 4"),
    ],
)
def test_wrong_names_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        override(Experiment(), changes)
    assert "\n" not in str(error.value)


def test_list_shows_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in presets.names())
    for wanted in (
        "encoder_decoder, 12 + 12 × 768, 248M parameters",
        "encoder, 12 × 768, 110M parameters",
        "decoder, 16 × 768, 126M parameters",
        "encoder_decoder, 24 + 24 × 1024, 11.3B parameters",
    ):
        assert wanted in out


def test_a_routing_is_checked_with_the_model_that_it_is_for():
    """Both may change at once, whatever the experiment had."""
    changes = {"model": "modern_base", "objective": "causal_prefix_lm"}
    routed = override(Experiment(), {**changes, "training.gradients": "output_only"})
    assert routed.training.gradients == "output_only"
    back = {"model": "bert_base", "objective": "masked_lm", "training.gradients": "full"}
    assert override(routed, back).training.gradients == "full"
    with pytest.raises(UserError, match="encoder they can be full"):
        override(routed, {"model": "bert_base"})

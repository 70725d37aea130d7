"""Folders in and out, without PyTorch: nothing lost, nothing half-done, errors of a line."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file

from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError
from jaxdenoise.huggingface import files
from jaxdenoise.huggingface.family import ACTIVATIONS, effective
from jaxdenoise.huggingface.pretrained import (
    FAMILIES,
    family_of,
    read_pretrained,
    to_tensors,
    write_pretrained,
)
from jaxdenoise.presets import presets
from tests.huggingface.folders import SMALL, folder_of, params_of, tokenizer

every_family = pytest.mark.parametrize("family", SMALL)


def assert_same(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@every_family
def test_what_is_written_is_read_again(family, tmp_path):
    config, params = folder_of(family, tmp_path / "out")
    found = read_pretrained(tmp_path / "out")
    assert found.family == family
    assert effective(found.config) == effective(config)
    assert found.config.embedding_rows == found.model.vocab_size == 400
    assert_same(found.params, params)
    assert found.tokenizer.vocab == tokenizer().vocab
    assert found.dtype == "float32"
    assert found.unused == ()


@every_family
def test_every_parameter_goes_into_a_tensor_of_its_own(family):
    config, _, params = params_of(family)
    tensors = dict(to_tensors(FAMILIES[family], config, params))
    assert sum(x.size for x in tensors.values()) == sum(x.size for x in jax.tree.leaves(params))


@every_family
def test_large_models_are_written_in_shards(family, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHARD_BYTES", 10_000)
    _, params = folder_of(family, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(names) > 2
    assert all(re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name) for name in names)
    index = json.loads((tmp_path / "out" / files.INDEX).read_text())
    assert sorted(set(index["weight_map"].values())) == names
    assert index["metadata"]["total_size"] == 4 * sum(x.size for x in jax.tree.leaves(params))
    assert_same(read_pretrained(tmp_path / "out").params, params)


def test_half_precision_comes_back_as_it_was(tmp_path):
    folder_of("t5", tmp_path / "a", dtype="bfloat16")
    found = read_pretrained(tmp_path / "a")
    assert found.dtype == "bfloat16"
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))
    write_pretrained(tmp_path / "b", found.config, found.params, dtype="bfloat16")
    weights = [(tmp_path / name / files.WEIGHTS).read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_presets_of_published_models_have_their_family():
    families = {"t5": "t5", "bart": "bart", "bert": "bert"}
    for name in presets.names():
        kind = families.get(name.split("_")[0])
        if kind:
            assert family_of(presets[name].config).name == kind
        else:
            with pytest.raises(UserError, match="has this shape; nearest is"):
                family_of(presets[name].config)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
@pytest.mark.parametrize("gated", [True, False])
def test_every_variation_of_t5_is_said_by_its_config(activation, gated):
    for tied, scaled in ((True, True), (True, False), (False, True)):
        config = dataclasses.replace(
            SMALL["t5"],
            activation=activation,
            gated=gated,
            tied_embeddings=tied,
            scaled_projection=scaled,
            relative_buckets=8,
            norm_epsilon=1e-5,
        )
        if gated and activation == "gelu":  # "gated-gelu" is the approximation
            assert any("activation" in line for line in FAMILIES["t5"].refusals(config))
        else:
            assert FAMILIES["t5"].refusals(config) == []


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("t5", {"biases": True}, "model.biases is True"),
        ("t5", {"qk_norm": True}, "model.qk_norm is True"),
        ("t5", {"scaled_attention": True}, "model.scaled_attention is True"),
        ("bart", {"position_offset": 0}, "model.position_offset is 0 .there: 2."),
        ("bart", {"head_width": 4}, "model.head_width is 4 .there: 8."),
        ("bert", {"prediction_head": False}, "model.prediction_head is False .there: True."),
        ("bert", {"norm_place": "pre"}, "model.norm_place is pre"),
    ],
)
def test_a_shape_that_no_family_has_is_refused_by_name(family, changes, message, tmp_path):
    _, _, params = params_of(family)
    config = dataclasses.replace(SMALL[family], **changes)
    with pytest.raises(UserError, match=message):
        write_pretrained(tmp_path / "out", config, params)
    assert list(tmp_path.iterdir()) == []


def change_config(folder, **fields):
    path = folder / files.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder, change):
    tensors = load_file(folder / files.WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / files.WEIGHTS)


def refused(folder, message):
    with pytest.raises(UserError, match=message) as error:
        read_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("t5", {"model_type": "gpt2"}, "unknown model_type 'gpt2':.* Known: bart, bert, t5"),
        ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj is 'gated-tanh'; allowed"),
        (
            "t5",
            {"d_ff": 48},
            r"wi.weight has shape \[24, 16\], and config.json makes it \[48, 16\]",
        ),
        ("t5", {"num_layers": 3}, "lacks encoder.block.2.layer.0.SelfAttention.k.weight"),
        ("t5", {"num_layers": 1}, "has more tensors .* encoder.block.1.* and 5 more"),
        ("bart", {"scale_embedding": True}, "scale_embedding is True, and our models have False"),
        ("bart", {"decoder_ffn_dim": 7}, "decoder_ffn_dim is 7, and our models have 24 alone"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        (
            "bart",
            {"encoder_attention_heads": 0},
            "encoder_attention_heads is 0; it must be a whole",
        ),
        ("t5", {"d_model": "16"}, "d_model is '16'; it must be a whole number above 0"),
        ("t5", {"d_ff": float("inf")}, "d_ff is inf; it must be a whole number above 0"),
        ("t5", {"num_heads": 2.5}, "num_heads is 2.5; it must be a whole number"),
        ("t5", {"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'; it must be a number"),
        ("t5", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it must be true or false"),
        ("bert", {"hidden_act": ["gelu"]}, "hidden_act is .'gelu'.; it must be a text"),
        ("bert", {"model_type": ["bert"]}, "unknown model_type"),
        ("bert", {"vocab_size": None}, "has shape .400, 16., and config.json makes it .30522, 16."),
        ("bert", {"vocab_size": 512}, r"embeddings.weight has shape \[400, 16\].* \[512, 16\]"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_a_line(family, fields, message, tmp_path):
    folder_of(family, tmp_path / "x")
    change_config(tmp_path / "x", **fields)
    refused(tmp_path / "x", message)


def test_damaged_files_are_refused_in_a_line(tmp_path):
    folder = tmp_path / "x"
    refused(folder, "has no config.json")
    folder_of("t5", folder)
    weights = (folder / files.WEIGHTS).read_bytes()
    for size in (0, 7, 300, len(weights) - 5):
        (folder / files.WEIGHTS).write_bytes(weights[:size])
        refused(folder, "model.safetensors' is damaged or not whole")
    (folder / files.WEIGHTS).unlink()
    refused(folder, "has no model.safetensors; give a folder")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(folder, "pytorch_model.bin is not read, since a pickle may run any code")
    (folder / files.CONFIG).write_text("{")
    refused(folder, "config.json' is damaged")
    (folder / files.CONFIG).write_text('{"a":' * 100_000)
    refused(folder, "config.json' is damaged")


@pytest.mark.parametrize(
    "name", ["../stolen.safetensors", "/stolen.safetensors", "a/b.safetensors"]
)
def test_an_index_names_files_of_its_folder_alone(name, tmp_path):
    folder = tmp_path / "x"
    folder_of("t5", folder)
    (folder / files.WEIGHTS).rename(tmp_path / "stolen.safetensors")
    (folder / files.INDEX).write_text(json.dumps({"weight_map": {"shared.weight": name}}))
    refused(folder, "which is no file of this folder")


def test_a_missing_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHARD_BYTES", 10_000)
    folder_of("t5", tmp_path / "x")
    lost = min((tmp_path / "x").glob("*.safetensors"))
    lost.unlink()
    refused(tmp_path / "x", f"lacks {lost.name}; fetch it again")


def test_tensors_too_many_too_few_or_of_integers_are_named(tmp_path):
    name = "encoder.final_layer_norm.weight"
    for number, (change, message) in enumerate(
        [
            (lambda x: x.update(more=np.ones(3, np.float32)), "more tensors .* more; was it cut"),
            (lambda x: x.pop(name), f"lacks {name};"),
            (lambda x: x.update({name: np.ones(16, np.int32)}), f"{name} is I32; allowed are"),
        ]
    ):
        folder = tmp_path / str(number)
        folder_of("t5", folder)
        change_tensors(folder, change)
        refused(folder, message)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tmp_path):
    config, _, params = params_of("t5")
    write_pretrained(tmp_path / "x", config, params, tokenizer())
    refused(tmp_path / "x", "has 400 ids, the model has 128 rows")


def test_older_names_copies_and_heads_that_we_have_not(tmp_path):
    """As bert-base-uncased is: gamma and beta, a pooler, the decoder of the tied projection."""
    folder = tmp_path / "x"
    _, params = folder_of("bert", folder)

    def age(tensors):
        for name in list(tensors):
            if "LayerNorm" in name:
                old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
                tensors[old] = tensors.pop(name)
        words = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = words
        tensors["bert.pooler.dense.weight"] = np.ones((16, 16), np.float32)

    change_tensors(folder, age)
    found = read_pretrained(folder)
    assert_same(found.params, params)
    assert found.unused == ("bert.pooler.dense.weight",)


def test_a_copy_that_differs_is_weights_of_its_own(tmp_path):
    """So transformers has it since version 5; a projection of T5, but not a second embedding."""
    folder = tmp_path / "x"
    _, params = folder_of("t5", folder)
    other = np.ones((400, 16), np.float32)
    change_tensors(folder, lambda x: x.update({"lm_head.weight": other}))
    refused(folder, "differs from shared.weight, and config.json scales the projection as if")
    change_config(folder, tie_word_embeddings=False, scale_decoder_outputs=False)
    found = read_pretrained(folder)
    assert found.config.tied_embeddings is False
    assert_same(found.params, {**params, "projection": other.T})
    change_tensors(folder, lambda x: x.update({"decoder.embed_tokens.weight": other + 1}))
    refused(folder, "has more tensors .* decoder.embed_tokens.weight")


def test_a_projection_of_its_own_stays_one(tmp_path):
    folder_of("t5", tmp_path / "x")
    other = np.ones((400, 16), np.float32)
    change_tensors(tmp_path / "x", lambda x: x.update({"lm_head.weight": other}))
    change_config(tmp_path / "x", tie_word_embeddings=False, scale_decoder_outputs=False)
    found = read_pretrained(tmp_path / "x")
    write_pretrained(tmp_path / "y", found.config, found.params, tokenizer())
    assert_same(read_pretrained(tmp_path / "y").params, found.params)


def test_a_headless_bert_is_known_by_its_tensors(tmp_path):
    """Whatever its config says, or does not."""
    folder = tmp_path / "x"
    _, params = folder_of("bert", folder)

    def behead(tensors):
        for name in list(tensors):
            value = tensors.pop(name)
            if name.startswith("bert."):
                tensors[name.removeprefix("bert.")] = value

    change_tensors(folder, behead)
    change_config(folder, architectures=None)
    found = read_pretrained(folder)
    assert not found.config.prediction_head
    assert_same(found.params["encoder"], params["encoder"])


def test_a_decoder_that_the_file_lacks_is_not_done_without(tmp_path):
    folder_of("t5", tmp_path / "x")

    def cut(tensors):
        for name in list(tensors):
            if name.startswith("decoder."):
                del tensors[name]

    change_tensors(tmp_path / "x", cut)
    refused(tmp_path / "x", "lacks the decoder that config.json says")
    change_config(tmp_path / "x", architectures=["T5EncoderModel"])
    assert read_pretrained(tmp_path / "x").config.architecture == "encoder"


def test_dropout_and_special_ids_are_read(tmp_path):
    """As facebook/bart-base has them; null is a default."""
    folder_of("bart", tmp_path / "x")
    change_config(tmp_path / "x", dropout=0.25, scale_embedding=None, decoder_start_token_id=2)
    (tmp_path / "x" / files.GENERATION).unlink()
    found = read_pretrained(tmp_path / "x")
    assert found.config.dropout_rate == 0.25
    assert found.settings["decoder_start_token_id"] == 2


def test_several_dtypes_are_the_widest_and_what_has_no_value_is_refused(tmp_path):
    """transformers keeps some products of T5 in float32."""
    folder, name = tmp_path / "x", "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    folder_of("t5", folder, dtype="float16")
    large = np.full((16, 24), 3e5, np.float32)
    change_tensors(folder, lambda x: x.update({name: large}))
    found = read_pretrained(folder)
    assert found.dtype == "float32"
    assert float(found.params["encoder"]["layers"]["mlp"]["wo"][0, 0, 0]) == 3e5
    with pytest.raises(UserError, match="mlp/wo has values that float16 has not"):
        write_pretrained(tmp_path / "y", found.config, found.params, dtype="float16")
    assert not (tmp_path / "y").exists()


def test_a_tokenizer_that_is_asked_for_must_be_there(tmp_path):
    folder_of("t5", tmp_path / "x")
    with pytest.raises(UserError, match=r"tokenizer '.*none.json' is not a file"):
        read_pretrained(tmp_path / "x", tmp_path / "none.json")


def test_of_one_file_and_several_the_one_is_read_as_there(tmp_path, monkeypatch):
    folder_of("t5", tmp_path / "x")
    monkeypatch.setattr(files, "SHARD_BYTES", 10_000)
    write_pretrained(tmp_path / "y", *params_of("t5", 400)[::2])
    for path in (tmp_path / "y").glob("model-*"):
        path.rename(tmp_path / "x" / path.name)
    (tmp_path / "y" / files.INDEX).rename(tmp_path / "x" / files.INDEX)
    with files.Tensors(tmp_path / "x") as tensors:
        assert {handle.metadata()["format"] for handle in tensors._by_name.values()} == {"pt"}
        assert len({id(handle) for handle in tensors._by_name.values()}) == 1


def test_the_working_directory_is_not_written_over(tmp_path, monkeypatch):
    config, _, params = params_of("bert")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="another than the working directory"):
        write_pretrained(".", config, params)


def test_an_embedding_under_the_name_of_its_copy_alone(tmp_path):
    folder = tmp_path / "x"
    _, params = folder_of("t5", folder)
    copy, original = "encoder.embed_tokens.weight", "shared.weight"
    change_tensors(folder, lambda x: x.update({copy: x.pop(original)}))
    assert_same(read_pretrained(folder).params, params)


def test_a_folder_in_use_and_an_unknown_dtype_are_refused(tmp_path):
    config, _, params = params_of("bert")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="is there and not empty"):
        write_pretrained(tmp_path / "x", config, params)
    with pytest.raises(UserError, match="dtype is int8; it must be one of float32, bfloat16"):
        write_pretrained(tmp_path / "y", config, params, dtype="int8")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine.txt"]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    config, _, params = params_of("bert")
    broken = {**params, "prediction": {}}
    with pytest.raises(KeyError):
        write_pretrained(tmp_path / "y", config, broken)
    assert list(tmp_path.iterdir()) == []


def test_the_shape_of_our_defaults_is_t5s():
    """So that what the quickstart trains can be exported."""
    assert family_of(ModelConfig()).name == "t5"

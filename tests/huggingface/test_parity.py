"""The same weights here and in transformers; needs PyTorch and transformers."""

import functools
import importlib.util
import json

import jax
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.bench.parity import CASES, parity
from jaxdenoise.cli import main
from jaxdenoise.huggingface.pretrained import write_pretrained
from jaxdenoise.tokenizer import train_tokenizer
from jaxdenoise.vocabulary import Vocabulary
from tests.huggingface.folders import SMALL, TEXTS, params_of

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
needs_peer = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")
pytestmark = [needs_peer, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", CASES)
def test_outputs_loss_and_gradients_are_theirs_and_every_byte_comes_back(name):
    found = parity(CASES[name])
    assert found.outputs < 1e-4
    assert found.loss < 1e-5
    assert found.gradients < 1e-5
    assert found.tensors == found.identical > 20
    assert found.returned


def test_the_command_prints_every_case_and_writes_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("jaxdenoise.bench.parity.CASES", {"bert": CASES["bert"]})
    file = tmp_path / "parity.json"
    assert main(["bench", "parity", "--output", str(file)]) == 0
    out = capsys.readouterr().out
    assert "58 of 58" in out
    assert "transformers" in out
    assert json.loads(file.read_text())["bert"]["returned"] is True


@pytest.mark.parametrize("family", SMALL)
def test_transformers_reads_the_tokenizer_that_goes_with_a_model(family, tmp_path):
    import transformers

    tokenizer = train_tokenizer(TEXTS, vocabulary_size=400, sentinels=20)
    config, _, params = params_of(family, rows=tokenizer.vocab.size)
    write_pretrained(tmp_path / "out", config, params, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ["Return the sum.", "naïve façade ☃", "  two  spaces\n"]:
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text).tolist()
    ended = [*tokenizer.encode("Return").tolist(), tokenizer.vocab.eos_id]
    both = config.architecture == "encoder_decoder"
    assert theirs("Return").input_ids == (ended if both else ended[:-1])
    assert theirs.pad_token_id == tokenizer.vocab.pad_id
    assert theirs.mask_token_id == tokenizer.vocab.mask_id
    sentinel = theirs("a<extra_id_1>", add_special_tokens=False).input_ids[-1]
    assert sentinel == tokenizer.vocab.sentinel_ids[1]


def test_an_export_decodes_in_transformers_as_it_does_here(tmp_path):
    import torch
    import transformers

    tokenizer = train_tokenizer(TEXTS, vocabulary_size=400, sentinels=20)
    config, model, params = params_of("t5", rows=400)
    write_pretrained(tmp_path / "out", config, params, tokenizer)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out")
    ids = np.array([tokenizer.encode("Return the sum of"), tokenizer.encode("Return the sum of")])
    ones = np.ones_like(ids, np.int32)
    batch = jd.Example(encoder_input_tokens=ids, encoder_segment_ids=ones)
    ours = np.asarray(jd.greedy(model, params, batch, 12, tokenizer.vocab))
    with torch.no_grad():
        output = theirs.generate(torch.tensor(ids.astype(np.int64)), max_new_tokens=12).numpy()
    width = min(output.shape[1] - 1, ours.shape[1])
    assert width > 1
    np.testing.assert_array_equal(ours[:, :width], output[:, 1 : width + 1])


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_finds_what_theirs_finds(beams, length_penalty, tmp_path):
    """On weights with which continuations end at every length."""
    import torch
    import transformers

    config, model, params = params_of("t5", rows=40)
    params = {**params, "embedding": 16 * params["embedding"]}
    params["encoder"] = jax.tree.map(lambda x: 3 * x, params["encoder"])
    layers = jax.tree.map(lambda x: 3 * x, params["decoder"]["layers"])
    params["decoder"] = {**params["decoder"], "layers": layers}
    write_pretrained(tmp_path / "out", config, params)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out")
    ids = np.random.default_rng(1).integers(2, 40, (8, 9)).astype(np.int32)
    batch = jd.Example(encoder_input_tokens=ids, encoder_segment_ids=np.ones_like(ids))
    written = np.asarray(jd.greedy(model, params, batch, 10, Vocabulary(size=40)))
    eos = int(np.bincount(written[:, 3:].ravel()).argmax())
    vocab = Vocabulary(size=40, eos_id=eos)
    search = functools.partial(jd.beam_search, beams=beams, length_penalty=length_penalty)
    found, scores = jax.jit(search, static_argnums=(0, 3, 4))(model, params, batch, 10, vocab)
    with torch.no_grad():
        wanted = theirs.generate(
            torch.tensor(ids.astype(np.int64)),
            attention_mask=torch.ones(ids.shape, dtype=torch.long),
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=length_penalty,
            early_stopping="never",
            max_new_tokens=10,
            decoder_start_token_id=0,
            eos_token_id=eos,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    sequences = wanted.sequences.numpy()[:, 1:].reshape(8, beams, -1)
    ended = np.cumsum(sequences == eos, axis=-1) - (sequences == eos) > 0
    sequences = np.where(ended, 0, sequences)  # there a padding id of 0 counts as none, and is EOS
    np.testing.assert_array_equal(np.asarray(found)[..., : sequences.shape[-1]], sequences)
    np.testing.assert_allclose(scores, wanted.sequences_scores.reshape(8, beams), rtol=1e-4)
    sizes = np.unique((np.asarray(found) != 0).sum(axis=-1))
    assert len(sizes) > 4 or length_penalty  # which makes all of them long

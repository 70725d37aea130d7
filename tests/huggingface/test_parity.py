"""The same weights here and in transformers; needs PyTorch and transformers."""

import importlib.util
import json

import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.bench.parity import CASES, parity
from jaxdenoise.cli import main
from jaxdenoise.huggingface.pretrained import write_pretrained
from jaxdenoise.tokenizer import train_tokenizer
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

"""jaxdenoise import and export: a folder of transformers, a run, a folder again."""

import json

import numpy as np
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.cli import main
from jaxdenoise.config import DataConfig
from jaxdenoise.data.stand_in import vocabulary_of
from jaxdenoise.data.store import load_tokenizer, prepare
from jaxdenoise.experiment import Experiment
from jaxdenoise.huggingface import files
from jaxdenoise.model.decoding import _prompt
from jaxdenoise.objectives import configure
from jaxdenoise.training.run_directory import open_run, started_from
from jaxdenoise.training.setup import plan
from jaxdenoise.training.weights import restore_model
from tests.commands.test_errors import refuse
from tests.huggingface.folders import folder_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *args):
    assert main(list(args)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "family", ["t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bart", "bert"))]
)
def test_a_model_comes_in_and_goes_out_with_the_same_bytes(family, elsewhere, capsys):
    folder_of(family, elsewhere / "small", dtype="bfloat16")
    out = said(capsys, "import", "small")
    assert f"{family}: encoder" in out
    assert "400 ids in 400 rows" in out
    assert "run: runs/small" in out
    assert "bfloat16: again" in said(capsys, "export", "runs/small", "again")
    for name in (files.WEIGHTS, files.TOKENIZER, files.CONFIG):
        before, after = (elsewhere / folder / name for folder in ("small", "again"))
        assert after.read_bytes() == before.read_bytes()


def test_how_a_model_starts_and_ends_a_text_comes_back(elsewhere, capsys):
    """Where a decoder starts from neither padding nor EOS, as ours can, that is said."""
    folder_of("bart", elsewhere / "small")
    path = elsewhere / "small" / files.GENERATION
    own = json.loads(path.read_text())
    assert own["decoder_start_token_id"] == own["pad_token_id"] == 0
    theirs = {**own, "decoder_start_token_id": 2, "forced_bos_token_id": 3}
    path.write_text(json.dumps(theirs))
    assert "its decoder starts from id 2, here from 0: generate nothing" in said(
        capsys, "import", "small"
    )
    refuse(["export", "runs/small", "memory://out"], capsys, "is not of this machine")
    refuse(["import", "small", "--run-dir", "memory://run"], capsys, "is not of this machine")
    said(capsys, "export", "runs/small", "again")
    assert json.loads((elsewhere / "again" / files.GENERATION).read_text()) == theirs
    config = json.loads((elsewhere / "again" / files.CONFIG).read_text())
    assert config["decoder_start_token_id"] == 2


def test_a_decoder_that_starts_from_the_end_token_does_so_everywhere(elsewhere, capsys):
    """As BART's: read, filled with, trained on and written again."""
    folder_of("bart", elsewhere / "small")
    path = elsewhere / "small" / files.GENERATION
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_start_token_id": 1}))
    assert "decoder starts" not in said(capsys, "import", "small")
    opened, _, experiment = open_run("runs/small")
    assert experiment.data.decoder_start == "eos"
    model, _, tokenizer = restore_model(opened, experiment)
    assert tokenizer.vocab.start_id == load_tokenizer("runs/small").vocab.start_id == 1
    side = Example(
        encoder_input_tokens=np.array([[5, 1]]), encoder_segment_ids=np.ones((1, 2), int)
    )
    assert _prompt(model, side, tokenizer.vocab)[0].tolist() == [[1]]
    (elsewhere / "corpus.txt").write_text("\n\n".join(f"Paragraph {k}." for k in range(99)))
    data = DataConfig(files=("corpus.txt",), raw_length=16)
    trained = started_from(Experiment(objective=configure("bart"), data=data), "runs/small")
    vocab = plan(trained, prepare(trained.data).tokenizer.vocab).objective.vocab
    assert vocab.start_id == vocabulary_of(trained.data).start_id == 1


def test_an_imported_run_is_one_for_the_other_commands(elsewhere, capsys):
    folder_of("t5", elsewhere / "small")
    said(capsys, "import", "small", "--run-dir", "here")
    out = said(capsys, "infill", "here", "--text", "Return the <mask> of the array.")
    assert out.startswith("Return the [")
    refuse(
        ["train", "quickstart", "--run-dir", "here"], capsys, "was made by another configuration"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert"])
def test_both_stacks_start_from_one(family, elsewhere, capsys):
    folder_of(family, elsewhere / "small")
    out = said(capsys, "import", "small", "--as", "encoder-decoder", "--run-dir", "both")
    assert "bert: encoder_decoder, 2 + 2 × 16" in out
    assert "Return the [" in said(capsys, "infill", "both", "--text", "Return the <extra_id_0>.")
    said(capsys, "import", "small", "--run-dir", "one")
    out = said(capsys, "import", "one", "--as", "encoder-decoder", "--run-dir", "again")
    assert "run: encoder_decoder, 2 + 2 × 16" in out
    assert json.loads((elsewhere / "again" / "config.json").read_text())["store"]["imported"] == {
        "run": "imported",
        "as": "encoder-decoder",
    }


@pytest.mark.slow
def test_an_imported_encoder_fills_masks(elsewhere, capsys):
    folder_of("bert", elsewhere / "small")
    said(capsys, "import", "small")
    text = ["--text", "Return the <mask>.", "<mask> <mask>"]
    first, choices, *_ = said(capsys, "infill", "runs/small", *text, "--top-k", "4").splitlines()
    assert first.startswith("Return the [")
    assert choices.count("%") == 4
    refuse(["infill", "runs/small", *text, "--top-k", "x"], capsys, "it must be a whole")


def test_a_model_without_a_row_for_the_separator_is_used_as_it_is(elsewhere, capsys):
    """As bert-base-uncased: 400 ids in 400 rows, none of which stands between documents."""
    folder_of("bert", elsewhere / "small")
    path = elsewhere / "small" / files.TOKENIZER
    path.write_text(path.read_text("utf-8").replace("<doc>", "<other>"), "utf-8")
    assert "400 ids in 400 rows" in said(capsys, "import", "small")
    assert said(capsys, "infill", "runs/small", "--text", "Return the <mask>.")
    said(capsys, "export", "runs/small", "again")
    show = ["show", "masked_lm", "--run", "runs/small"]
    assert "<mask>" in said(capsys, *show, "--text", "Return the sum.")
    (elsewhere / "some.txt").write_text("Return the sum.")
    refuse([*show, "--file", "some.txt"], capsys, "has no <doc> to stand between documents")


def test_bad_input_gets_a_line_and_leaves_nothing(elsewhere, capsys):
    folder_of("t5", elsewhere / "small")
    refuse(["import", "nothing"], capsys, "'nothing' has no config.json")
    refuse(["import", "small", "--as", "decoder"], capsys, "it can be encoder-decoder")
    refuse(["import", "small", "--as", "encoder-decoder"], capsys, "which has both stacks")
    refuse(["import", "small", "--colour", "red"], capsys, "unknown flag of import 'colour'")
    refuse(["import", "--run-dir", "x"], capsys, "before any flag")
    refuse(["import", "small", "--run-dir", "a[b]"], capsys, "has a [ in it")
    (elsewhere / "small" / files.TOKENIZER).rename(elsewhere / "t.json")
    refuse(["import", "small"], capsys, "has no tokenizer.json and no spiece.model, without which")
    said(capsys, "import", "small", "--tokenizer", "t.json", "--run-dir", "run")
    refuse(["import", "small", "--run-dir", "run"], capsys, "'run' is there already")
    refuse(["import", "run", "--run-dir", "other"], capsys, "'run' is a run already; --as")
    refuse(["export", "run"], capsys, "give a run and the folder to write")
    refuse(["export", "small", "out"], capsys, "'small' is not a run")
    refuse(["export", "run", "out", "--dtype", "int8"], capsys, "dtype is int8")
    refuse(["export", "run", "small"], capsys, "'small' is there and not empty")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["run", "small", "t.json"]

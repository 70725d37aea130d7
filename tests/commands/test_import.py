"""jaxdenoise import and export: a folder of transformers, a run, a folder again."""

import json

import pytest

from jaxdenoise.cli import main
from jaxdenoise.huggingface import files
from tests.huggingface.folders import folder_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *args):
    assert main(list(args)) == 0
    return capsys.readouterr().out


def refuse(capsys, message, *args):
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("jaxdenoise: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in out + err


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
    """BART's decoder starts from EOS, a model's trained here from padding."""
    folder_of("bart", elsewhere / "small")
    path = elsewhere / "small" / files.GENERATION
    own = json.loads(path.read_text())
    assert own["decoder_start_token_id"] == own["pad_token_id"] == 0
    theirs = {**own, "decoder_start_token_id": 1, "forced_bos_token_id": 2}
    path.write_text(json.dumps(theirs))
    assert "its decoder starts from id 1, here from padding, 0" in said(capsys, "import", "small")
    refuse(capsys, "is not of this machine", "export", "runs/small", "memory://out")
    refuse(capsys, "is not of this machine", "import", "small", "--run-dir", "memory://run")
    said(capsys, "export", "runs/small", "again")
    assert json.loads((elsewhere / "again" / files.GENERATION).read_text()) == theirs
    config = json.loads((elsewhere / "again" / files.CONFIG).read_text())
    assert config["decoder_start_token_id"] == 1


def test_an_imported_run_is_one_for_the_other_commands(elsewhere, capsys):
    folder_of("t5", elsewhere / "small")
    said(capsys, "import", "small", "--run-dir", "here")
    out = said(capsys, "infill", "here", "--text", "Return the <mask> of the array.")
    assert out.startswith("Return the [")
    refuse(capsys, "was made by another configuration", "train", "quickstart", "--run-dir", "here")


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
    refuse(
        capsys, "--top-k is 'x'; it must be a whole", "infill", "runs/small", *text, "--top-k", "x"
    )


def test_bad_input_gets_a_line_and_leaves_nothing(elsewhere, capsys):
    folder_of("t5", elsewhere / "small")
    refuse(capsys, "'nothing' has no config.json", "import", "nothing")
    refuse(
        capsys, "--as is 'decoder'; it can be encoder-decoder", "import", "small", "--as", "decoder"
    )
    refuse(capsys, "which has both stacks", "import", "small", "--as", "encoder-decoder")
    refuse(capsys, "unknown flag of import 'colour'", "import", "small", "--colour", "red")
    refuse(capsys, "before any flag", "import", "--run-dir", "x")
    refuse(capsys, "has a [ in it", "import", "small", "--run-dir", "a[b]")
    (elsewhere / "small" / files.TOKENIZER).rename(elsewhere / "t.json")
    refuse(capsys, "has no tokenizer.json, without which", "import", "small")
    said(capsys, "import", "small", "--tokenizer", "t.json", "--run-dir", "run")
    refuse(capsys, "'run' is there already", "import", "small", "--run-dir", "run")
    refuse(capsys, "'run' is a run already; --as", "import", "run", "--run-dir", "other")
    refuse(capsys, "give a run and the folder to write", "export", "run")
    refuse(capsys, "'small' is not a run", "export", "small", "out")
    refuse(capsys, "dtype is int8", "export", "run", "out", "--dtype", "int8")
    refuse(capsys, "'small' is there and not empty", "export", "run", "small")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["run", "small", "t.json"]

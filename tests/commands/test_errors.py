"""What bad input gets: one line with the way out, status 2, nothing written."""

import json

import pytest

from jaxdenoise.cli import main
from jaxdenoise.commands import train
from jaxdenoise.tokenizer import train_tokenizer

FEW_IDS = ["--data.vocabulary-size", "400", "--data.sentinels", "20"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refuse(args, capsys, message):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.startswith("jaxdenoise: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tran"], "unknown command 'tran': did you mean 'train'?"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "nothing.toml"], "say `jaxdenoise sweep nothing.toml`"),
        (["sweep", "nothing.toml"], "'nothing.toml' is not a file"),
        (["sweep", "t5_table6_corruption_rte"], "did you mean 't5_table6_corruption_rate'?"),
        (["sweep", "t5_table6_corruption_rate", "--scale", "tiny"], "Known: full, mini, smoke"),
        (["sweep", "t5_table6_corruption_rate", "--engine", "moon"], "unknown engine 'moon'"),
        (["train", "quickstart", "--data.raw-lenth", "5"], "did you mean 'data.raw_length'?"),
        (["train", "quickstart", "stray"], "'stray' is not a flag"),
        (["train", "quickstart", "--objective.noise-density", "1.5"], "noise_density is 1.5"),
        (["train", "quickstart", "--objective.noise-density", "0"], "noise_density is 0.0"),
        (["train", "quickstart", "--objective.mean-noise-span-length", "0.5"], "is 0.5"),
        (["train", "quickstart", "--data.sentinels", "2"], "only 2 sentinels"),
        (["train", "quickstart", "--training.steps", "ten"], "training.steps is 'ten'"),
        (["train", "quickstart", "--data.files", "no/*.txt"], "no file matches 'no/*.txt'"),
        (["train", "quickstart", "--data.tokenizer", "t.json"], "'t.json' is not a file"),
        (["train", "quickstart", "--run-dir"], "--run-dir has no value"),
        (["train", "quickstart", "--run-dir", "a", "b"], "--run-dir takes one value, not 2"),
        (["train", "quickstart", "--run-dir", "a[b]"], "has a [ in it"),
        (["train", "quickstart", "--profile", "10"], "--profile is '10'; give two steps"),
        (["train", "quickstart", "--profile", "5:5"], "the run has steps 1 to 800"),
        (["train", "quickstart", "--profile", "0:2"], "give A:B with 1 ≤ A < B ≤ 801"),
        (["train", "quickstart", "--profile", "9:802"], "the run has steps 1 to 800"),
        (["train", "t5_table6_corruption_rate"], "is a config of several"),
        (["train", "quickstart", "--log", "wandb", "--log", "tensorbord"], "mean 'tensorboard'?"),
        (["train", "quickstart", "--log"], "--log has no value"),
        (
            ["train", "quickstart", "--log", "wandb", "--run-dir", "memory://run"],
            "'memory://run' is an address; set WANDB_MODE=online",
        ),
        (["train", "quickstart", "--training.mesh.fsdp", "2"], "say --training.backend mesh"),
        (["train", "quickstart", "--data.files"], "--data.files has no value"),
        (["train", "quickstart", "--objective"], "--objective has no value"),
        (["sweep", "t5_table6_corruption_rate", "--objective.noise-density", "0.3"], "differs in"),
        (["train", "quickstart", "--data.vocabulary-size", "300"], "must be at least 366"),
        (["train", "quickstart", "--seed", "99999999999"], "seed is 99999999999"),
        (["train", "quickstart", "--training.gradients", "output_only"], "full, encoder, decoder"),
        (["train", "quickstart", "--training.label-smoothing", "1"], "label_smoothing is 1.0"),
        (["train", "quickstart", "--training.constant", "0"], "training.constant is 0.0"),
        (["train", "quickstart", "--model.key-value-heads", "3"], "it must divide model.heads (4)"),
        (["train", "quickstart", "--model.local-window", "1"], "local_window is 1"),
        (["train", "quickstart", "--model.continued-positions", "True"], "rotary or learned"),
        (["train", "quickstart", "--model", "bert_bse"], "did you mean 'bert_base'?"),
        (["train", "quickstart", "--model.key-value-heads", "0"], "key_value_heads is 0"),
        (["train", "quickstart", "--model", "modern_base"], "inputs for the encoder and decoder"),
        (["show", "masked_lm", "--objective.mask-replace-prob", "0.95"], "nor their sum above 1"),
        (
            ["show", "causal_prefix_lm", "--objective.longest-output", "0"],
            "it is a share, in (0, 1]",
        ),
        (["bench", "--experiment"], "--experiment has no value"),
        (["bench", "step", "--experiment", "quikstart"], "did you mean 'quickstart'?"),
        (["list", "--modul", "x"], "did you mean 'module'?"),
        (["infill", "nowhere", "--txt", "a"], "'nowhere' is not a run"),
        (["report", "nowhere", "--bogus", "1"], "unknown flag of report 'bogus'"),
        (["report", "--output", "x"], "give at least one run's directory"),
        (["train", "quickstart", "--module", "nowhere"], "--module nowhere cannot be imported"),
        (["train", "quickstart", "--data.corpus", "pydoc"], "did you mean 'pydocs'?"),
        (["show", "span_corupt"], "did you mean 'span_corruption'?"),
        (["show", "span_corruption", "--objective.noise-density", "2"], "noise_density is 2.0"),
        (["show", "span_corruption", "--draws", "0"], "draws is 0"),
        (["show", "nothing_known"], "unknown objective 'nothing_known'"),
        (["show", "span_corruption", "--text", ""], "text is empty"),
        (["show", "span_corruption", "--text", "a", "--file", "b.txt"], "text and file are given"),
        (["show", "--all", "--file", "b.txt", "--corpus", "pydocs"], "file and corpus are given"),
        (["show", "span_corruption", "--file", "no.txt"], "'no.txt' is not a file"),
        (["show", "span_corruption", "--corpus", "pydoc"], "did you mean 'pydocs'?"),
        (["show", "span_corruption", "--split", "test"], "'test'"),
        (["show", "span_corruption", "--raw-length", "0"], "raw_length is 0"),
        (["show", "--all", "--raw-length", "ten"], "is 'ten'; it must be a whole number or None"),
        (["show", "--all", "--objective.noise-density", "0.3"], "--all shows every objective"),
        (["show", "span_corruption", "--all"], "'span_corruption' and --all are both given"),
        (["show", "--all", "--page", "nowhere/a.html"], "'nowhere/a.html', where no file"),
        (["show", "--all", "--page", "."], "where no file can be written"),
        (["show", "--all", "--draw", "3"], "unknown field 'draw'"),
        (["show", "span_corruption", "--run", "nowhere"], "'nowhere' is not a run"),
        (["infill", "nowhere", "--text", "a <mask>"], "'nowhere' is not a run"),
        (["report", "nowhere"], "'nowhere' is not a run"),
        (["bench", "everything"], "unknown benchmark 'everything'"),
        (["list", "nothing.toml"], "'nothing.toml' is not a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_write_nothing(args, message, capsys, elsewhere):
    refuse(args, capsys, message)
    assert files(elsewhere) == []


def test_what_does_not_fit_is_refused_before_the_corpus_is_read(capsys, elsewhere, monkeypatch):
    monkeypatch.setattr(train, "prepare", lambda *args, **fields: pytest.fail("it was read"))
    args = ["train", "quickstart", "--objective", "causal_lm"]
    refuse(args, capsys, "reads encoder and decoder; choose")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good text\n\ncaf\xe9\n", "byte 14 (0xe9) is not UTF-8"),
        ("a.jsonl", b'{"text": "good"}\nbad\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "good"}\n{"body": "x"}\n', "line 2 has no text field 'text'"),
        ("a.parquet", b"nonsense", "is not a Parquet file"),
        ("a.txt", b"\n\n", "is empty"),
        ("a.csv", b"a,b\n", "is not one of .txt, .jsonl, .parquet"),
    ],
)
def test_bad_data_is_named_and_nothing_is_written(name, content, message, capsys, elsewhere):
    (elsewhere / name).write_bytes(content)
    refuse(["train", "quickstart", "--data.files", name, *FEW_IDS], capsys, message)
    assert files(elsewhere) == [name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9\n", "byte 3 (0xe9) is not UTF-8; mend the file"),
        (
            "a.jsonl",
            b'{"body": "x"}\n',
            "no text field 'text' (fields: body); name it with --field",
        ),
        ("a.txt", b"\n\n", "is empty"),
        ("a.csv", b"a,b\n", "is not one of .txt, .jsonl, .parquet"),
    ],
)
def test_a_file_that_cannot_be_shown_is_named(name, content, message, capsys, elsewhere):
    (elsewhere / name).write_bytes(content)
    tokenizer = train_tokenizer(["a b"], vocabulary_size=300, sentinels=9)
    (elsewhere / "t.json").write_text(tokenizer.to_json(), "utf-8")
    args = ["show", "causal_lm", "--file", name, "--tokenizer", "t.json"]
    refuse(args, capsys, message)
    assert files(elsewhere) == [name, "t.json"]


def test_a_corpus_shorter_than_one_row_is_refused(capsys, elsewhere, corpus):
    args = ["train", "quickstart", "--data.files", str(corpus), "--data.raw-length", "20000"]
    args += ["--data.vocabulary-size", "4000", "--data.sentinels", "2000"]
    refuse(args, capsys, "less than one row of 20000")
    assert files(elsewhere) == []


def test_a_batch_that_the_devices_do_not_divide_is_refused(capsys, elsewhere, corpus):
    args = ["train", "quickstart", "--data.files", str(corpus), "--training.backend", "pmap"]
    args += ["--training.batch-size", "20", *FEW_IDS]
    refuse(args, capsys, "batch_size is 20, which 8 devices do not divide; give 16 or 24")
    assert files(elsewhere) == []


def test_a_run_of_another_config_is_refused_and_untouched(capsys, elsewhere):
    run = elsewhere / "run"
    run.mkdir()
    from jaxdenoise.experiment import experiments, load_experiments, override, to_dict

    load_experiments()
    other = override(experiments["quickstart"](), {"model.width": 64})
    saved = {"name": "quickstart", "experiment": to_dict(other), "store": {}}
    (run / "config.json").write_text(json.dumps(saved))
    before = (run / "config.json").read_bytes()
    refuse(
        ["train", "quickstart", "--run-dir", "run"],
        capsys,
        "model.width is 64 there and 128 here; choose another --run-dir",
    )
    assert (run / "config.json").read_bytes() == before
    assert files(elsewhere) == ["run", "run/config.json"]


def test_a_place_that_cannot_be_written_is_one_line(capsys, elsewhere, corpus):
    (elsewhere / "file").write_text("in the way")
    args = ["train", "quickstart", "--data.files", str(corpus), "--run-dir", "file/run"]
    refuse([*args, *FEW_IDS], capsys, "Not a directory")


def test_help_is_no_error(capsys):
    for args in ([], ["--help"], ["train", "--help"], ["list", "--help"], ["infill", "--help"]):
        assert main(args) == 0
        assert "usage: jaxdenoise" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "quickstart", "--help"])
    assert stop.value.code == 0
    assert "--objective.noise-density" in capsys.readouterr().out

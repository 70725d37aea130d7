"""Every command on a run of a second, as a user types it."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdenoise.cli import main
from jaxdenoise.commands.console import make_console
from jaxdenoise.corruption import masks, rewrite
from jaxdenoise.data.rows import Batches
from jaxdenoise.data.store import TokenStore
from jaxdenoise.experiment import experiment, experiments, load_experiments
from jaxdenoise.objectives import objective, objectives
from jaxdenoise.training.run_directory import read_json
from tests.commands.test_errors import refuse


@pytest.fixture
def command(tiny, tmp_path, monkeypatch, capsys):
    """A function that runs a command line in an empty folder: its exit status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    load_experiments()

    def tiny_run():
        """Learns next to nothing, in a second."""
        return tiny

    def run(*args: str) -> tuple[int, str]:
        status = main(args)
        out, err = capsys.readouterr()
        assert err == "", err
        return status, out

    with experiments.scope():
        experiment(tiny_run)
        yield run


@pytest.mark.slow
def test_train_report_show_and_infill(command, tmp_path):
    longer = ("--data.raw-length", "50", "--run-dir", "runs/bold")  # sentences fit into a row
    status, out = command("train", "tiny_run", *longer)
    assert status == 0
    figures = ("unigram", "bigram", "this model", "bits/byte", "of the gap", "special targets")
    for wanted in figures:
        assert wanted in out
    assert "12 steps" in out
    assert "report: runs/bold/report.html" in out
    assert len(read_json(tmp_path / "runs/bold/results.json")["sentences"]) == 5

    before = sorted(tmp_path.rglob("*"))
    status, again = command("train", "tiny_run", *longer)
    assert status == 0
    assert out.endswith(again)  # a finished run is shown, not trained
    assert "held-out text loss" not in again
    assert sorted(tmp_path.rglob("*")) == before

    text = "Sort the [red] array [/] of the list."
    _, shown = command("show", "span_corruption", "--run", "runs/bold", "--text", text)
    assert "[red]" in shown
    assert "decoder reads" in shown
    assert "<extra_id_0>" in shown
    _, trained_on = command("show", "span_corruption", "--run", "runs/bold", "--draws", "3")
    assert trained_on.count("decoder reads") == 3
    tokenizer = ("--tokenizer", "runs/bold/tokenizer.json")
    _, plain = command("show", "span_corruption", "--text", text, "--draws", "2", *tokenizer)
    assert sum(line.startswith("source") for line in plain.splitlines()) == 2
    assert "decoder reads" not in plain
    _, filled = command("infill", "runs/bold", "--text", "Sort the <mask> of [/] the <mask>.")
    assert filled.startswith("Sort the [")
    assert "[/]" in filled

    command("train", "tiny_run", "--run-dir", "other", "--seed", "1", "--data.raw-length", "50")
    status, reported = command("report", "runs/bold", "other", "--output", "both.html")
    assert (status, reported) == (0, "report: both.html\n")
    page = (tmp_path / "both.html").read_text("utf-8")
    assert "bold" in page
    assert "other" in page


@pytest.mark.slow
def test_show_refuses_a_run_of_other_data_or_another_stack(command, tiny, capsys):
    command("train", "tiny_run", "--run-dir", "run", "--objective.noise-density", "0.3")
    _, out = command("show", "span_corruption", "--run", "run")
    assert (
        "17 of weight 1" in out
    )  # 12 noise tokens of 40, 4 or 5 sentinels, EOS: the run's density
    corpus = Path(tiny.data.files[0])
    before = corpus.read_text("utf-8"), corpus.stat()
    try:
        corpus.write_text(before[0] + "\n\nMore.", "utf-8")
        assert main(["show", "span_corruption", "--run", "run"]) == 2
    finally:
        corpus.write_text(before[0], "utf-8")
        os.utime(corpus, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    assert "was trained on the token store" in capsys.readouterr().err
    with objectives.scope():

        @objective
        def masks_only(key, tokens, length, *, vocab):
            noise = masks.iid(key, tokens, length, 0.5, vocab)
            return rewrite.mask_tokens(tokens, noise, vocab)

        assert main(["show", "masks_only", "--run", "run", "--text", "a b"]) == 2
    assert "makes inputs for the encoder, but" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["list"], ["--help"], ["train", "--help"]])
def test_a_reader_that_has_gone_is_no_error(args, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "jaxdenoise", *args]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(command, monkeypatch, tmp_path):
    plain = Batches.__getitem__

    def interrupt(self, step):
        if step == 6:
            monkeypatch.setattr(Batches, "__getitem__", plain)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, step)

    monkeypatch.setattr(Batches, "__getitem__", interrupt)
    status, out = command("train", "tiny_run", "--run-dir", "run")
    assert status == 130
    assert "the checkpoint is saved, and the same command goes on" in " ".join(out.split())
    assert not (tmp_path / "run/results.json").exists()
    status, out = command("train", "tiny_run", "--run-dir", "run")
    assert status == 0
    assert "continuing run from step" in out


MINE = '''
import jax.numpy as jnp
import jaxdenoise as jd

def check(density, begin, **known):
    if not 0 <= begin < 1:
        raise jd.UserError(f"objective.begin is {begin}; it is a share of the row, in [0, 1)")

@jd.objective(check=check, needs=("mask",))
def late_words(key, tokens, length, *, vocab, density=0.3, begin=0.5):
    """Masks whole words of the end of a row.

    The model reads how it begins and predicts how it goes on, words that are given here and there
    helping it.
    """
    noise = jd.masks.words(key, tokens, length, density, vocab)
    late = jnp.arange(tokens.shape[-1]) >= begin * length
    return jd.rewrite.mask_tokens(tokens, noise & late, vocab)
'''
MINE_TRAINED = """
title = "Words at the end"
experiment = "tiny_run"
[overrides]
training.steps = 2
model.architecture = "encoder"
objective = {name = "late_words", density = 0.6}
"""


def code_lines(source: str) -> int:
    """Lines of a module that hold code: no docstring, no comment, nothing empty."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return len([line for line in ast.unparse(tree).splitlines() if line])


@pytest.mark.slow
def test_an_objective_of_a_few_lines_is_listed_shown_trained_and_used_again(command, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "late.toml").write_text(MINE_TRAINED)
    assert code_lines(MINE) <= 15
    assert command("sweep", "late.toml", "--module", "mine")[0] == 0
    [run] = [path.parent for path in (tmp_path / "runs").rglob("results.json")]
    example = read_json(run / "gallery.json")[0]
    noise = [token for token in example["source"] if token["span"] is not None]
    assert [token["text"] for token in noise] == [token["text"] for token in example["targets"]]
    assert all(token["span"] is None for token in example["source"][: len(example["source"]) // 2])
    assert len(example["prediction"]) == len(example["targets"])
    assert {token["text"] for token in example["inputs"] if token["span"] is not None} == {"<mask>"}
    _, listed = command("list", "--module", "mine")
    assert "Masks whole words of the end of a row." in " ".join(listed.split())
    mine = ("--module", "mine", "--tokenizer", str(run / "tokenizer.json"))
    text = ("--text", "Sort the array of the list.", "--objective.density", "1.0")
    _, shown = command("show", "late_words", *mine, *text)
    assert shown.count("<mask>") >= 3
    assert command("report", str(run))[0] == 0
    _, filled = command("infill", str(run), "--module", "mine", "--text", "a <mask>")
    assert re.fullmatch(r"a \[.*\]", filled.strip())
    assert main(["show", "late_words", *mine, "--objective.begin", "1"]) == 2


@pytest.mark.slow
def test_tokens_of_another_tokenizer_stop_a_run_with_their_row(command, monkeypatch, capsys):
    plain = TokenStore.tokens

    def damaged(self, split):
        tokens = np.array(plain(self, split))
        return (
            np.where(np.arange(len(tokens)) == 47, 60_000, tokens) if split == "train" else tokens
        )

    monkeypatch.setattr(TokenStore, "tokens", damaged)
    assert main(["train", "tiny_run", "--run-dir", "run"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "(example 1) has the id 60000 at place 7, and the vocabulary ends at 399" in message


@pytest.mark.slow
def test_bench_prints_ratios_and_writes_them(command, monkeypatch, tmp_path):
    monkeypatch.setattr("jaxdenoise.bench.pairs.SPAN", 0.001)
    monkeypatch.setattr("jaxdenoise.bench.corruption.BATCH", 16)
    monkeypatch.setattr("jaxdenoise.bench.corruption.RAW_LENGTH", 64)
    monkeypatch.setattr("jaxdenoise.bench.training.TIMED_LOSS", (2, 5, 8, 100))
    monkeypatch.setattr("jaxdenoise.bench.training.LARGE_LOSS", (8, 128, 8, 2**20))
    monkeypatch.setattr("jaxdenoise.bench.training.ROUTED", (2, 64, 32, 2))
    monkeypatch.setattr("jaxdenoise.bench.tokenise.COPIES", 1)
    monkeypatch.setattr("jaxdenoise.bench.tokenise.documents", lambda: [("name", "A text.")] * 99)
    monkeypatch.setattr(objectives, "names", lambda: ["block_diffusion", "not_in_numpy"])
    status, out = command("bench", "--experiment", "tiny_run", "--output", "bench.json")
    assert status == 0
    assert "with careful NumPy" in out
    assert "not_in_numpy" not in out
    found = read_json(tmp_path / "bench.json")
    assert found["corruption"]["ratio"] > 0
    assert list(found["objectives"]) == ["block_diffusion"]
    assert found["objectives"]["block_diffusion"]["ratio"] > 0
    assert "ul2 takes" in out and found["mixture"]["ratio"] > 0
    assert 0 < found["step"]["ratio"] < 1
    assert found["loss"]["memory"][0] < 0.1 * found["loss"]["memory"][1]
    assert found["gradients"]["80%"]["memory"][1] < found["gradients"]["80%"]["memory"][0]
    assert "with 0% context, full takes" in " ".join(out.split())
    assert found["tokenise"]["ratio"] > 0


def test_a_notebooks_shell_cell_has_colours_but_no_live_line(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels do
    assert make_console().is_terminal
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    console = make_console()
    assert not console.is_terminal
    assert console.color_system == "standard"


@pytest.mark.slow
def test_a_run_is_evaluated_again_and_document_by_document(command, pairs, tmp_path, capsys):
    assert command("train", "tiny_run", "--run-dir", "run")[0] == 0
    own = read_json(tmp_path / "run" / "results.json")
    _, shown = command("evaluate", "run")
    loss, bits = own["held_out"]["text_loss"], own["baselines"]["bigram"]["bits_per_byte"]
    assert shown.splitlines()[-1].split()[:3] == ["this", "model", f"{loss:.3f}"]
    assert f"{bits:.3f}" in shown
    _, other = command("evaluate", "run", "--objective", "prefix_lm")
    assert other.splitlines()[-1].split()[2] != f"{loss:.3f}"
    _, said = command("evaluate", "run", "--per-document", "documents.jsonl")
    lines = [json.loads(line) for line in Path("documents.jsonl").read_text("utf-8").splitlines()]
    assert f"{len(lines)} held-out documents" in said
    assert sum(line["tokens"] for line in lines) > 0
    on_pairs = ("--data.files", str(pairs), "--data.pairs", "True", "--objective", "text_to_text")
    _, answered = command("evaluate", "run", *on_pairs)
    assert "nearest (TF-IDF)" in answered
    for args, message in [
        (["--model.width", "8"], "--model.width cannot be another than the run's; what can"),
        (["--per-document", "no/folder.jsonl"], "whose folder is not there"),
        (["--objective", "masked_lm"], "choose another architecture or another objective"),
    ]:
        refuse(["evaluate", "run", *args], capsys, message)

"""`jaxdenoise show`: rows of a text, a file and a corpus, their statistics, and the gallery."""

import json

import pytest

from jaxdenoise.cli import main
from jaxdenoise.objectives import objectives
from jaxdenoise.tokenizer import train_tokenizer

TEXT = "the sum of it, the sum of all. " * 3


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """A function that runs `jaxdenoise show` beside a small tokenizer: its lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    tokenizer = train_tokenizer([TEXT], vocabulary_size=300, sentinels=20)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")

    def run(*args: str, tokenizer: tuple[str, ...] = ("--tokenizer", "tokenizer.json")):
        status = main(["show", *args, *tokenizer])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return [line.rstrip() for line in out.splitlines()]

    return run


def lengths(lines: list[str]) -> dict[str, list[str]]:
    """The table of lengths."""
    words = [line.removeprefix("lengths").split() for line in lines]
    return {w[0]: w[1:] for w in words if len(w) == 5 and w[0] in ("source", "encoder", "decoder")}


def starts(lines: list[str], name: str) -> int:
    return sum(line.startswith(f"{name} ") for line in lines)


def test_a_longer_text_gives_several_rows_and_their_statistics(show):
    lines = show("causal_lm", "--text", "abcdefghij" * 2, "--raw-length", "8", "--draws", "2")
    assert starts(lines, "source") == 6  # 8 + 8 + 4 tokens, twice
    assert "258 corruptions" in lines
    assert "corrupted  100.0% of the source tokens" in lines
    assert lengths(lines)["source"] == ["6.7", "8", "8", "16.7%"]
    assert "encoder" not in lengths(lines)


def test_a_short_text_is_a_row_of_its_length(show):
    lines = show("span_corruption", "--text", "abcdefghijklmnopqrst")
    assert lengths(lines)["source"] == ["20", "20", "20", "0.0%"]
    assert "corrupted  15.0% of the source tokens" in lines
    assert "spans      1.0 a row, of 3.0 tokens on average" in lines
    assert any("█ 100.0%" in line for line in lines)


def test_the_rows_of_a_file_are_shown(show, tmp_path):
    records = [{"body": "abc [red]"}, {"body": "defgh"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    args = ("--file", "a.jsonl", "--field", "body", "--raw-length", "8", "--draws", "2")
    lines = show("causal_lm", *args)
    sources = [line for line in lines if line.startswith("source ")]
    assert "abc" in sources[0]
    assert "<doc>" in sources[1]  # documents follow each other as in training
    assert lengths(lines)["source"][1:3] == ["8", "8"]


def test_the_rows_of_a_corpus_are_shown(show, tmp_path, corpus, monkeypatch):
    from jaxdenoise.data.corpora import Corpus, corpora

    def small() -> Corpus:
        documents = corpus.read_text("utf-8").split("\n\n")
        texts = [(str(n), text) for n, text in enumerate(documents)]
        return Corpus(name="small", fingerprint={"of": "tests"}, documents=lambda: iter(texts))

    with corpora.scope():
        corpora.add("small", small)
        args = ("causal_lm", "--corpus", "small", "--raw-length", "16", "--draws", "2")
        held_out = show(*args)
        assert starts(held_out, "source") == 2
        assert lengths(held_out)["source"][1:3] == ["16", "16"]
        train = show(*args, "--split", "train")
    first = [
        next(line for line in lines if line.startswith("source ")) for lines in (held_out, train)
    ]
    assert first[0] != first[1]


@pytest.fixture
def three(monkeypatch):
    """A registry of three objectives."""
    names = ["causal_lm", "span_corruption", "ul2"]
    monkeypatch.setattr(objectives, "names", lambda: names)


def test_all_objectives_are_shown_and_compared(show, three, tmp_path):
    lines = show("--all", "--text", TEXT, "--page", "all.html")
    for name in ("causal_lm", "span_corruption", "ul2"):
        assert name in lines
        assert sum(line.startswith(f"{name} ") for line in lines) == 1  # in the table
    assert "Predicts every token from those before it." in lines
    assert starts(lines, "source") == 3
    assert lines[-1] == "page: all.html"
    page = (tmp_path / "all.html").read_text("utf-8")
    assert 'id="ul2"' in page
    assert not (tmp_path / "all.partial").exists()


def test_what_a_tokenizer_lacks_is_told(show, three, tmp_path):
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    for token in tokenizer["added_tokens"]:
        if token["content"] == "[X]":
            token["content"] = "[Y]"
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["[Y]"] = vocabulary.pop("[X]")
    (tmp_path / "other.json").write_text(json.dumps(tokenizer), "utf-8")
    lines = show("--all", "--text", TEXT, tokenizer=("--tokenizer", "other.json"))
    told = " ".join(lines)
    assert "not shown: the vocabulary has no token named '[X]'" in told
    assert starts(lines, "source") == 2
    assert any(line.startswith("span_corruption ") for line in lines)


@pytest.mark.slow
def test_every_registered_objective_has_a_place_in_the_gallery(show, tmp_path):
    lines = show("--all", "--text", TEXT, "--page", "all.html")
    for name in objectives.names():
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, name
    assert "not shown" not in " ".join(lines)


@pytest.mark.parametrize("args", [["--help"], ["--all", "--help"], ["causal_lm", "--help"]])
def test_help_names_the_flags(args, capsys):
    if args == ["--help"]:
        assert main(["show", *args]) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            main(["show", *args])
        assert stop.value.code == 0
    out = capsys.readouterr().out
    for flag in ("--text", "--file", "--corpus", "--raw-length"):
        assert flag in out

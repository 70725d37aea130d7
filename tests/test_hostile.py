"""Files are data: whatever is in them, a reader returns or says in a line what is wrong.

Valid files of every kind are cut, flipped and stuffed; a reader that fails otherwise than with a
`UserError`, runs code, or writes outside its folder fails here.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxdenoise import ablation, experiment
from jaxdenoise.config import DataConfig
from jaxdenoise.data.corpora import open_corpus
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError
from jaxdenoise.huggingface.pretrained import read_pretrained
from jaxdenoise.sweep.plan import ABOUT, read_sweep
from jaxdenoise.tokenizer import read_tokenizer
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run_directory import open_run, write_json
from tests.huggingface.folders import folder_of, tokenizer

experiment.load_experiments()
TEXTS = [f"Return the sum of array number {n}." for n in range(40)]


def make_config(folder):
    (folder / "x.toml").write_text(
        'title = "X"\nexperiment = "quickstart"\nseeds = [0, 1]\n[arms]\n'
        'a = {objective.noise_density = 0.15}\n"b" = {training.steps = 3}\n'
    )


def make_run(folder):
    plain = experiment.to_dict(experiment.Experiment())
    write_json(folder / "config.json", {"name": "x", "experiment": plain, "store": {}})


def make_metrics(folder):
    rows = [{"step": n, "loss": 1 / (n + 1), "modules": {"a": [1.0, 2.0]}} for n in range(9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_sweep(folder):
    job = {"name": "a", "arm": "a", "experiment": {}, "path": "a", "objectives": {}}
    about = dict.fromkeys(ABOUT, "x") | {"published": None, "measure": None}
    write_json(folder / "sweep.json", {**about, "jobs": [job]})


def make_tokenizer(folder):
    (folder / "tokenizer.json").write_text(tokenizer().to_json())


def make_pretrained(folder):
    folder.rmdir()
    folder_of("t5", folder)


def make_jsonl(folder):
    rows = [json.dumps({"text": text, "n": n}) for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))


def make_text(folder):
    (folder / "corpus.txt").write_text("\n\n".join([*TEXTS, "naïve ☃"]), "utf-8")


def make_parquet(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"text": TEXTS})
    parquet.write_table(table, folder / "corpus.parquet")


def store_of(folder, cache):
    data = DataConfig(files=(str(folder / "corpus.txt"),), vocabulary_size=400, raw_length=16)
    return prepare(data, cache=cache)


def make_store(folder):
    make_text(folder)
    store_of(folder, folder / "cache")


def read_corpus(folder):
    [path] = folder.glob("corpus.*")
    corpus = open_corpus(DataConfig(files=(str(path),)))

    def refuse(error):
        raise error

    return [text for part in corpus.parts() for text in part.read(refuse)]


def read_store(folder):
    store = store_of(folder, folder / "cache")
    for split in ("train", "held_out"):
        np.asarray(store.tokens(split)), store.documents(split)
    return store.tokenizer.vocab


READERS = {
    "x.toml": (make_config, lambda folder: ablation.load_ablation(folder / "x.toml")),
    "config.json": (make_run, open_run),
    "metrics.jsonl": (make_metrics, lambda folder: read_metrics(folder / "metrics.jsonl")),
    "sweep.json": (make_sweep, read_sweep),
    "tokenizer.json": (make_tokenizer, lambda folder: read_tokenizer(folder / "tokenizer.json")),
    "their config.json": (make_pretrained, read_pretrained),
    "their generation_config.json": (make_pretrained, read_pretrained),
    "their tokenizer.json": (make_pretrained, read_pretrained),
    "their model.safetensors": (make_pretrained, read_pretrained),
    "corpus.jsonl": (make_jsonl, read_corpus),
    "corpus.txt": (make_text, read_corpus),
    "corpus.parquet": (make_parquet, read_corpus),
    "store manifest.json": (make_store, read_store),
    "store shards.json": (make_store, read_store),
    "store tokenizer.json": (make_store, read_store),
    "store *.shard": (make_store, read_store),
}
HOSTILE = {
    "empty": b"",
    "nothing": b"null",
    "a number": b"1e400",
    "a list": b"[]",
    "an object": b"{}",
    "deep lists": b"[" * 50_000,
    "deep objects": b'{"a":' * 50_000,
    "a huge number": b'{"vocab_size": 1' + b"0" * 5000 + b"}",
    "surrogates": b'{"text": "\\ud800", "name": "\\udfff"}',
    "NULs": b"\0" * 1000,
    "no UTF-8": b"\xff\xfe\xfa",
    "a pickle": b"cos\nsystem\n(S'touch stolen'\ntR.",
    "YAML that runs": b"!!python/object/apply:os.system ['touch stolen']",
    "a path": b'{"model_type": "../../etc/passwd", "_name_or_path": "/etc/passwd"}',
    "a huge header": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
}
KINDS = pytest.mark.parametrize("name", READERS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A function that gives a fresh folder with a valid file of a kind, and the file."""
    made: dict[str, Path] = {}
    place = tmp_path_factory.mktemp("hostile")

    def fresh(name: str) -> tuple[Path, Path]:
        make, folder = READERS[name][0], place / "here"  # always: a store knows its corpus by path
        shutil.rmtree(folder, ignore_errors=True)
        if make.__name__ not in made:
            folder.mkdir()
            make(folder)
            made[make.__name__] = Path(shutil.move(folder, place / make.__name__))
        shutil.copytree(made[make.__name__], folder)
        [path] = folder.rglob(name.split(" ")[-1])
        return folder, path

    return fresh


def survives(name: str, folder: Path) -> bool:
    """Whether the file is taken; if not, that it is said in a line, and nothing was left."""
    before = {path for path in folder.parent.rglob("*") if "cache" not in path.parts}
    taken, said = True, ""
    try:
        READERS[name][1](folder)
    except UserError as error:
        taken, said = False, str(error)
    assert "\n" not in said
    assert len(said) < 2000
    assert {path for path in folder.parent.rglob("*") if "cache" not in path.parts} == before
    assert not Path("stolen").exists()
    return taken


@KINDS
def test_a_valid_file_is_taken(name, valid):
    assert survives(name, valid(name)[0])


@KINDS
@pytest.mark.parametrize("content", HOSTILE)
def test_a_hostile_file_runs_nothing_and_is_a_line(name, content, valid):
    folder, path = valid(name)
    path.write_bytes(HOSTILE[content])
    survives(name, folder)


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["flip", "cut", "insert", "repeat", "end"]),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, changes) -> bytes:
    for share, kind, more in changes:
        place = int(share * len(content))
        if kind == "flip" and content:
            flipped = content[place] ^ (more[0] or 1)
            content = content[:place] + bytes([flipped]) + content[place + 1 :]
        elif kind == "cut":
            content = content[:place] + content[place + len(more) :]
        elif kind == "insert":
            content = content[:place] + more + content[place:]
        elif kind == "repeat":
            content = content[:place] + content[place // 2 :]
        elif kind == "end":
            content = content[:place]
    return content


@KINDS
@given(changes=edits)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_damaged_anywhere_is_read_or_is_a_line(name, changes, valid):
    folder, path = valid(name)
    path.write_bytes(edited(path.read_bytes(), changes))
    survives(name, folder)


def test_an_id_that_would_take_all_memory_is_refused(valid):
    folder, path = valid("tokenizer.json")
    plain = json.loads(path.read_text())
    plain["model"]["vocab"]["far"] = 2**31
    path.write_text(json.dumps(plain))
    assert not survives("tokenizer.json", folder)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/b", ".."])
def test_a_sweep_has_its_runs_in_its_folder(name, valid):
    folder, path = valid("sweep.json")
    plain = json.loads(path.read_text())
    plain["jobs"][0]["path"] = name
    path.write_text(json.dumps(plain))
    assert not survives("sweep.json", folder)


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("name", ["tokens", "documents", "begin"])
def test_a_store_whose_files_disagree_is_not_used(split, name, valid):
    folder, path = valid("store shards.json")
    headers = json.loads(path.read_text())
    (headers[0] if name == "begin" else headers[0][split])[name] -= 1
    path.write_text(json.dumps(headers))
    assert not survives("store shards.json", folder)

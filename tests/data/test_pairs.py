"""Pairs: read, split, encoded, and as rows that a source is cut for."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.config import DataConfig
from jaxdenoise.data import pydocs
from jaxdenoise.data.pairs import Pairs, pair_of
from jaxdenoise.data.rows import Batches, sample_rows
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError

SEPARATOR, END = 3, 1
SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5)


def stream(sizes):
    """Pairs of such sizes; ids say where they stood."""
    parts = [
        [*range(100, 100 + source), SEPARATOR, *range(200, 200 + target), END]
        for source, target in sizes
    ]
    lengths = np.array([len(part) for part in parts])
    documents = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    return Pairs(np.concatenate(parts), documents, SEPARATOR)


@given(SIZES, st.integers(4, 24))
def test_both_are_cut_at_their_ends_and_eos_stays(sizes, most):
    whole = stream(sizes)
    cut = Pairs(whole.tokens, whole.documents, SEPARATOR, most)
    for number, (source, target) in enumerate(sizes):
        before, after = whole[number].tolist(), cut[number].tolist()
        assert whole.parts(number)[0].tolist() == list(range(100, 100 + source))
        assert whole.parts(number)[1].tolist() == list(range(200, 200 + target))
        if len(before) <= most:
            assert after == before
            continue
        assert len(after) == most  # no room is left
        assert after[-1] == END
        first, second = (part.tolist() for part in cut.parts(number))
        assert first == list(range(100, 100 + source))[: len(first)]
        assert second == list(range(200, 200 + target))[: len(second)]
        assert len(second) == target or len(second) + 2 >= most // 2
        assert len(first) == source or len(first) >= most - most // 2


def test_each_epoch_visits_every_pair_once_and_a_row_has_one():
    pairs = stream([(n % 7 + 1, n % 3 + 1) for n in range(10)])
    batches = Batches(tokens=pairs, raw_length=12, batch_size=5, steps=4, seed=0)
    rows = [batches[step] for step in range(4)]
    ids = np.concatenate([row.example_ids for row in rows])
    assert sorted(ids[:10]) == sorted(ids[10:]) == list(range(10))
    assert ids[:10].tolist() != ids[10:].tolist()
    for row in rows:
        for tokens, length, number in zip(row.tokens, row.lengths, row.example_ids, strict=True):
            assert tokens[:length].tolist() == pairs[number].tolist()
            assert not tokens[length:].any()
    sample = sample_rows(pairs, 12, 4)
    assert sample.lengths.tolist() == [len(pairs[int(number)]) for number in sample.example_ids]


def test_a_store_of_pairs_holds_them_and_nothing_else(pairs):
    store = prepare(_config(pairs))
    tokenizer = store.tokenizer
    records = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    expected = {(record["source"], record["target"]) for record in records}
    found = set()
    for split in ("train", "held_out"):
        part = store.pairs(split)
        assert len(part) == store.manifest[split]["documents"] > 0
        for number in range(len(part)):
            assert part[number][-1] == tokenizer.vocab.eos_id
            found.add(tuple(map(tokenizer.decode, part.parts(number))))
    assert found == expected


def test_prompts_and_completions_are_pairs_too(pairs, tmp_path):
    lines = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    renamed = [{"prompt": line["source"], "completion": line["target"]} for line in lines]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, renamed)), "utf-8")
    one, two = prepare(_config(pairs)), prepare(_config(other))
    for split in ("train", "held_out"):
        assert np.array_equal(one.tokens(split), two.tokens(split))


def test_a_bad_record_is_refused_with_its_place_or_skipped_and_counted(tmp_path):
    good = [json.dumps({"source": f"What is {n}?", "target": str(n)}) for n in range(80)]
    file = tmp_path / "some.jsonl"
    for bad, message in [
        ({"source": "one"}, "line 6 has no text 'target' beside 'source'; mend it"),
        ({"prompt": "one", "target": "x"}, "line 6 has no text 'completion' beside 'prompt'"),
        ({"source": "one", "target": " "}, "line 6 has no text 'target' beside 'source'"),
        (
            {"text": "one"},
            "line 6 has neither 'source' and 'target' nor 'prompt' and ",
        ),
        ({"source": "\ud800", "target": "x"}, "line 6 has half a surrogate pair"),
    ]:
        file.write_text("\n".join([*good[:5], json.dumps(bad), *good[5:]]), "utf-8")
        with pytest.raises(UserError, match=message):
            prepare(_config(file))
        store = prepare(_config(file, bad_records="skip"))
        assert len(store.manifest["bad_records"]) == 1
        assert sum(store.manifest[split]["documents"] for split in ("train", "held_out")) == 80


def test_what_does_not_go_with_pairs_is_refused(corpus, pairs):
    with pytest.raises(UserError, match=r"corpus.txt' is not a .jsonl file"):
        prepare(_config(corpus))
    with pytest.raises(UserError, match="data.packing is True, and data.pairs is set"):
        _config(pairs, packing=True)
    with pytest.raises(UserError, match="'pydocs_names' is of pairs; set data.pairs"):
        prepare(DataConfig(corpus="pydocs_names"))
    with pytest.raises(UserError, match="'pydocs_names' is of pairs; set data.pairs"):
        prepare(DataConfig(mixture=(("pydocs", 1), ("pydocs_names", 1))))
    with pytest.raises(UserError, match="data.pairs is set, and 'hf:some/one' has none"):
        prepare(DataConfig(corpus="hf:some/one", pairs=True))
    with pytest.raises(UserError, match="data.pairs is set, and 'pydocs' has none"):
        prepare(DataConfig(corpus="pydocs", pairs=True))


def test_either_pair_of_names_will_do():
    pair, problem = pair_of({"source": "a", "target": "b", "more": 1})
    assert (pair, problem) == ("a\nb", "")
    assert pair_of({})[1].endswith("(fields: none)")
    about = {"source": "a newspaper", "prompt": "a", "completion": "b"}
    assert pair_of(about)[0].source == "a"


def _config(path, **fields):
    return DataConfig(
        files=(str(path),),
        pairs=True,
        vocabulary_size=300,
        sentinels=4,
        held_out=0.2,
        **fields,
    )


@pytest.mark.parametrize("corpus", ["pydocs_names", "pydocs_modules"])
def test_pairs_are_stored_on_the_side_of_their_documents(corpus, tmp_path, monkeypatch):
    """Every pair beside a document without one that is nearly the same text."""
    rng, documents = np.random.default_rng(0), []
    for n in range(60):
        text = " ".join(f"w{k}" for k in rng.integers(0, 500, 40))
        documents += [(f"topics:{n}", f"{text} too"), (f"m.n:f{n}()", text)]
    monkeypatch.setattr(pydocs, "documents", lambda: tuple(documents))
    fields = {"vocabulary_size": 400, "sentinels": 4, "held_out": 0.3}
    plain = prepare(DataConfig(corpus="pydocs", **fields), cache=tmp_path)
    store = prepare(DataConfig(corpus=corpus, pairs=True, **fields), cache=tmp_path)
    for split in ("train", "held_out"):
        tokens, pairs = plain.tokens(split), store.pairs(split)
        documents_there = plain.documents(split).tolist()
        texts = {plain.tokenizer.decode(tokens[a : a + n - 1]) for a, n in documents_there}
        sources = [store.tokenizer.decode(pairs.parts(n)[0]) for n in range(len(pairs))]
        assert len(sources) == len(texts) / 2 > 0
        assert texts.issuperset(sources)

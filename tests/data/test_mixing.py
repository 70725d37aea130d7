"""Mixtures of corpora: exact proportions, own epochs, own randomness."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.ablation import resolve
from jaxdenoise.config import BLOCK, DataConfig, ModelConfig, TrainingConfig, rows_of_block
from jaxdenoise.data import build as building
from jaxdenoise.data.mixing import MixedBatches, assign, first_epoch, interleave
from jaxdenoise.data.rows import Batches, iterate
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import Experiment, experiments, from_dict, override, to_dict
from jaxdenoise.objectives import configure
from jaxdenoise.training.setup import build

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


# ---- which corpus, and which of its rows ----


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_a_block_has_the_weights_shares(weights):
    weights = [round(weight, 2) for weight in weights]
    shares = np.array(weights) / sum(weights)
    if shares.min() < 1 / BLOCK:
        return
    rows = rows_of_block(weights)
    assert sum(rows) <= BLOCK
    exact = sum(rows) < BLOCK
    np.testing.assert_allclose(rows, shares * sum(rows), rtol=0, atol=1e-6 if exact else 1)


def test_smallest_whole_numbers():
    assert rows_of_block([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert rows_of_block([4, 2]) == (2, 1)
    assert rows_of_block([1.0]) == (1,)
    assert rows_of_block([1, 2000 / 3]) == (1, 999)


@given(rows=WEIGHTS, seed=st.integers(0, 2**32 - 1), block=st.integers(0, 2**40))
def test_every_block_has_its_exact_share_of_each_corpus_and_misses_no_row(rows, seed, block):
    size = sum(rows)
    numbers = np.arange(block * size, (block + 2) * size)
    corpus, number = assign(numbers, rows, seed)
    for half in (slice(size), slice(size, None)):
        np.testing.assert_array_equal(np.bincount(corpus[half], minlength=len(rows)), rows)
    for c, n in enumerate(rows):
        expected = np.arange(block * n, (block + 2) * n)
        np.testing.assert_array_equal(np.sort(number[corpus == c]), expected)


def test_the_order_is_the_seeds_and_the_blocks_own_and_any_row_can_be_asked_for():
    corpus, number = assign(range(300), (3, 2, 1), 0)
    for other in ((range(300), 1), (range(6000, 6300), 0)):
        assert not np.array_equal(corpus, assign(other[0], (3, 2, 1), other[1])[0])
    some = [299, 3, 150]
    found = assign(some, (3, 2, 1), 0)
    np.testing.assert_array_equal(found, [corpus[some], number[some]])
    assert len({tuple(corpus[k : k + 6]) for k in range(0, 300, 6)}) > 20


# ---- rows ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A large corpus and a small one, of other words."""
    place = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)
    for name, size in (("large", 300), ("small", 40)):
        words = [f"{name}{k}" for k in range(50)]
        texts = [" ".join(rng.choice(words, rng.integers(5, 40))) for _ in range(size)]
        (place / f"{name}.txt").write_text("\n\n".join(texts))
    return place


@pytest.fixture
def config(folder):
    mixture = ((f"{folder}/large*.txt", 2.0), (f"{folder}/small.txt", 1.0))
    return DataConfig(
        mixture=mixture, vocabulary_size=500, sentinels=40, raw_length=64, held_out=0.2
    )


def setup(config: DataConfig, objective: str = "span_corruption", **fields):
    return build(
        Experiment(
            data=config,
            objective=configure(objective),
            model=ModelConfig(width=8, mlp_width=8, heads=1, head_width=8, encoder_layers=1),
            training=TrainingConfig(**{"batch_size": 6, "steps": 60, **fields}),
            seed=3,
        )
    )


def corpora_of(rows, tokenizer) -> list[set[str]]:
    """Which of the two corpora the words of each row are of."""
    lengths = rows.lengths if rows.pieces is None else rows.pieces.lengths.sum(axis=1)
    texts = [tokenizer.decode(r[:n]) for r, n in zip(rows.tokens, lengths, strict=True)]
    return [{name for name in ("large", "small") if name in text} for text in texts]


@pytest.mark.parametrize("packing", [False, True])
def test_rows_are_of_one_corpus_in_proportion_and_share_no_key(config, packing):
    made = setup(dataclasses.replace(config, packing=packing))
    keys, used_places = [], []
    for step in range(60):
        rows = made.batches[step]
        found = corpora_of(rows, made.store.tokenizer)
        assert all(len(one) == 1 for one in found)
        assert sum(one == {"large"} for one in found) == 4  # of 6: two blocks a step
        epochs = rows.epochs if rows.pieces is None else rows.epochs[:, None]
        assert [one == {"small"} for one in found] == (rows.epochs >= first_epoch(1)).tolist()
        ids = rows.example_ids if rows.pieces is None else rows.pieces.example_ids
        used = np.ones(ids.shape, bool) if rows.pieces is None else rows.pieces.lengths > 0
        keys += np.stack([np.broadcast_to(epochs, ids.shape)[used], ids[used]], 1).tolist()
        used_places += (rows.places if rows.pieces is None else rows.pieces.places)[used].tolist()
    assert len(set(map(tuple, keys))) == len(keys)
    assert len(set(used_places)) == len(used_places)
    assert max(epoch for epoch, _ in keys) > first_epoch(1) + 1  # the small one came again


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_any_number_of_threads_and_processes_have_the_same_rows(config, packing, threads):
    made = setup(dataclasses.replace(config, packing=packing), steps=8)
    expected = [made.batches[step] for step in range(8)]
    fresh = setup(dataclasses.replace(config, packing=packing), steps=8).batches
    for one, other in zip(iterate(fresh, threads=threads), expected, strict=True):
        assert same(one, other)
    for processes in (1, 2, 4):
        for process in range(processes):
            part = fresh.only(range(process, 6, processes))[2]
            own = jax.tree.map(lambda x, p=process, n=processes: x[p::n], expected[2])
            assert same(part, own)


@pytest.mark.slow
def test_the_device_has_the_keys_that_packed_rows_were_planned_with(config):
    """Members of UL2 get pieces of their own lengths, chosen by the key of each."""
    packed = {"packing": True, "encoder_length": 96, "decoder_length": 60, "pieces": 8}
    made = setup(dataclasses.replace(config, **packed), objective="ul2")
    longest = jax.jit(jax.vmap(made.objective.piece_length))
    full = 0
    for step in range(0, 60, 3):
        rows = jax.device_get(made.batches[step].unpacked())
        most = longest(rows.keys)
        assert len(set(np.asarray(most).tolist())) > 3
        assert (rows.lengths <= most).all()
        full += ((rows.lengths == most) & (rows.epochs >= first_epoch(1))).sum()
    assert full > 5


def test_the_first_corpus_has_the_rows_that_it_would_have_by_itself(config):
    made = setup(config)
    alone = Batches(
        tokens=made.store.members[0].tokens("train"),
        raw_length=64,
        batch_size=4,
        steps=60,
        seed=3,
    )
    mixed = np.concatenate([made.batches[k].example_ids for k in range(20)])
    epochs = np.concatenate([made.batches[k].epochs for k in range(20)])
    expected = np.concatenate([alone[k].example_ids for k in range(20)])
    block = mixed[epochs < first_epoch(1)].reshape(-1, 2)
    np.testing.assert_array_equal(np.sort(block), np.sort(expected.reshape(-1, 2)))


@pytest.mark.parametrize("packing", [False, True])
def test_held_out_rows_are_of_all_corpora_in_proportion(config, packing):
    made = setup(dataclasses.replace(config, packing=packing))
    rows = made.held_out(3)
    assert [name for one in corpora_of(rows, made.store.tokenizer) for name in one] == [
        "large",
        "large",
        "small",
    ]
    assert same(rows, setup(dataclasses.replace(config, packing=packing)).held_out(3))


def test_places_count_rows_of_all_corpora(config):
    rows = setup(config).batches[5]
    assert rows.places.tolist() == list(range(30, 36))


# ---- stores ----


def test_one_tokenizer_for_all_and_a_store_for_each(config, tmp_path):
    store = prepare(config, cache=tmp_path)
    large, small = store.members
    assert large.tokenizer.to_json() == small.tokenizer.to_json() == store.tokenizer.to_json()
    for split in ("train", "held_out"):
        assert len(store.tokens(split)) == sum(len(one.tokens(split)) for one in store.members)
        counts = [one.manifest[split]["documents"] for one in store.members]
        assert store.manifest[split]["documents"] == sum(counts)
    again = prepare(config, cache=tmp_path)
    assert (again.identity, again.path) == (store.identity, store.path)
    given = dataclasses.replace(config, tokenizer=str(store.path / "tokenizer.json"))
    assert prepare(given, cache=tmp_path).identity == store.identity


def test_the_tokenizer_is_trained_in_proportion(config, monkeypatch):
    from jaxdenoise.data.corpora import open_member

    divided = [building.divide(open_member(name, config), config) for name, _ in config.mixture]
    sizes = [sum(map(len, one.training_texts())) for one in divided]
    for most in (1 << 29, 3000):
        monkeypatch.setattr(building, "SAMPLE_BYTES", most)
        texts = list(building.in_proportion(divided, config.block))
        small = sum(len(text) for text in texts if "small" in text)
        total = sum(map(len, texts))
        assert abs(total - min(sum(sizes), most)) < 1000
        assert abs(small - total / 3) < 700


def test_a_sample_of_a_mixture_is_in_proportion(config):
    store = prepare(config)
    tokens = store.sample(10**9)
    texts = store.tokenizer.decode(tokens).split()
    share = np.mean([word.startswith("small") for word in texts])
    assert abs(share - 1 / 3) < 0.15
    one = interleave([store.members[0].tokens("train")], (1,), 100)
    np.testing.assert_array_equal(one, store.members[0].tokens("train")[:100])
    alone = store.members[1]
    np.testing.assert_array_equal(alone.sample(50), alone.tokens("train")[:50])


# ---- config ----


def test_mixtures_are_written_in_toml_and_on_the_command_line(config):
    plain = {
        "experiment": "mixed",
        "overrides": {"data": {"mixture": [["a/*.txt", 2], ["pydocs", 0.5]]}},
    }
    with experiments.scope():
        experiments.add("mixed", Experiment)
        (run,) = resolve("name", plain).runs
    assert run.experiment.data.mixture == (("a/*.txt", 2.0), ("pydocs", 0.5))
    assert run.experiment.data.block == (4, 1)
    assert from_dict(json.loads(json.dumps(to_dict(run.experiment)))) == run.experiment
    flags = override(Experiment(), {"data.mixture": ["a/*.txt", "2", "pydocs", "0.5"]})
    assert flags.data == run.experiment.data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixture": (("a", 1.0),), "files": ("b",)}, "data.mixture and data.files"),
        ({"mixture": (("a", 0.0), ("b", 1.0))}, "'a' 1 times, with the weight 0.0"),
        ({"mixture": (("a", float("inf")),)}, "with the weight inf"),
        ({"mixture": (("a", 1.0), ("a", 2.0))}, "'a' 2 times"),
        ({"mixture": (("a", 1.0), ("b", 5000.0))}, "less than 1/1000 of all"),
        ({"mixture": tuple((f"{k}", 1.0) for k in range(200))}, "more than 128 corpora"),
    ],
)
def test_wrong_mixtures_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize("values", [["a.jsonl"], ["a.jsonl", "x"], ["a", "1", "b"]])
def test_a_weight_that_is_missing_or_no_number_is_told_in_a_line(values):
    with pytest.raises(UserError, match=f"^data.mixture cannot be read from .*{values[-1]}"):
        override(Experiment(), {"data.mixture": values})


def test_a_member_that_is_nothing_is_named():
    with pytest.raises(UserError, match=r"data.mixture: no corpus \(pydocs, .*\) and no file"):
        prepare(DataConfig(mixture=(("pydoc", 1.0),)))


def test_a_mixture_of_one_is_that_corpus(config, folder):
    one = dataclasses.replace(config, mixture=config.mixture[:1])
    alone = dataclasses.replace(config, mixture=(), files=(f"{folder}/large.txt",))
    mixed, single = setup(one), setup(alone)
    assert not isinstance(mixed.batches, MixedBatches)
    assert same(mixed.batches[3], single.batches[3])

"""Keys, vocabulary, registry: what everything else stands on."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdenoise import keys
from jaxdenoise.errors import UserError
from jaxdenoise.registry import Registry
from jaxdenoise.vocabulary import Vocabulary


def data(key):
    return jax.random.key_data(key).tolist()


def test_streams_seeds_epochs_and_ids_all_give_other_keys():
    found = {
        tuple(data(keys.example_key(keys.stream(name, seed), epoch, example)))
        for name in ("corruption", "dropout", "init")
        for seed in (0, 1)
        for epoch in (0, 1, 2)
        for example in (0, 1, 2, 2**31)
    }
    assert len(found) == 3 * 2 * 3 * 4


def test_keys_do_not_follow_the_users_default_generator():
    before = data(keys.stream("corruption"))
    with jax.default_prng_impl("rbg"):
        assert data(keys.stream("corruption")) == before


def test_keys_are_the_same_in_another_process():
    code = (
        "from jaxdenoise import keys; import jax; print(jax.random.key_data(keys.stream('x', 3)))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(jax.random.key_data(keys.stream("x", 3)))


def test_sentinels_descend_from_the_last_id():
    vocab = Vocabulary.with_sentinels(size=32100, sentinels=100)
    assert vocab.sentinel_ids[0] == 32099
    assert vocab.sentinel_ids[99] == 32000
    assert vocab.sentinel_number[32098] == 1


def test_ordinary_ids_are_all_but_the_special_ones(vocab):
    special = set(vocab.special_ids)
    assert set(vocab.ordinary_ids) == set(range(1000)) - special
    assert vocab.is_special.sum() == len(special) == 110


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 10, "eos_id": 10}, r"special id 10 is outside \[0, 10\)"),
        ({"size": 10, "pad_id": 1}, "have two roles"),
        ({"size": 10, "sentinel_ids": (5, 5)}, "have two roles"),
        ({"size": 4, "spellings": ((), (), (2,))}, "3 spellings for 4 ids"),
        ({"size": 4, "spellings": ((), (), (2,), (2, 2, 4))}, r"id 4 is spelled \(\)"),
        ({"size": 4, "spellings": ((), (), (), (2, 3))}, r"id 2 is spelled \(\)"),
        ({"size": 4, "spellings": ((), (2,), (2,), (3,))}, r"id 1 is spelled \(2,\)"),
    ],
)
def test_wrong_vocabularies_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Vocabulary(**fields)


def test_vocabulary_tables_are_read_only(vocab):
    with pytest.raises(ValueError, match="read-only"):
        vocab.is_special[0] = False


def test_equal_vocabularies_have_one_hash_and_others_another(vocab):
    again = dataclasses.replace(vocab)
    assert again is not vocab
    assert (again == vocab, hash(again) == hash(vocab)) == (True, True)
    other = dataclasses.replace(vocab, spellings=())
    assert (other == vocab, hash(other) == hash(vocab)) == (False, False)


def test_a_scope_forgets_what_was_registered_inside():
    things = Registry("thing")
    things.add("a", 1)
    with things.scope():
        things.add("b", 2)
        assert things.names() == ["a", "b"]
    assert things.names() == ["a"]
    with pytest.raises(UserError, match="unknown thing 'b'"):
        things["b"]


def test_host_seeds_differ_by_name_and_parts():
    seeds = {keys.host_seed(name, a, b) for name in "xy" for a in (0, 1) for b in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert np.uint32(keys.host_seed("rows", 0)) == keys.host_seed("rows", 0)

"""Mixtures: which member is drawn, that it does what it does alone, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdenoise.corruption.rates import Rate
from jaxdenoise.errors import UserError
from jaxdenoise.objectives import configure, objective, objectives
from jaxdenoise.objectives import mixture as mixtures
from jaxdenoise.objectives.mixture import Member, mixture
from jaxdenoise.vocabulary import Vocabulary

SIZE, DRAWS = 24, 2000
TOKENS, LENGTH = jnp.arange(101, 101 + SIZE), 21
KEYS = jax.random.split(jax.random.key(3), DRAWS)
FALLING, RISING = ((0, 1.0), (1, 0.0)), ((0, 0.0), (1, 1.0))


@pytest.fixture(autouse=True)
def registered():
    with objectives.scope():
        yield


def member(name: str, rate: Rate = 1.0, mode_token: str | None = None, **options) -> Member:
    return Member(objective=configure(name, **options), rate=rate, mode_token=mode_token)


def first_ids(built, progress=1.0) -> np.ndarray:
    """Int[draws]: what the encoder reads first, the mode token."""
    one = jax.vmap(lambda key, p: built(key, TOKENS, LENGTH, progress=p), in_axes=(0, None))
    return np.asarray(jax.jit(one)(KEYS, progress).encoder_input_tokens[:, 0])


@pytest.mark.parametrize("rates", [(2.0, 1.0, 1.0), (0.0, 0.3, 0.9)])
def test_members_are_drawn_as_often_as_their_rates_say(vocab, rates):
    modes = ("[R]", "[S]", "[X]")
    three = [member("identity", rate, mode) for rate, mode in zip(rates, modes, strict=True)]
    drawn = first_ids(mixture("three", *three, doc="Three.")(vocab=vocab))
    counts = [(drawn == vocab.named(mode)).sum() for mode in modes]
    expected = DRAWS * np.array(rates) / sum(rates)
    some = expected > 0
    assert not np.array(counts)[~some].any()
    assert scipy.stats.chisquare(np.array(counts)[some], expected[some]).pvalue > 1e-3


def test_rates_may_follow_the_progress_and_be_given_anew(vocab):
    both = member("identity", FALLING, "[R]"), member("prefix_lm", RISING, "[S]")
    recipe = mixture("turning", *both, doc="From one to the other.")
    built, (r, s) = recipe(vocab=vocab), (vocab.named("[R]"), vocab.named("[S]"))
    shares = [float((first_ids(built, progress) == s).mean()) for progress in (0.0, 0.5, 1.0)]
    # A stage is worth what the schedule says at its middle.
    np.testing.assert_allclose(shares, [0.005, 0.505, 0.995], atol=0.05)
    assert (first_ids(recipe(vocab=vocab, rates=(0.0, 2.0)), 0.0) == s).all()
    assert (first_ids(recipe(vocab=vocab, rates=(1.0, 0.0)), 1.0) == r).all()


def test_a_members_schedule_is_its_own(vocab):
    members = (
        member("bert_style", mode_token="[R]", noise_density=RISING),
        member("bert_style", mode_token="[S]", noise_density=0.5),
    )
    built = mixture("scheduled", *members, doc="One rises.")(vocab=vocab)
    corrupt = jax.jit(
        jax.vmap(lambda key, p: built(key, TOKENS, LENGTH, progress=p), in_axes=(0, None))
    )
    for progress, rising in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        read = np.asarray(corrupt(KEYS, progress).encoder_input_tokens)[:, : LENGTH + 1]
        changed = (read[:, 1:] != np.asarray(TOKENS)[:LENGTH]).mean(axis=1)
        for mode, density in (("[R]", rising), ("[S]", 0.5)):
            rows = read[:, 0] == vocab.named(mode)
            assert rows.sum() > DRAWS / 3
            assert abs(changed[rows].mean() - density) < 0.03  # of 21 tokens: counts are rounded


def test_a_row_is_what_its_member_makes_of_it_alone(vocab):
    """Rates looked up by member, and members of another recipe: the same, bit for bit."""
    members = (
        member("span_corruption", mode_token="[R]"),
        member("span_corruption", mode_token="[X]", noise_density=0.5, mean_noise_span_length=2.0),
        member("prefix_lm", mode_token="[S]"),
    )
    built = mixture("small", *members, doc="Three of two recipes.")(vocab=vocab)
    mixed = jax.device_get(jax.jit(jax.vmap(lambda k: built(k, TOKENS, LENGTH)))(KEYS[:60]))
    how = jax.vmap(lambda key: jax.random.fold_in(key, mixtures._HOW))(KEYS[:60])
    found = set()
    for m in members:
        one = m.objective.build(vocab)
        alone = jax.device_get(jax.jit(jax.vmap(lambda k, one=one: one(k, TOKENS, LENGTH)))(how))
        for row in np.flatnonzero(mixed.encoder_input_tokens[:, 0] == vocab.named(m.mode_token)):
            found.add(m.mode_token)
            for name, skip in (("encoder_input_tokens", 1), ("decoder_target_tokens", 0)):
                ours, theirs = getattr(mixed, name)[row], getattr(alone, name)[row]
                assert ours[skip : skip + len(theirs)].tolist() == theirs.tolist()
                assert (ours[skip + len(theirs) :] == vocab.pad_id).all()
            assert mixed.count[row] == alone.count[row]
    assert len(found) == 3


def test_lengths_that_depend_on_the_tokens_are_planned_for_in_a_mixture(vocab):
    members = (
        member("character_noise", mode_token="[R]", noise_density=0.5, growth=0.4),
        member("identity", mode_token="[S]"),
    )
    built = mixture("noisy", *members, doc="Noise or none.")(vocab=vocab)
    lengths = np.resize([SIZE, LENGTH, 3, 0], 200)
    batch = jax.jit(jax.vmap(lambda k, n: built(k, TOKENS, n)))(KEYS[:200], lengths)
    used = np.asarray(batch.encoder_segment_ids).sum(axis=1)
    plan = jax.jit(lambda keys, lengths: built.output_lengths(keys, lengths, raw_length=SIZE))
    planned = np.asarray(plan(KEYS[:200], lengths).encoder)
    assert (used <= planned).all()
    assert (used == planned).any()
    bounded = planned == lengths + np.ceil(lengths * 0.4 - 1e-9) + 2
    assert (planned[~bounded] == used[~bounded]).all()  # of the other member
    assert bounded.any()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((), "has no members; give at least one"),
        ((("identity", -1.0), ("identity", 2.0)), r"\(-1.0, 2.0\); give finite numbers, none neg"),
        ((("identity", float("inf")),), "give finite numbers"),
        ((("identity", 0.0), ("deshuffling", 0.0)), "at every time some member's must be above 0"),
        ((("identity", ((0, 1.0), (0.4, 0.0), (1, 0.0))), ("identity", 0.0)), "at every time"),
        ((("identity", ((0, 1.0), (0.9, 1.0))),), r"rates\[0\] is a schedule at progress"),
        ((("identity", 1.0, "[R]"), ("identity", 1.0)), "to every member, or to none"),
        ((("masked_lm", 1.0), ("any_order", 1.0)), "losses are divided by"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused_when_made(members, message):
    with pytest.raises(UserError, match=message):
        mixture("wrong", *(member(*one) for one in members), doc="Wrong.")


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((1.0,), "ul2r has 4 members: span_corruption, .*prefix_lm"),
        ((), "ul2r has 4 members"),
        ((0.0, 0.0, 0.0, 0.0), r"objective.rates .*above 0"),
        ((1.0, 1.0, 1.0, -0.1), r"objective.rates .*none negative"),
        ((FALLING, 1.0, 1.0, 1.0), "has points .progress, value."),
        (1.0, "objective.rates is 1.0; it must be numbers"),
    ],
)
def test_rates_that_make_no_sense_are_refused_when_configured(rates, message):
    with pytest.raises(UserError, match=message):
        configure("ul2r", rates=rates)


def test_what_a_members_vocabulary_lacks_is_named_when_built(vocab):
    plain = Vocabulary.with_sentinels(size=1000, sentinels=20)
    with pytest.raises(UserError, match=r"no token named '\[R\]'"):
        configure("ul2").build(plain)
    configure("ul2", mode_tokens=False).build(plain)
    with pytest.raises(UserError, match=r"no token named '\[Q\]'.*it has \[R\], \[S\], \[X\]"):
        mixture("odd", member("identity", 1.0, "[Q]"), doc="Odd.")(vocab=vocab)
    with pytest.raises(UserError, match="no mask token"):
        mixture("masked", member("bert_style"), member("identity"), doc="Masked.")(vocab=plain)


def test_what_a_members_rows_lack_is_named_when_the_length_is_known():
    with pytest.raises(UserError, match=r"171 noise spans.*only 100 sentinels"):
        configure("ul2").check(1024, 100)
    with pytest.raises(UserError, match="raw_length is 1"):
        configure("ul2r").check(1, 100)


@pytest.mark.parametrize("context_length", [3, 100])  # of a row of 100 tokens nothing would be left
def test_members_of_different_architectures_are_refused_when_built(vocab, context_length):
    members = member("identity"), member("subsequence", context_length=context_length)
    recipe = mixture("both", *members, doc="Both.")
    with pytest.raises(UserError, match="identity for encoder_decoder, subsequence for decoder"):
        recipe(vocab=vocab)


def test_an_objective_of_a_user_may_be_a_member(vocab):
    @objective
    def backwards(key, tokens, length, *, vocab):
        from jaxdenoise.corruption import examples

        return examples.full_target(tokens[::-1], length, tokens, length, vocab)

    mixed = mixture("mine", member("backwards"), member("identity"), doc="Mine.")(vocab=vocab)
    corrupt = jax.jit(jax.vmap(lambda key: mixed(key, TOKENS, SIZE)))
    first = np.asarray(corrupt(KEYS).encoder_input_tokens[:, 0])
    assert set(first) == {int(TOKENS[0]), int(TOKENS[-1])}


def test_a_members_other_options_for_evaluation_are_refused():
    member = Member(objective=configure("masked_lm", evaluation_noise_density=0.15))
    with pytest.raises(UserError, match="a member masked_lm with evaluation_noise_density 0.15"):
        mixture("evaluated", member, doc="One.")

"""Answers to held-out pairs: of a model that learnt a rule, and of decoders as of stacks."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.experiment import override
from jaxdenoise.model.model import build_model
from jaxdenoise.training import answers
from jaxdenoise.training.setup import build
from jaxdenoise.training.step import corrupted
from tests.model.test_transformer import spread

SUBSEQUENCE = {"objective": "subsequence"}


def test_a_models_answers_are_scored_beside_the_baselines(on_pairs, monkeypatch):
    setup = build(on_pairs)
    model, params = setup.model, setup.initial_state().params
    asked = []

    def all_right(_, params, tokenizer, sources, *, longest, bidirectional):
        texts = [tokenizer.decode(source) for source in sources]
        asked.extend(texts)
        assert longest > max(len(tokenizer.encode("copy_matrix")), 3)
        assert not bidirectional
        return [f"{text.split(' after a ')[1].split()[0]}_{text.split()[2]}" for text in texts]

    plain = answers.answer_held_out(setup, params)
    assert plain["scores"]["this model"]["exact_match"] == 0
    monkeypatch.setattr(answers, "answer", all_right)
    found = answers.answer_held_out(setup, params)
    assert found["scores"]["this model"] == dict.fromkeys(
        ("exact_match", "token_f1", "rouge_l"), 1.0
    )
    assert found["scores"]["nearest (TF-IDF)"] == plain["scores"]["nearest (TF-IDF)"]
    assert 0.3 < found["scores"]["majority"]["token_f1"] < 0.9
    assert [one["source"] for one in found["answers"]] == asked
    assert len(asked) == setup.store.manifest["held_out"]["documents"]
    assert model is setup.model


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [
        ("encoder_decoder", {"name": "text_to_text"}),
        pytest.param("decoder", {"name": "subsequence"}, marks=pytest.mark.slow),
        pytest.param(
            "decoder",
            {"name": "subsequence", "bidirectional_context": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_written_is_what_the_model_finds_likeliest_in_training(
    architecture, objective, on_pairs, monkeypatch
):
    """Of the first token: the likeliest at the first target of a row, as it is corrupted there."""
    fields = {"model.architecture": architecture, "model.decoder_layers": 3}
    options = {f"objective.{name}": value for name, value in objective.items() if name != "name"}
    fields |= {"model.tied_embeddings": False, "objective": objective["name"], **options}
    setup = build(override(on_pairs, fields))
    monkeypatch.setattr(answers, "CHUNK", 25)
    tokenizer = setup.store.tokenizer
    params = spread(setup.initial_state().params)
    rows = setup.held_out(60)
    batch = corrupted(setup.objective, rows)
    logits = np.asarray(jax.jit(setup.model.apply)(params, batch))[..., : tokenizer.vocab.size]
    weights = np.asarray(batch.decoder_loss_weights)
    expected = logits[np.arange(60), (weights > 0).argmax(axis=1)].argmax(axis=-1)
    held_out = setup.store.pairs("held_out")
    sources = [held_out.parts(int(number))[0] for number in rows.example_ids]
    together = objective.get("bidirectional_context", False)

    def write(together):
        return answers.answer(
            setup.model, params, tokenizer, sources, longest=1, bidirectional=together
        )

    found = write(together)
    assert found == [tokenizer.decode([token]) for token in expected]
    assert len(set(found)) > 1
    assert not together or found != write(False)


def test_what_is_asked_is_as_in_the_rows_and_targets_are_whole(on_pairs, monkeypatch):
    fields = {"model.architecture": "decoder", "objective": "subsequence", "data.raw_length": 6}
    setup = build(override(on_pairs, {**fields, "objective.bidirectional_context": True}))
    held_out, decode = setup.store.pairs("held_out"), setup.store.tokenizer.decode
    asked = {}

    def answer(model, params, tokenizer, sources, **options):
        asked.update(options, sources=sources)
        return [""] * len(sources)

    def baselines(known, sources):
        asked.update(known=known)
        return {}

    monkeypatch.setattr(answers, "answer", answer)
    monkeypatch.setattr(answers, "baseline_answers", baselines)
    found = answers.answer_held_out(setup, {})
    assert asked["bidirectional"]
    assert max(map(len, asked["sources"])) <= 4
    wanted = {decode(held_out.parts(n)[1]) for n in range(len(held_out))}
    assert {one["target"] for one in found["answers"]} == wanted
    assert len(asked["known"]) == len(setup.store.pairs("train"))


def test_a_run_on_pairs_reads_the_training_ones(on_pairs):
    setup = build(on_pairs)
    pairs, rows = setup.store.pairs("train"), setup.batches[0]
    for tokens, length, number in zip(rows.tokens, rows.lengths, rows.example_ids, strict=True):
        assert tokens[:length].tolist() == pairs[int(number)].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.pairs": False}, "objective text_to_text reads pairs; set data.pairs"),
        ({"objective": "span_corruption"}, "reads no pairs; choose subsequence or text_to_text"),
        ({"data.raw_length": 2}, "a source, a separator and a target have a token each"),
        (
            {
                "model.architecture": "decoder",
                "objective": "subsequence",
                "objective.context_length": 3,
            },
            "leave objective.context_length out",
        ),
        ({"objective.longest_target": 0}, "longest_target is 0; it must be at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(changes, message, on_pairs):
    with pytest.raises(UserError, match=message):
        override(on_pairs, changes)


def test_a_decoder_with_learned_positions_writes_no_further_than_it_has_any(on_pairs):
    setup = build(on_pairs)
    tokenizer = setup.store.tokenizer
    config = dataclasses.replace(
        on_pairs.model, architecture="decoder", positions="learned", max_positions=12
    )
    model = build_model(config, tokenizer.vocab)
    params = model.init(jax.random.key(0))
    [text] = answers.answer(model, params, tokenizer, [np.arange(300, 308)], longest=40)
    assert len(tokenizer.encode(text)) <= 4 * 4

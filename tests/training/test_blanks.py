"""Blanks filled by each architecture, where they stand."""

import jax
import numpy as np
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_results import print_choices
from jaxdenoise.corruption.reorder import fill_in_the_middle
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import decoder, encoder, encoder_decoder
from jaxdenoise.model.unmasking import unmask
from jaxdenoise.objectives import configure
from jaxdenoise.tokenizer import parse_tokenizer, train_tokenizer
from jaxdenoise.training import blanks
from jaxdenoise.training.blanks import fill_blanks, generate

TEXT = "Return the <mask> of the <mask>."


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Return the sum of the array. " * 3], vocabulary_size=400, sentinels=9)


@pytest.fixture(scope="module")
def masked(tokenizer):
    model = encoder(vocab=tokenizer.vocab, width=32, layers=1)
    params = model.init(jax.random.key(0))
    return model, {**params, "embedding": 0.1 * params["embedding"]}  # what is around counts


@pytest.fixture(scope="module")
def causal(tokenizer):
    model = decoder(vocab=tokenizer.vocab, width=32, layers=1, positions="rotary")
    return model, jax.tree.map(lambda x: 2 * x, model.init(jax.random.key(1)))


def test_an_encoder_puts_its_likeliest_token_into_each_mask(tokenizer, masked):
    model, params = masked
    [pieces, other] = fill_blanks(*masked, tokenizer, [TEXT, "<mask>"], top_k=3)
    assert [piece.get("text") for piece in pieces] == ["Return the ", None, " of the ", None, "."]
    ids = tokenizer.encode(TEXT, specials=True)[None]
    logits = jax.jit(model.apply)(
        params, Example(encoder_input_tokens=ids, encoder_segment_ids=np.ones_like(ids))
    )
    logits = np.where(tokenizer.vocab.is_special, -np.inf, logits[0, :, : tokenizer.vocab.size])
    shares = np.asarray(jax.nn.softmax(logits))
    places = np.flatnonzero(ids[0] == tokenizer.vocab.mask_id)
    for place, piece in zip(places, [pieces[1], pieces[3]], strict=True):
        best = np.argsort(-shares[place])[:3]
        assert [text for text, _ in piece["choices"]] == [tokenizer.decode([i]) for i in best]
        found = [share for _, share in piece["choices"]]
        np.testing.assert_allclose(found, shares[place][best], rtol=1e-4)
        assert piece["model"] == piece["choices"][0][0]
    assert len(other) == 1
    assert "choices" not in fill_blanks(*masked, tokenizer, [TEXT])[0][1]


def test_masks_are_filled_in_rounds_and_those_that_follow_each_other_as_one(tokenizer, masked):
    model, _ = masked
    params = jax.tree.map(lambda x: 1.5 * x, model.init(jax.random.key(4)))
    text = "Return <mask><mask><mask> of <mask>."
    ids = tokenizer.encode(text, specials=True)
    [at_once], [slow], [blocks] = (
        fill_blanks(model, params, tokenizer, [text, TEXT], **options)[:1]
        for options in ({}, {"rounds": 9}, {"rounds": 9, "blocks_of": 4})
    )
    for pieces, options in (
        (at_once, {}),
        (slow, {"rounds": 9}),
        (blocks, {"rounds": 9, "block_length": 4, "clean_copy": True}),
    ):
        assert [piece.get("text") for piece in pieces] == ["Return ", None, " of ", None, "."]
        row = np.pad(ids, (0, 32 - len(ids)))[None]
        size = np.array([len(ids)])
        whole = np.asarray(unmask(model, params, row, size, tokenizer.vocab, **options))[0]
        written = whole[row[0] == tokenizer.vocab.mask_id]
        assert pieces[1]["model"] == tokenizer.decode_part(written[:3].tolist())
        assert pieces[3]["model"] == tokenizer.decode_part(written[3:].tolist())
    assert len({str(pieces) for pieces in (at_once, slow, blocks)}) == 3


def test_a_decoder_that_learnt_it_fills_in_the_middle(tokenizer, causal):
    model, params = causal
    vocab = tokenizer.vocab
    [pieces, end] = fill_blanks(
        *causal, tokenizer, ["Return <mask> of it.", "Return <mask>"], middles=True
    )
    assert (pieces[0], pieces[2]) == ({"text": "Return "}, {"text": " of it."})
    row = np.array(tokenizer.encode("Return  of it."))
    before = len(tokenizer.encode("Return "))
    moved = fill_in_the_middle(
        row, len(row), np.array([before, before]), suffix_first=False, vocab=vocab
    )
    prompt = np.array([[vocab.pad_id, *moved[: len(row) + 3]]], np.int32)  # without EOS
    batch = Example(decoder_input_tokens=prompt, decoder_segment_ids=np.ones_like(prompt))
    written = np.asarray(generate(model, params, batch, 64, vocab))[0]
    assert pieces[1]["model"] == tokenizer.decode(written)
    assert end == fill_blanks(*causal, tokenizer, ["Return <mask>"])[0]


def test_choices_are_printed_under_the_text(tokenizer, masked, capsys):
    [pieces] = fill_blanks(*masked, tokenizer, [TEXT], top_k=2)
    print_choices(pieces, make_console())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert all(line.count("%") == 2 for line in lines)


def test_what_a_tokenizer_puts_around_a_text_is_read_and_not_shown(tokenizer, masked):
    """As [CLS] and [SEP] of an imported BERT."""
    framed = parse_tokenizer(tokenizer.to_json(ended=True), "framed")
    assert framed.encode("a", framed=True).tolist()[-1] == framed.vocab.eos_id
    [pieces] = fill_blanks(*masked, framed, [TEXT], top_k=1)
    [alone] = fill_blanks(*masked, tokenizer, [TEXT], top_k=1)
    assert [piece.get("text") for piece in pieces] == [piece.get("text") for piece in alone]
    shares = [[piece["choices"][0][1] for piece in p if "model" in piece] for p in (pieces, alone)]
    assert np.abs(np.subtract(*shares)).min() > 1e-4  # the end of the text was there


def test_no_mask_is_filled_with_a_special_token(tokenizer, masked):
    """Not even by a model that would have nothing else."""
    model, params = masked
    favoured = params["projection"].at[:, tokenizer.vocab.eos_id].set(1e3)
    [pieces] = fill_blanks(model, {**params, "projection": favoured}, tokenizer, [TEXT], top_k=400)
    choices = pieces[1]["choices"]
    assert len(choices) == len(tokenizer.vocab.ordinary_ids)
    np.testing.assert_allclose(sum(share for _, share in choices), 1, rtol=1e-4)


def test_a_text_may_be_as_long_as_the_positions(tokenizer):
    model = encoder(
        vocab=tokenizer.vocab, width=32, layers=1, positions="learned", max_positions=40
    )
    params = model.init(jax.random.key(0))
    size = len(tokenizer.encode("a b"))
    for more, fits in ((39 // size, True), (45 // size + 1, False)):
        text = "a b" * more + "<mask>"
        if fits:
            assert fill_blanks(model, params, tokenizer, [text])
        else:
            with pytest.raises(UserError, match="tokens, the model positions for 40"):
                fill_blanks(model, params, tokenizer, [text])


def test_a_decoder_goes_on_where_a_text_ends(tokenizer, causal):
    model, params = causal
    texts = ["Return the <mask>", "Return the sum of the <mask>"]
    for text, pieces in zip(texts, fill_blanks(*causal, tokenizer, texts), strict=True):
        beginning = text.removesuffix("<mask>")
        assert pieces[0] == {"text": beginning}
        ids = np.array([[0, *tokenizer.encode(beginning)]], np.int32)
        batch = Example(decoder_input_tokens=ids, decoder_segment_ids=np.ones_like(ids))
        alone = generate(model, params, batch, 64, tokenizer.vocab)
        assert pieces[1]["model"] == tokenizer.decode(np.asarray(alone)[0])
        assert pieces[1]["model"]


def test_what_cannot_be_filled_is_refused(tokenizer, masked, causal):
    both = encoder_decoder(vocab=tokenizer.vocab, width=32, layers=1)
    for (model, params), text, options, message in [
        (causal, "a <mask> b", {}, "goes on where a text ends: write one <mask>, and at the end"),
        (causal, "<mask> <mask>", {}, "goes on where a text ends"),
        (causal, "a <mask>", {"top_k": 2}, "this model's architecture is decoder"),
        ((both, None), "a <mask>", {"top_k": 2}, "architecture is encoder_decoder"),
        (masked, "nothing", {}, "the text has no blank"),
        (masked, "<mask>", {"top_k": 0}, "top-k is 0; it must be at least 1"),
        (masked, "<mask>", {"rounds": 0}, "rounds is 0; it must be at least 1"),
        (masked, "<mask>", {"rounds": 2, "top_k": 2}, "not in rounds or blocks; leave it out"),
        (causal, "a <mask>", {"rounds": 2}, "this model's architecture is decoder"),
        (causal, "<mask> <mask>", {"middles": True}, "fills one blank of a text; write one"),
    ]:
        with pytest.raises(UserError, match=message):
            fill_blanks(model, params, tokenizer, [text], **options)


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        *((name, True) for name in ("text_infilling", "bart", "bert_style")),
        *((name, False) for name in ("span_corruption", "mass", "prefix_lm", "ul2")),
    ],
)
def test_whether_texts_are_written_anew_is_seen_from_the_objective(name, anew, vocab):
    assert blanks.writes_anew(configure(name).build(vocab), 40) == anew


def test_a_text_that_is_written_anew_shows_what_differs(tokenizer, monkeypatch):
    """What a model gives is played, as long as it may be; the mask and another word differ."""
    text, answer = "Return the <mask> of an array.", "Return the sum of that array."
    asked = []

    def written(model, params, batch, longest, vocab):
        asked.append((np.asarray(batch.encoder_input_tokens)[0].tolist(), longest))
        ids = [*tokenizer.encode(answer), vocab.eos_id, *tokenizer.encode("more")]
        return np.array([ids], np.int32)

    monkeypatch.setattr(blanks, "generate", written)
    model = encoder_decoder(vocab=tokenizer.vocab, width=32, layers=1)
    [pieces] = fill_blanks(model, None, tokenizer, [text], anew=True)
    assert "".join(piece.get("text", "") + piece.get("model", "") for piece in pieces) == answer
    own = [piece["model"].strip() for piece in pieces if "model" in piece]
    assert own[0] == "sum"
    assert len(own) > 1
    [(ids, longest)] = asked
    real = ids[: ids.index(tokenizer.vocab.eos_id)]
    assert real.count(tokenizer.vocab.mask_id) == 1
    assert longest > len(ids)

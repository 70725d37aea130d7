"""SentencePiece's .model files against that library's own reading of them."""

import shutil
import sys

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.errors import UserError
from jaxdenoise.huggingface.pretrained import read_pretrained, write_pretrained
from jaxdenoise.sentencepiece_file import read_sentencepiece
from jaxdenoise.tokenizer import read_tokenizer
from tests.huggingface.folders import params_of

sentencepiece = pytest.importorskip("sentencepiece", reason="jaxdenoise[sentencepiece] is missing")

SAID = "the sum of an array is returned where no axis was given and copies are made"
WORDS = SAID.split(" ")
TEXTS = [" ".join(WORDS[n::k]) + "." for k in range(1, 8) for n in range(len(WORDS))]
OPTIONS = {
    "plain": {},
    "bytes": {"byte_fallback": True},
    "spaces": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "identity": {"normalization_rule_name": "identity"},
}
KINDS = [(kind, name) for kind in ("unigram", "bpe") for name in OPTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A .model file of each kind."""
    folder = tmp_path_factory.mktemp("models")
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    for kind, name in KINDS:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_prefix=str(folder / f"{kind}-{name}"),
            model_type=kind,
            vocab_size=400,
            hard_vocab_limit=False,
            minloglevel=3,
            user_defined_symbols=["==>"] if kind == "unigram" else [],
            **ids,
            **OPTIONS[name],
        )
    return folder


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def both(request, folder):
    """The library's reading, and ours."""
    file = folder / ("-".join(request.param) + ".model")
    backend = read_sentencepiece(file)
    backend.encode_special_tokens = True
    return sentencepiece.SentencePieceProcessor(model_file=str(file)), backend


def once(ids, unknown):
    """Ids with one for what is unknown, as text that spells `</s>` is parted inside."""
    return [n for n, before in zip(ids, [None, *ids], strict=False) if n != unknown or before != n]


PARTS = [*"aesrt nohd.é日\n\tﬁ", "</s>", " the ", "==>"]


@given(st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
def test_any_text_has_the_librarys_ids(both, text):
    theirs, ours = both
    ids, found = (
        once(encoded, theirs.unk_id())
        for encoded in (theirs.encode(text), ours.encode(text, add_special_tokens=False).ids)
    )
    # Equally likely partings may fall otherwise: of a unigram the score counts.
    if found != ids and isinstance(ours.model, tokenizers.models.Unigram):
        assert sum(map(theirs.get_score, found)) == pytest.approx(sum(map(theirs.get_score, ids)))
        assert theirs.decode(found) == theirs.decode(ids)
    else:
        assert found == ids
    assert theirs.unk_id() in ids or ours.decode(ids) == theirs.decode(ids)


def test_real_words_have_the_librarys_ids_and_every_piece_its_own(both):
    theirs, ours = both
    for text in [*TEXTS, "  The sum ==> 3,  of\tit. ", "日本語 ﬁ </s>", ""]:
        found = ours.encode(text, add_special_tokens=False).ids
        assert once(found, theirs.unk_id()) == once(theirs.encode(text), theirs.unk_id())
    assert [ours.id_to_token(n) for n in range(theirs.get_piece_size())] == [
        theirs.id_to_piece(n) for n in range(theirs.get_piece_size())
    ]


@pytest.mark.parametrize("end", ["¶", "</s>", None])
def test_symbols_may_be_of_one_character_or_lack(tmp_path, end):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "short"),
        model_type="bpe",
        vocab_size=100,
        minloglevel=3,
        unk_id=0,
        unk_piece="¤",
        eos_id=-1 if end is None else 1,
        eos_piece=end or "</s>",
        pad_id=-1,
        bos_id=-1,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "short.model"))
    ours = read_sentencepiece(tmp_path / "short.model")
    ours.encode_special_tokens = True
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text)


def test_it_serves_as_a_tokenizer_with_what_it_lacks(folder):
    tokenizer = read_tokenizer(folder / "unigram-bytes.model", sentinels=5)
    vocab, text = tokenizer.vocab, "The sum of it, 日本."
    assert (vocab.pad_id, vocab.eos_id) == (0, 1)
    assert vocab.sentinel_ids == tuple(vocab.size - 1 - k for k in range(5))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(f" {text}".encode())  # its first space too
    assert not vocab.is_special[ids].any()
    assert tokenizer.encode("</s>", specials=True)[-1] == 1


def test_what_cannot_be_read_is_named(tmp_path, folder, monkeypatch):
    damaged = tmp_path / "damaged.model"
    for content in (b"", b"\xff\xff\xff", (folder / "bpe-plain.model").read_bytes()[:-7]):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged.model' is no "):
            read_tokenizer(damaged)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"pip install -U 'jaxdenoise\[sentencepiece\]'"):
        read_tokenizer(folder / "bpe-plain.model")


def test_a_t5_comes_in_with_its_model_file_and_the_sentinels_that_this_lacks(folder, tmp_path):
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "unigram-plain.model"))
    pieces = theirs.get_piece_size()
    place = tmp_path / "t5"
    config, _, params = params_of("t5", pieces + 100)
    write_pretrained(place, config, params)
    shutil.copy(folder / "unigram-plain.model", place / "spiece.model")
    found = read_pretrained(place).tokenizer
    assert found.vocab.sentinel_ids == tuple(range(pieces + 99, pieces - 1, -1))
    assert found.vocab.size == pieces + 100 and found.vocab.mask_id is None
    assert found.encode(SAID).tolist() == theirs.encode(SAID)
    (place / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    assert read_pretrained(place).tokenizer.vocab.sentinel_ids == (pieces + 2, pieces + 1, pieces)
    (place / "tokenizer_config.json").write_text('{"extra_ids": "many"}')
    with pytest.raises(UserError, match="extra_ids is 'many'; it must be a number of sentinels"):
        read_pretrained(place)

"""Byte-level BPE trained on the spot, special tokens, and tokenizer files."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.errors import UserError
from jaxdenoise.tokenizer import NAMED, Tokenizer, read_tokenizer, train_tokenizer

TEXTS = ["Return the sum of the array.", "Return the product of the arrays.", "naïve façade ☃"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary_size=400, sentinels=20)


@given(st.text())
def test_every_text_comes_back_as_it_was(text):
    tokenizer = train_tokenizer_once()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.vocab.is_special[ids].any()
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def train_tokenizer_once(cache=[]):  # noqa: B006  # hypothesis takes no module fixtures
    if not cache:
        cache.append(train_tokenizer(TEXTS, vocabulary_size=400, sentinels=20))
    return cache[0]


def test_size_and_sentinels_are_as_asked_even_when_merges_run_out(tokenizer):
    vocab = tokenizer.vocab
    assert vocab.size == 400
    assert vocab.sentinel_ids == tuple(range(399, 379, -1))
    assert len(vocab.unused_ids) > 0  # so little text has too few pairs
    assert (vocab.pad_id, vocab.eos_id, vocab.mask_id, vocab.separator_id) == (0, 1, 2, 3)


def test_special_names_in_a_corpus_are_text(tokenizer):
    text = "a </s> b <extra_id_0> <pad>"
    ids = tokenizer.encode(text)
    assert not tokenizer.vocab.is_special[ids].any()
    assert tokenizer.decode(ids) == text


def test_special_names_become_ids_on_request_alone(tokenizer):
    ids = tokenizer.encode("x<extra_id_1>y", specials=True)
    assert tokenizer.vocab.sentinel_ids[1] in ids
    assert tokenizer.decode(ids) == "xy"
    assert tokenizer.decode(ids, specials=True) == "x<extra_id_1>y"
    assert tokenizer.vocab.sentinel_ids[1] not in tokenizer.encode("x<extra_id_1>y")


def test_a_batch_is_each_text_alone(tokenizer):
    for text, ids in zip(TEXTS[:3], tokenizer.encode_batch(TEXTS[:3]), strict=True):
        assert ids.tolist() == tokenizer.encode(text).tolist()


def test_pieces_join_to_the_text(tokenizer):
    assert "".join(tokenizer.pieces(tokenizer.encode("Return the sum."))) == "Return the sum."


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), "utf-8")
    again = read_tokenizer(path)
    assert again.vocab == tokenizer.vocab
    assert again.encode(TEXTS[2]).tolist() == tokenizer.encode(TEXTS[2]).tolist()


def write(backend, path):
    path.write_text(backend.to_str(), "utf-8")
    return path


def test_another_librarys_settings_do_not_cut_or_pad_the_text(tokenizer, tmp_path):
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.enable_truncation(4)
    backend.enable_padding(length=8, pad_id=0)
    again = read_tokenizer(write(backend, tmp_path / "tokenizer.json"))
    assert again.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()
    assert len(again.encode("x")) == 1
    assert len(again.encode_batch(["x", TEXTS[0]])[0]) == 1


@pytest.fixture
def metaspace(tmp_path):
    """A tokenizer of SentencePiece's kind, without a separator of documents."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{k}>" for k in range(9))]
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=names, show_progress=False)
    backend.train_from_iterator(TEXTS[:2], trainer)
    return read_tokenizer(write(backend, tmp_path / "tokenizer.json"))


def test_a_tokenizer_without_a_separator_gets_one_that_is_not_eos(metaspace):
    vocab = metaspace.vocab
    assert vocab.separator_id == vocab.size - 1
    assert vocab.separator_id != vocab.eos_id
    assert vocab.is_special[vocab.separator_id]


def test_tokens_that_begin_a_word_keep_their_space(metaspace):
    ids = metaspace.encode("Return the sum of the array.")
    assert "".join(metaspace.pieces(ids)).strip() == "Return the sum of the array."
    # Its own text begins every word, the first one too, with a space.
    assert metaspace.token_bytes[ids].sum() == len(" Return the sum of the array.")
    assert metaspace.decode_part(ids[3:]) == metaspace.decode(ids)[len(metaspace.decode(ids[:3])) :]


def test_special_tokens_that_lack_are_appended_and_sentinels_end_the_vocabulary(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = ["[UNK]", "[MASK]", "<|endoftext|>", "<extra_id_0>"]
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=names, show_progress=False)
    backend.train_from_iterator(TEXTS[:2], trainer)
    file, size = write(backend, tmp_path / "tokenizer.json"), backend.get_vocab_size()
    with pytest.raises(UserError, match="--data.add-special-tokens True appends what it lacks"):
        read_tokenizer(file)
    whole = read_tokenizer(file, sentinels=4)
    vocab = whole.vocab
    assert (vocab.mask_id, vocab.eos_id) == (1, 2)  # by the names that the file has
    assert {name: whole.name(token) for name, token in vocab.named_ids} == NAMED
    assert vocab.sentinel_ids == (3, vocab.size - 1, vocab.size - 2, vocab.size - 3)
    assert vocab.size == size + 2 + len(NAMED) + 3  # padding and the separator too
    text = "Return the sum"
    assert whole.encode(text).tolist() == backend.encode(text, add_special_tokens=False).ids
    (tmp_path / "whole.json").write_text(whole.to_json(), "utf-8")
    again = read_tokenizer(tmp_path / "whole.json", sentinels=4)
    assert again.vocab == vocab
    assert read_tokenizer(file, sentinels=0).vocab.sentinel_ids == (3,)


def test_too_small_a_vocabulary_says_what_it_needs():
    with pytest.raises(UserError, match=r"vocabulary_size is 300; it must be at least 366"):
        train_tokenizer(TEXTS, vocabulary_size=300, sentinels=100)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer.json"):
        read_tokenizer(path)
    with pytest.raises(UserError, match="is not a file"):
        read_tokenizer(tmp_path / "nothing.json")


def test_a_token_is_spelled_by_its_characters(tokenizer):
    vocab, (token,) = tokenizer.vocab, tokenizer.encode(" the")
    assert [tokenizer.decode([i]) for i in vocab.spellings[token]] == [" ", "t", "h", "e"]
    for token in vocab.ordinary_ids.tolist():
        text = tokenizer.decode([token])
        if text.isascii():
            assert tokenizer.decode(vocab.spellings[token]) == text
            assert len(vocab.spellings[token]) == len(text)
        else:  # a byte of a character, or several characters
            assert vocab.spellings[token] == ()
    assert "ï" in tokenizer.decode([token for token in vocab.ordinary_ids if token > 265])


def test_whole_characters_that_are_tokens_spell_where_tokens_are_no_bytes(metaspace):
    token = metaspace.encode("naïve").tolist()[0]
    spelled = metaspace.vocab.spellings[token]
    assert "".join(metaspace.pieces(spelled)).strip() == metaspace.decode([token])
    assert all(metaspace.vocab.spellings[character] == (character,) for character in spelled)


def test_what_begins_a_word_is_not_spelled_where_the_rest_is_marked():
    names = {"[PAD]": 0, "[SEP]": 1, "[UNK]": 2, "in": 3, "i": 4, "##i": 5, "##n": 6, "##ing": 7}
    names |= {"##g": 8, "##in": 9, "##" + "in" * 9: 10, "##ix": 11}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(names, unk_token="[UNK]"))
    backend.add_special_tokens(["[PAD]", "[SEP]", "[UNK]"])
    spelled = dict(enumerate(Tokenizer(backend).vocab.spellings))
    assert {token: spelling for token, spelling in spelled.items() if spelling} == {
        5: (5,),
        6: (6,),
        7: (5, 6, 8),
        8: (8,),
        9: (5, 6),
    }

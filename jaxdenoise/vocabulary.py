"""Which ids are text and which are special: all that a corruption needs to know of a tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from jaxdenoise.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids of a tokenizer, by their role.

    Every id in `[0, size)` that has no role here is an ordinary id, one that stands for text. A
    token id of 0 may be text: padding is decided by lengths and weights, never by the id.

    Attributes:
      size: V, the number of ids, special ones included.
      pad_id: fills positions past the end.
      eos_id: ends inputs and targets.
      mask_id: `[MASK]`, for objectives that write one mask; None if the tokenizer lacks it.
      decoder_start_id: what a decoder reads first; None for padding, as in T5.
      separator_id: stands between documents in a row. It is not `eos_id`: a noise span may cover
        a separator, and an EOS inside a target would end decoding there.
      sentinel_ids: the id of sentinel 0, 1, …; T5's order is descending, see `with_sentinels`.
      named_ids: further special ids by name: UL2's mode tokens, the marks of fill-in-the-middle.
      unused_ids: ids that no text is encoded to (padding of the vocabulary, an unknown token).
      sentence_end_ids: ordinary ids that a sentence may end with.
      continuation_ids: ordinary ids that go on with the word before them.
      spellings: for each id the ids of the single characters that spell it, none if it cannot be
        spelled; empty if the tokenizer has no characters. A character spells itself.

    Raises:
      UserError: an id outside [0, size), one id in two roles, a decoder that starts from an
        ordinary one, a special id in a sentence, or spellings of a special id, by an id that is no
        character, or for another number of ids.

    Example:
      >>> vocab = Vocabulary.with_sentinels(size=1000, sentinels=100)
      >>> vocab.sentinel_ids[:3]
      (999, 998, 997)
      >>> bool(vocab.is_special[999]), bool(vocab.is_special[10])
      (True, False)
    """

    size: int
    pad_id: int = 0
    eos_id: int = 1
    mask_id: int | None = None
    decoder_start_id: int | None = None
    separator_id: int | None = None
    sentinel_ids: tuple[int, ...] = ()
    named_ids: tuple[tuple[str, int], ...] = ()
    unused_ids: tuple[int, ...] = ()
    sentence_end_ids: tuple[int, ...] = ()
    continuation_ids: tuple[int, ...] = ()
    spellings: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        special = self.special_ids
        for token in special:
            require(
                0 <= token < self.size,
                f"vocabulary: special id {token} is outside [0, {self.size}); give `size` as the "
                "number of ids with the special ones included",
            )
        twice = sorted(token for token, times in Counter(special).items() if times > 1)
        require(not twice, f"vocabulary: {twice} have two roles each; give each role its own id")
        require(
            self.start_id in special,
            f"vocabulary: decoder_start_id is {self.start_id}, which is no special id; give one of "
            "those that stand for no text, or leave it out for padding",
        )
        for token in {*self.sentence_end_ids, *self.continuation_ids}:
            require(
                0 <= token < self.size and not self.is_special[token],
                f"vocabulary: id {token} ends a sentence or goes on with a word, so it must be an "
                f"ordinary id in [0, {self.size})",
            )
        require(
            len(self.spellings) in (0, self.size),
            f"vocabulary: {len(self.spellings)} spellings for {self.size} ids; give one for each",
        )
        spelled = [token for token, spelling in enumerate(self.spellings) if spelling]
        characters = set().union(*self.spellings)
        for token in sorted({*characters, *special} & {*characters, *spelled}):
            spelling = self.spellings[token] if 0 <= token < self.size else ()
            require(
                spelling == (token,) and not self.is_special[token],
                f"vocabulary: id {token} is spelled {spelling}; what spells others is an ordinary "
                "id that spells itself, and special ids have no spelling",
            )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: a jitted function that takes a vocabulary asks for it at every call."""
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    @classmethod
    def with_sentinels(cls, *, size: int, sentinels: int = 100, **roles) -> Vocabulary:
        """A vocabulary whose sentinel k is the id `size - 1 - k`, T5's descending order."""
        ids: Iterable[int] = range(size - 1, size - 1 - sentinels, -1)
        return cls(size=size, sentinel_ids=tuple(ids), **roles)

    @property
    def start_id(self) -> int:
        """What a decoder reads first."""
        return self.pad_id if self.decoder_start_id is None else self.decoder_start_id

    @property
    def special_ids(self) -> tuple[int, ...]:
        """All ids with a role, in no particular order."""
        optional = [i for i in (self.mask_id, self.separator_id) if i is not None]
        named = [token for _, token in self.named_ids]
        return (self.pad_id, self.eos_id, *optional, *self.sentinel_ids, *named, *self.unused_ids)

    def require_mask(self) -> int:
        """Returns `mask_id`; raises `UserError` if the vocabulary has none."""
        if self.mask_id is None:
            raise UserError(
                "the vocabulary has no mask token, which this objective writes; append it to the "
                "tokenizer (data.add_special_tokens) or choose an objective that writes sentinels"
            )
        return self.mask_id

    def require(self, need: str) -> int:
        """The id of a special token that an objective writes: "mask", or a named one.

        "sentence_ends" and "spellings" ask for those instead, and give the first.

        Raises:
          UserError: the vocabulary has none.
        """
        if need == "mask":
            return self.require_mask()
        if need == "sentence_ends":
            self.require_sentence_ends()
            return self.sentence_end_ids[0]
        if need == "spellings":
            self.require_spellings()
            return int(self.spelling_sizes.argmax())
        return self.named(need)

    def named(self, name: str) -> int:
        """Returns the id of a token by name; raises `UserError` if the vocabulary has none."""
        ids = dict(self.named_ids)
        if name not in ids:
            known = ", ".join(ids) or "none"
            raise UserError(
                f"the vocabulary has no token named '{name}', which this objective writes (it has "
                f"{known}); append it to the tokenizer (data.add_special_tokens), or let "
                "data.tokenizer be trained, which adds it"
            )
        return ids[name]

    def require_sentence_ends(self) -> None:
        """Raises `UserError` if the vocabulary does not say what ends a sentence."""
        require(
            bool(self.sentence_end_ids),
            "the vocabulary has no sentence ends, which this objective looks for; give "
            "sentence_end_ids, or a tokenizer with a token that ends in '.', '!' or '?'",
        )

    def require_spellings(self) -> None:
        """Raises `UserError` if the vocabulary does not say how any token is spelled."""
        require(
            any(self.spellings),
            "the vocabulary does not say how its tokens are spelled, which this objective needs; "
            "give spellings, or a tokenizer whose single characters are tokens too, as byte-level "
            "ones are",
        )

    @cached_property
    def spelling_sizes(self) -> np.ndarray:
        """Int32[V]: how many characters spell each id, 0 where none do."""
        sizes = [len(spelling) for spelling in self.spellings] or [0] * self.size
        return _read_only(np.array(sizes, np.int32))

    @cached_property
    def spelling_table(self) -> np.ndarray:
        """Int32[V, C]: the characters of each id, the padding id behind them."""
        table = np.full((self.size, self.spelling_sizes.max()), self.pad_id, np.int32)
        written = np.arange(table.shape[1]) < self.spelling_sizes[:, None]
        table[written] = [character for spelling in self.spellings for character in spelling]
        return _read_only(table)

    @cached_property
    def sentinel_number(self) -> dict[int, int]:
        """The number of each sentinel by its id."""
        return {token: number for number, token in enumerate(self.sentinel_ids)}

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool[V]: True for ids that do not stand for text."""
        return self._table(self.special_ids)

    @cached_property
    def ends_sentence(self) -> np.ndarray:
        """Bool[V]: True for ids that a sentence may end with."""
        return self._table(self.sentence_end_ids)

    @cached_property
    def word_starts(self) -> np.ndarray:
        """Bool[V]: True for ids that a word begins with, and for special ones."""
        return ~self._table(self.continuation_ids)

    def _table(self, ids: tuple[int, ...]) -> np.ndarray:
        table = np.zeros(self.size, bool)
        table[list(ids)] = True
        return _read_only(table)

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Int[number of ordinary ids]: the ids that stand for text, ascending."""
        return np.flatnonzero(~self.is_special)


def _read_only(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)
    return table

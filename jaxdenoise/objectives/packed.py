"""How much text an objective gets where rows are packed: as much as its outputs have room for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxdenoise.errors import UserError, require
from jaxdenoise.objectives.registry import Objective, ObjectiveConfig

if TYPE_CHECKING:
    from jaxdenoise.vocabulary import Vocabulary


def within(objective: Objective, raw_length: int, sizes: tuple[int, int]) -> Objective:
    """The objective whose examples take at most so many positions, each member's as many tokens.

    Args:
      objective: any without a schedule, since packed rows are planned before they are used.
      raw_length: the most tokens that any may get.
      sizes: positions of the encoder and of the decoder. Of a mixture, two examples fit and each
        leaves a position for a mode token: members fill one stack more than the other, and only
        several in a row even that out.

    Raises:
      UserError: a schedule, or positions that do not suffice for two tokens.

    Example:
      >>> from jaxdenoise.objectives import objectives
      >>> from jaxdenoise.vocabulary import Vocabulary
      >>> built = objectives["span_corruption"](vocab=Vocabulary.with_sentinels(size=1000))
      >>> within(built, 1000, (512, 114)).raw_lengths
      (568,)
    """
    require(
        not objective.scheduled,
        f"objective.{', objective.'.join(objective.scheduled)} of {objective.name} follows a "
        "schedule, and packed rows are planned ahead; give a number, or data.packing = false",
    )
    if len(objective.members) > 1:
        sizes = (sizes[0] // 2 - 1, sizes[1] // 2 - 1)
    found = tuple(
        _most_tokens(member, objective.vocab, raw_length, sizes) for member in objective.members
    )
    return dataclasses.replace(objective, raw_lengths=found)


def row_sizes(
    objective: Objective, raw_length: int, encoder_length: int | None, decoder_length: int | None
) -> tuple[int, int]:
    """Positions of the encoder and the decoder in a packed row, 0 for a stack that is not there.

    Args:
      objective: whose examples are packed.
      raw_length: the most tokens of one.
      encoder_length: None for what an example of `raw_length` takes.
      decoder_length: as well.

    Raises:
      UserError: a length of a stack that is not there, or none of a mixture.
    """
    architecture = _architecture(objective, raw_length)
    sizes = []
    for stack, length in (("encoder", encoder_length), ("decoder", decoder_length)):
        there = architecture in (stack, "encoder_decoder")
        require(
            there or length is None,
            f"data.{stack}_length is {length}, and {objective.name} has no {stack}; leave it out",
        )
        require(
            not there or length is not None or len(objective.members) == 1,
            f"data.{stack}_length is needed to pack the rows of a mixture, {objective.name}: its "
            "members fill the stacks differently; give such as 2048 and 976",
        )
        sizes.append(length or (objective.shapes(raw_length).size(stack) if there else 0))
    return sizes[0], sizes[1]


def _most_tokens(
    member: ObjectiveConfig, vocab: Vocabulary, longest: int, sizes: tuple[int, int]
) -> int:
    built = member.build(vocab)

    def fits(raw_length: int) -> bool:
        try:
            shapes = built.shapes(raw_length)
        except UserError:
            return False  # more spans than sentinels
        stacks = (shapes.encoder_input_tokens, shapes.decoder_input_tokens)
        return all(x is None or x.shape[-1] <= n for x, n in zip(stacks, sizes, strict=True))

    # From above, since some objectives have no short rows either.
    tried, high = longest, longest + 1
    while tried > 1 and not fits(tried):
        tried, high = tried * 9 // 10, tried
    low = tried  # fits, and `high` does not
    while low > 1 and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    require(
        low > 1,
        f"{member.name} has no room for a piece of 2 to {longest} tokens (data.raw_length) in "
        f"{max(sizes[0], 0)} positions of the encoder and {max(sizes[1], 0)} of the decoder; give "
        "more of them (data.encoder_length, data.decoder_length)",
    )
    return low


def _architecture(objective: Objective, raw_length: int) -> str:
    """What the objective is for, from rows of any size that one of its members takes."""
    for member in objective.members:
        for size in (raw_length, raw_length // 4, 64, 8):
            try:
                return member.build(objective.vocab).shapes(size).architecture
            except UserError:
                continue  # too many spans for the sentinels, or too short a row
    return objective.shapes(raw_length).architecture  # or says what is wrong

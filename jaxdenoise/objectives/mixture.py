"""Mixtures: each example draws which of several objectives corrupts it.

    ul2 = mixture("ul2", Member(configure("span_corruption"), mode_token="[R]"), …, doc="…")

Members of one recipe that differ in rates alone are one computation, with their rates looked up by
the member that is drawn; under `vmap` all branches run, so that the fewer there are the better.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdenoise import corruption
from jaxdenoise.config import Normalisation
from jaxdenoise.corruption import rates as rate
from jaxdenoise.corruption.rates import Rate
from jaxdenoise.errors import UserError, require
from jaxdenoise.objectives.registry import (
    EVALUATION,
    Members,
    Objective,
    ObjectiveConfig,
    Recipe,
    objective,
)
from jaxdenoise.objectives.supply import apply

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Member:
    """One objective of a mixture.

    Attributes:
      objective: with its options.
      rate: how often it is drawn, against the others; perhaps a schedule.
      mode_token: in front of what its model reads, by the vocabulary's name; all members have one,
        or none.
    """

    objective: ObjectiveConfig
    rate: Rate = 1.0
    mode_token: str | None = None


def mixture(name: str, *members: Member, doc: str) -> Recipe:
    """Registers a mixture of objectives of one architecture.

    Args:
      name: of the new objective.
      *members: at least one; their rates need not sum to 1.
      doc: its docstring.

    Returns:
      A `Recipe` with two options: `rates`, numbers in place of the members' own, and
      `mode_tokens`, whether they are written.

    Raises:
      UserError: no members, rates that are negative or sum to nothing, mode tokens for some members
        only, or members that normalise their losses differently.
    """
    require(len(members) > 0, f"mixture '{name}' has no members; give at least one")
    tokens = tuple(member.mode_token for member in members)
    require(
        len({token is None for token in tokens}) == 1,
        f"mixture '{name}' has mode tokens {tokens}; give one to every member, or to none",
    )
    normalisations: set[Normalisation] = {
        member.objective.recipe.normalisation for member in members
    }
    require(
        len(normalisations) == 1,
        f"mixture '{name}' has members whose losses are divided by {sorted(normalisations)}; mix "
        "those that agree",
    )
    for member in members:
        for option, value in member.objective.options().items():
            require(
                not option.startswith(EVALUATION) or value is None,
                f"mixture '{name}' has a member {member.objective.name} with {option} {value}; "
                "members are evaluated as they are trained, leave it out",
            )
    _check_rates(name, _own_rates(members), "the members' rates")
    groups = _groups(members)

    def check(
        rates: tuple[float, ...] | None,
        mode_tokens: bool,
        raw_length: int | None = None,
        sentinels: int | None = None,
    ) -> None:
        if rates is not None:
            require(
                len(rates) == len(members),
                f"objective.rates are {rates}; {name} has {len(members)} members: "
                + ", ".join(member.objective.name for member in members),
            )
            _check_rates(name, rates, "objective.rates")
        for member in members:
            member.objective.check(raw_length, sentinels)

    def needs(rates: tuple[float, ...] | None, mode_tokens: bool) -> tuple[str, ...]:
        own = [need for m in members for need in _needs(m.objective)]
        return (*own, *(token for token in tokens if token is not None and mode_tokens))

    def never_predicted(**options: Any) -> tuple[str, ...]:
        each = (m.objective.recipe.never_predicted(**m.objective.options()) for m in members)
        return tuple({name for names in each for name in names})

    def draw(
        key: Key,
        rates: tuple[float, ...] | None,
        mode_tokens: bool = True,
        progress: Scalar | float = 1.0,
    ) -> AnyArray:
        return _draw(key, rates or _own_rates(members), progress)

    def longest(
        key: Key, length: AnyArray, raw_length: int, mode_tokens: bool, **options: Any
    ) -> corruption.lengths.Lengths:
        """The most of the drawn member, where its lengths depend on the tokens; else 0."""
        import jax
        import jax.numpy as jnp

        which, most = jax.vmap(lambda k: draw(k, **options))(key), [jnp.zeros_like(length)] * 2
        for number, config in enumerate(m.objective for m in members):
            if config.recipe.longest is not None:
                own = config.recipe.longest(key, length, raw_length, **config.options())
                mark = int(mode_tokens and tokens[number] is not None)
                most = [
                    jnp.where(which == number, n + mark, other)
                    for n, other in zip(own, most, strict=True)
                ]
        return corruption.lengths.Lengths(*most)

    def mixed(
        key: Key,
        row: Tokens,
        length: Scalar,
        *,
        vocab: Vocabulary,
        progress: Scalar | float,
        uniform: AnyArray,
        raw_lengths: tuple[int, ...] | None,
        rates: tuple[float, ...] | None = None,
        mode_tokens: bool = True,
    ) -> Example:
        import jax
        import jax.numpy as jnp

        member = draw(key, rates, progress=progress)
        how = jax.random.fold_in(key, _HOW)
        supply = {"progress": progress, "uniform": uniform}
        sizes = [group.raw_length(raw_lengths, row.shape[-1]) for group in groups]
        made = [
            group.corrupt(how, row[:size], length, vocab, member, raw_lengths, supply)
            for group, size in zip(groups, sizes, strict=True)
        ]
        group = jnp.asarray([_group_of(groups, m) for m in range(len(members))])[member]
        example = corruption.examples.choose(group, made, vocab)
        if tokens[0] is None or not mode_tokens:
            return example
        ids = jnp.asarray([vocab.named(str(token)) for token in tokens])
        return corruption.examples.prepend(example, ids[member], vocab)

    mixed.__name__ = mixed.__qualname__ = name
    mixed.__module__ = inspect.stack()[1].frame.f_globals.get("__name__", "__main__")
    mixed.__doc__ = inspect.cleandoc(doc)
    return objective(
        mixed,
        check=check,
        needs=needs,
        normalisation=members[0].objective.recipe.normalisation,
        never_predicted=never_predicted,
        built=lambda built: _check_architectures(name, members, built.vocab),
        members=Members(tuple(m.objective for m in members), _own_rates(members), draw),
        longest=longest if any(m.objective.recipe.longest for m in members) else None,
    )


_HOW = 0x686F77  # "how": a member's randomness is apart from which one is drawn


class _Group(NamedTuple):
    """Members that are one computation: one recipe, options that differ in rates alone."""

    recipe: Recipe
    members: tuple[int, ...]
    options: dict[str, Any]
    """A tuple of values where they differ from member to member, by `varying`."""
    varying: tuple[str, ...]

    def raw_length(self, each: tuple[int, ...] | None, size: int) -> int:
        """The most tokens of a row that one of its members gets."""
        return size if each is None else max(each[member] for member in self.members)

    def corrupt(
        self,
        key: Key,
        tokens: Tokens,
        length: Scalar,
        vocab: Vocabulary,
        member: Any,
        raw_lengths: tuple[int, ...] | None,
        supply: dict[str, Any],
    ) -> Example:
        import jax.numpy as jnp

        index = jnp.argmax(jnp.asarray(self.members) == member)
        own = None if raw_lengths is None else tuple(raw_lengths[m] for m in self.members)
        options = dict(self.options)
        for name in self.varying:
            options[name] = rate.Choice(options[name], index, "member", own)
        return apply(self.recipe, options, key, tokens, length, vocab, **supply)


def _groups(members: Sequence[Member]) -> list[_Group]:
    groups: dict[Any, list[int]] = {}
    for number, member in enumerate(members):
        config = member.objective
        plain = {n: v for n, v in config.options().items() if n not in _rates_of(config)}
        alone = number if any(map(rate.is_schedule, config.options().values())) else None
        groups.setdefault((config.name, tuple(plain.items()), alone), []).append(number)
    return [_group(members, tuple(numbers)) for numbers in groups.values()]


def _group(members: Sequence[Member], numbers: tuple[int, ...]) -> _Group:
    configs = [members[number].objective for number in numbers]
    options = configs[0].options()
    varying = tuple(n for n in _rates_of(configs[0]) if len({c.options()[n] for c in configs}) > 1)
    for name in varying:
        options[name] = tuple(float(config.options()[name]) for config in configs)
    return _Group(configs[0].recipe, numbers, options, varying)


def _group_of(groups: Sequence[_Group], member: int) -> int:
    return next(n for n, group in enumerate(groups) if member in group.members)


def _rates_of(config: ObjectiveConfig) -> tuple[str, ...]:
    """The options that may be a choice of values."""
    return tuple(n for n, field in type(config).__dataclass_fields__.items() if field.type == Rate)


def _own_rates(members: Sequence[Member]) -> tuple[Rate, ...]:
    return tuple(member.rate for member in members)


def _draw(key: Key, rates: Sequence[Rate], progress: Any) -> AnyArray:
    """The index of a member, each as likely as its rate says now."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def cumulative(*values: float) -> np.ndarray:
        shares = np.cumsum(np.array(values, np.float64))
        return (shares[:-1] / shares[-1]).astype(np.float32)

    now = [rate.at_progress(r, progress) if rate.is_schedule(r) else r for r in rates]
    ends = jnp.asarray(rate.table(cumulative, *now))
    return jnp.sum(jax.random.uniform(key) >= ends, dtype=jnp.int32)


def _check_rates(name: str, rates: Sequence[Rate], field: str) -> None:
    for number, one in enumerate(rates):
        if rate.is_schedule(one):
            rate.check_schedule(f"rates[{number}]", one)
        for value in rate.points(one):
            require(
                0 <= value < math.inf,
                f"{field} of the mixture '{name}' are {tuple(rates)}; give finite numbers, none "
                "negative",
            )
    stages = [rate.stages(one) if rate.is_schedule(one) else (one,) * rate.STAGES for one in rates]
    require(
        all(sum(now) > 0 for now in zip(*stages, strict=True)),
        f"{field} of the mixture '{name}' are {tuple(rates)}; at every time some member's must be "
        "above 0",
    )


def _needs(config: ObjectiveConfig) -> tuple[str, ...]:
    return config.recipe.needs(**config.options())


def _check_architectures(name: str, members: Sequence[Member], vocab: Vocabulary) -> None:
    """Raises `UserError` for members of different architectures."""
    found: dict[str, str] = {}
    for member in members:
        kind = _architecture(Objective(config=member.objective, vocab=vocab))
        if kind is not None:
            found.setdefault(kind, member.objective.name)
    require(
        len(found) <= 1,
        f"mixture '{name}' has members of different architectures: "
        + ", ".join(f"{objective} for {kind}" for kind, objective in found.items())
        + "; mix those of one",
    )


def _architecture(built: Objective) -> str | None:
    """The architecture that an objective is for; None if no row is of a size that it takes."""
    for size in (64, 8, 1024):
        try:
            return built.shapes(size).architecture
        except UserError:
            continue  # too short, or of more spans than there are sentinels
    return None

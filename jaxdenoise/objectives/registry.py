"""What an objective is, and the one decorator that makes and registers one.

    @objective
    def half_mask(key, tokens, length, *, vocab, density=0.5): ...

turns the function into a recipe. Its keyword arguments are the objective's options: fields of a
frozen dataclass, `half_mask.config(density=.3)`, which experiments hold and the command line
shows. With a vocabulary the recipe is complete: `half_mask(vocab=vocab, density=.3)` is a pure
`corrupt(key, tokens, length) -> Example`.

Some keyword arguments are no options but supplied to a recipe that has them: `progress`, the share
of the training that is done, and `uniform`, a number in [0, 1) that is spread evenly over a batch;
`raw_lengths` is for mixtures. An option that is a `Rate` may be a schedule of the progress; the
recipe then gets a `Choice` of its values.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxdenoise.config import Normalisation
from jaxdenoise.corruption import checks, rates
from jaxdenoise.corruption.lengths import Lengths
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.objectives.supply import SUPPLIED, apply
from jaxdenoise.registry import Registry
from jaxdenoise.vocabulary import Vocabulary

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens

EVALUATION = "evaluation_"
ReadsPairs = Literal["never", "also", "only"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The options of one objective: static, validated, without a vocabulary yet."""

    recipe: ClassVar[Recipe]

    def __post_init__(self):
        self.check()

    @property
    def name(self) -> str:
        """The objective's registered name."""
        return self.recipe.name

    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def check(self, raw_length: int | None = None, sentinels: int | None = None) -> None:
        """Raises `UserError` if the options are out of range, alone or for rows of this size."""
        options = self.options()
        for name, option in options.items():
            if rates.is_schedule(option):
                rates.check_schedule(name, option)
                require(
                    type(self).__dataclass_fields__[name].type == rates.Rate,
                    f"objective.{name} is {option}; it cannot follow a schedule, give one value",
                )
            for value in rates.points(option):
                checks.check_kind(name, value, type(self).__dataclass_fields__[name].type)
        if self.recipe.check is None:
            return
        for values in _moments(options):
            self.recipe.check(**values, raw_length=raw_length, sentinels=sentinels)

    def build(self, vocab: Vocabulary) -> Objective:
        """Binds the vocabulary.

        Raises:
          UserError: it lacks a special id that the objective writes.
        """
        return Objective(config=self, vocab=vocab)

    def for_evaluation(self) -> ObjectiveConfig:
        """The options for held-out rows: `evaluation_NAME`, where it is given, is their NAME."""
        options = self.options()
        given = {n: v for n, v in options.items() if n.startswith(EVALUATION) and v is not None}
        changes = {name.removeprefix(EVALUATION): value for name, value in given.items()}
        return dataclasses.replace(self, **changes)


def _moments(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The options at every point of their schedules, and as they are worth in each stage."""
    for values in itertools.product(*map(rates.points, options.values())):
        yield dict(zip(options, values, strict=True))
    if any(map(rates.is_schedule, options.values())):
        for stage in range(rates.STAGES):
            yield {
                name: rates.stages(option)[stage] if rates.is_schedule(option) else option
                for name, option in options.items()
            }


@dataclasses.dataclass(eq=False)  # as functions are: equal only to itself, never changed
class Recipe:
    """A registered function with its options; call it with a vocabulary to build an objective."""

    name: str
    corrupt: Callable[..., Example]
    config: type[ObjectiveConfig]
    supplied: tuple[str, ...]
    check: Callable[..., None] | None
    needs: Callable[..., tuple[str, ...]]
    normalisation: Normalisation
    never_predicted: Callable[..., tuple[str, ...]]
    built: Callable[[Objective], None] | None
    members: Members | None
    longest: Callable[..., Lengths] | None
    pairs: ReadsPairs

    def __call__(self, *, vocab: Vocabulary, **options: Any) -> Objective:
        """Builds the objective: options by name, defaults for the rest."""
        return self.configure(**options).build(vocab)

    def configure(self, **options: Any) -> ObjectiveConfig:
        """Returns the options as a config.

        Raises:
          UserError: an option that does not exist, or a value out of range.
        """
        known = [f.name for f in dataclasses.fields(self.config)]
        for option in options:
            if option not in known:
                raise unknown(f"option of {self.name}", option, known)
        return self.config(**options)


class Members(NamedTuple):
    """What a mixture is made of.

    Attributes:
      configs: one for each member.
      rates: how often each is drawn, where the mixture's options do not say.
      draw: from an example's key and the mixture's options to Int[], the member that corrupts it.
    """

    configs: tuple[ObjectiveConfig, ...]
    rates: tuple[rates.Rate, ...]
    draw: Callable[..., AnyArray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A complete objective: pure, unbatched, shapes static. `jax.vmap` it over keys and rows.

    Attributes:
      config: its options.
      vocab: which ids are special.
      raw_lengths: the most tokens that the objective gets, or each member of a mixture, where rows
        are packed; None where all rows are of one size.

    Raises:
      UserError: the vocabulary lacks a special id that the objective writes.
    """

    config: ObjectiveConfig
    vocab: Vocabulary
    raw_lengths: tuple[int, ...] | None = None

    def __post_init__(self):
        for need in self.config.recipe.needs(**self.config.options()):
            self.vocab.require(need)
        if self.config.recipe.built is not None:
            self.config.recipe.built(self)

    @property
    def name(self) -> str:
        """The registered name."""
        return self.config.name

    @property
    def members(self) -> tuple[ObjectiveConfig, ...]:
        """Those of a mixture; itself alone otherwise."""
        members = self.config.recipe.members
        return (self.config,) if members is None else members.configs

    @property
    def normalisation(self) -> Normalisation:
        """What its summed loss is divided by, where an experiment does not say."""
        return self.config.recipe.normalisation

    @property
    def never_predicted(self) -> tuple[int, ...]:
        """Ids whose logits count as minus infinity."""
        names = self.config.recipe.never_predicted(**self.config.options())
        return tuple(self.vocab.require(name) for name in names)

    @property
    def scheduled(self) -> tuple[str, ...]:
        """The options that follow a schedule, those of a mixture's members by "member.option"."""
        own, members = self.config.options(), self.config.recipe.members
        for config in () if members is None else members.configs:
            own |= {f"{config.name}.{name}": option for name, option in config.options().items()}
        found = [name for name, option in own.items() if rates.is_schedule(option)]
        if members is not None and any(map(rates.is_schedule, own["rates"] or members.rates)):
            found.append("rates")
        return tuple(found)

    def for_evaluation(self) -> Objective:
        """The objective for held-out rows; see `ObjectiveConfig.for_evaluation`."""
        return dataclasses.replace(self, config=self.config.for_evaluation())

    def __call__(
        self,
        key: Key,
        tokens: Tokens,
        length: Scalar,
        *,
        progress: Scalar | float = 1.0,
        uniform: AnyArray | float | None = None,
    ) -> Example:
        """Corrupts one row.

        Args:
          key: randomness of this example.
          tokens: Int[L].
          length: Int[], real tokens; what lies past them is padding and weighs nothing.
          progress: Float[], the share of the training that is done.
          uniform: Float[] in [0, 1), spread evenly over a batch; drawn from the key if None.

        Returns:
          An `Example` of the shapes that `shapes(L)` gives.
        """
        sentinels = len(self.vocab.sentinel_ids)
        if self.raw_lengths is None:
            self.config.check(tokens.shape[-1], sentinels)
        else:
            for member, raw_length in zip(self.members, self.raw_lengths, strict=True):
                member.check(raw_length, sentinels)
        supply = {"progress": progress, "uniform": uniform, "raw_lengths": self.raw_lengths}
        recipe, options = self.config.recipe, self.config.options()
        return apply(recipe, options, key, tokens, length, self.vocab, **supply)

    def shapes(self, raw_length: int) -> Example:
        """The example for rows of this size, as `jax.ShapeDtypeStruct`s."""
        import jax

        return jax.eval_shape(self._corrupt_dummy(raw_length), jax.random.key(0), 0)

    def output_lengths(self, key: Key, length: AnyArray, *, raw_length: int) -> Lengths:
        """Real tokens of each output, known before anything is corrupted.

        Rows of ordinary tokens are corrupted and counted; under `jit` no token is moved for it.
        Where it depends on the tokens, the most that an output can have (`longest`).

        Args:
          key: Key[B].
          length: Int[B], real tokens of each row.
          raw_length: L.

        Returns:
          `Lengths` of Int[B] each.
        """
        import jax
        import jax.numpy as jnp

        example = jax.vmap(self._corrupt_dummy(raw_length))(key, length)
        used = [
            0 if ids is None else (ids > 0).sum(axis=-1)
            for ids in (example.encoder_segment_ids, example.decoder_segment_ids)
        ]
        longest = self.config.recipe.longest
        if longest is not None:
            most = longest(key, length, raw_length, **self.config.options())
            used = [jnp.maximum(*pair) for pair in zip(used, most, strict=True)]
        return Lengths(*used)

    def piece_length(self, key: Key) -> AnyArray:
        """Int[], the most tokens that the example of this key gets, where rows are packed."""
        import jax.numpy as jnp

        most = jnp.asarray(self.raw_lengths, jnp.int32)
        members = self.config.recipe.members
        return most[0 if members is None else members.draw(key, **self.config.options())]

    def _corrupt_dummy(self, raw_length: int) -> Callable[..., Example]:
        """The objective on ordinary tokens of no interest, as a function of key and length."""
        import jax.numpy as jnp

        tokens = jnp.full(raw_length, int(self.vocab.ordinary_ids[0]), jnp.int32)
        return lambda key, length: self(key, tokens, length)


objectives: Registry[Recipe] = Registry("objective")


def objective(
    function: Callable[..., Example] | None = None,
    *,
    check: Callable[..., None] | None = None,
    needs: tuple[str, ...] | Callable[..., tuple[str, ...]] = (),
    normalisation: Normalisation = "tokens",
    never_predicted: tuple[str, ...] | Callable[..., tuple[str, ...]] = (),
    built: Callable[[Objective], None] | None = None,
    members: Members | None = None,
    longest: Callable[..., Lengths] | None = None,
    pairs: ReadsPairs = "never",
) -> Any:
    """Makes a `Recipe` of `corrupt(key, tokens, length, *, vocab, …options) -> Example`.

    Args:
      function: its keyword arguments become options, but for `vocab` and those of `SUPPLIED`;
        each needs a default.
      check: called with all options and with `raw_length` and `sentinels`, which are None while
        unknown; raises `UserError` for what is out of range. It should not need JAX.
      needs: what the vocabulary must have, for `Vocabulary.require`; of the options, if callable.
      normalisation: what the summed loss is divided by, where an experiment does not say.
      never_predicted: special ids, as in `needs`, whose logits count as minus infinity.
      built: called with every objective that is built, to check what `check` cannot.
      members: of a mixture.
      longest: for outputs whose lengths depend on the tokens; called with Key[B], Int[B] lengths,
        the size of the rows and all options, gives the most tokens of each output.
      pairs: whether its rows may, or must, be pairs: a source, a separator, a target, EOS.
    """
    extra: dict[str, Any] = {"needs": needs, "normalisation": normalisation, "built": built}
    extra |= {"never_predicted": never_predicted, "longest": longest, "members": members}
    extra |= {"pairs": pairs}
    if function is None:
        return functools.partial(objective, check=check, **extra)
    named = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    fields = [_field(p, function) for p in named if p.name not in ("vocab", *SUPPLIED)]
    namespace = {"__doc__": function.__doc__, "__module__": function.__module__}
    config = dataclasses.make_dataclass(
        _camel(function.__name__),
        fields,
        bases=(ObjectiveConfig,),
        frozen=True,
        kw_only=True,
        namespace=namespace,
    )
    recipe = Recipe(
        name=function.__name__,
        corrupt=function,
        config=config,
        supplied=tuple(p.name for p in named if p.name in SUPPLIED),
        check=check,
        needs=_of_options(needs),
        normalisation=normalisation,
        never_predicted=_of_options(never_predicted),
        built=built,
        members=members,
        longest=longest,
        pairs=pairs,
    )
    functools.update_wrapper(recipe, function, updated=())
    config.recipe = recipe
    objectives.add(recipe.name, recipe)
    return recipe


def _of_options(
    names: tuple[str, ...] | Callable[..., tuple[str, ...]],
) -> Callable[..., tuple[str, ...]]:
    """Names as a function of the options, which they need not depend on."""
    return (lambda **options: names) if isinstance(names, tuple) else names


def configure(name: str, **options: Any) -> ObjectiveConfig:
    """The options of the objective of that name, as an experiment holds them.

    Example:
      >>> configure("drop_spans", noise_density=0.25)
      DropSpans(noise_density=0.25, mean_noise_span_length=3.0)
    """
    return objectives[name].configure(**options)


def _field(parameter: inspect.Parameter, function: Callable) -> tuple[str, Any, Any]:
    if parameter.default is parameter.empty:
        raise UserError(
            f"objective '{function.__name__}': option '{parameter.name}' needs a default value"
        )
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = type(parameter.default)
    elif isinstance(annotation, str):
        annotation = eval(annotation, function.__globals__)  # source code, as typing does
    return parameter.name, annotation, dataclasses.field(default=parameter.default)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))

"""From an experiment to the things that run it: store, objective, model, optimizer, devices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxdenoise import keys
from jaxdenoise.arrays import Rows, TrainState
from jaxdenoise.config import DataConfig
from jaxdenoise.data.mixing import MixedBatches, first_epoch, sample_mixed
from jaxdenoise.data.pairs import Pairs
from jaxdenoise.data.pieces import PackedBatches, Packing, sample_packed_rows, some_documents
from jaxdenoise.data.rows import Batches, Tokens, check_ids, sample_rows
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.errors import require
from jaxdenoise.experiment import Experiment
from jaxdenoise.losses import smoothed_cross_entropy
from jaxdenoise.model.model import Model, build_model
from jaxdenoise.objectives.packed import row_sizes, within
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.optim import build_optimizer
from jaxdenoise.training.evaluation import Evaluator
from jaxdenoise.training.parallel import Backend, check_devices, make_backend
from jaxdenoise.training.scoring import check_installed
from jaxdenoise.training.step import Step, init, make_step
from jaxdenoise.vocabulary import Vocabulary

# Runs that differ in their seeds alone have the same functions, and compile them once. Of a sweep's
# arms, the programs of the last ones are kept.
_kept = functools.lru_cache(maxsize=32)
_build_optimizer = _kept(build_optimizer)
_smoothed_cross_entropy = _kept(smoothed_cross_entropy)
_make_backend = _kept(make_backend)
_make_step = _kept(make_step)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs but its data, built and checked.

    Attributes:
      objective: corrupts training rows.
      evaluation: corrupts held-out rows.
      packing: what packed rows have room for; None where rows are not packed.
    """

    experiment: Experiment
    objective: Objective
    evaluation: Objective
    packing: Packing | None
    model: Model
    tx: optax.GradientTransformation
    backend: Backend

    def step(self) -> Step:
        """The pure training step of this experiment, for its backend."""
        training = self.experiment.training
        return _make_step(
            self.objective,
            self.model,
            self.tx,
            loss=_smoothed_cross_entropy(training.label_smoothing),
            z_loss=training.z_loss,
            normalisation=training.normalisation,
            constant=training.constant,
            gradients=training.gradients,
            micro_batches=training.micro_batches,
            steps=training.steps,
            spikes=training.spikes,
            across=self.backend.across,
        )

    def fit(self, objective: Objective) -> Objective:
        """An objective for rows of this run: where they are packed, with as much text as fits."""
        if self.packing is None:
            return objective
        return within(objective, self.experiment.data.raw_length, self.packing.sizes)

    @property
    def raw_length(self) -> int:
        """The most tokens that every example may have."""
        return min(self.objective.raw_lengths or (self.experiment.data.raw_length,))

    def initial_state(self) -> TrainState:
        """Parameters from the experiment's seed, a whole state of the backend."""
        places = jax.tree.map(lambda x: x.sharding, self.layout())
        spikes = self.experiment.training.spikes
        initialise = jax.jit(
            init, static_argnums=(1, 2), static_argnames="spikes", out_shardings=places
        )
        key = keys.stream("init", self.experiment.seed)
        return initialise(key, self.model, self.tx, spikes=spikes)

    def layout(self) -> TrainState:
        """Shapes, dtypes and shardings of a whole state."""
        return self.backend.layout(self.state_shapes())

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of a state."""
        return state_shapes(self.model, self.tx, self.experiment.training.spikes)


@dataclass(frozen=True, kw_only=True)
class Setup(Plan):
    """Everything a run needs, nothing written yet but the token store.

    Attributes:
      store: the tokens of both splits.
      batches: the run's, by step.
    """

    store: TokenStore
    batches: Batches | PackedBatches | MixedBatches

    def held_out(self, number: int) -> Rows:
        """Held-out rows for evaluation, the same for every run."""

        def sample(corpus: int, number: int) -> Rows:
            store, epoch = self.store.members[corpus], first_epoch(corpus)
            data = self.experiment.data
            if self.packing is None:
                lines = store.lines("held_out", pairs=data.pairs)
                return sample_rows(lines, data.raw_length, number, epoch)
            tokens = store.tokens("held_out")
            documents = store.documents("held_out")
            return sample_packed_rows(
                tokens, documents, self.evaluation, self.packing, number, epoch
            )

        rows = sample_mixed(sample, self.store.rows, number)
        return check_ids(rows, self.store.tokenizer.vocab.size)

    def evaluator(self) -> Evaluator:
        """Of as many held-out rows as the experiment says."""
        rows = self.held_out(self.experiment.training.evaluation_rows)
        sizes = self.store.tokenizer.token_bytes
        return Evaluator(self.evaluation, self.model, rows, sizes, self.backend)

    def held_out_alone(self, number: int) -> Rows:
        """Held-out rows of one example each, for looking at."""
        return jax.tree.map(lambda x: x[:number], one_by_one(self.held_out(number)))


def state_shapes(
    model: Model, tx: optax.GradientTransformation, spikes: float | None = None
) -> TrainState:
    """Shapes and dtypes of a state."""
    return jax.eval_shape(lambda: init(jax.random.key(0), model, tx, spikes=spikes))


def one_by_one(rows: Rows) -> Rows:
    """The rows, each a single example: the pieces of packed ones, without empty slots."""
    if rows.pieces is None:
        return rows
    alone = jax.device_get(rows.unpacked())
    return jax.tree.map(lambda x: x[alone.lengths > 0], alone)


def build(experiment: Experiment, store: TokenStore | None = None) -> Setup:
    """Builds an experiment.

    Args:
      experiment: a valid one; what depends on data and devices is checked here.
      store: the token store of `experiment.data`, prepared if None.

    Raises:
      UserError: a corpus shorter than a row or than `data.train_tokens`, more spans than the
        tokenizer has sentinels, an objective of another architecture, or a batch that the devices
        do not divide.
    """
    check_devices(experiment.training)
    if experiment.data.pairs:
        check_installed()
    store = prepare(experiment.data) if store is None else store
    planned = plan(experiment, store.tokenizer.vocab)
    return Setup(**vars(planned), store=store, batches=_batches_of_store(planned, store))


def plan(experiment: Experiment, vocab: Vocabulary, devices: Sequence[Any] | None = None) -> Plan:
    """Builds what needs no data.

    Args:
      experiment: a valid one.
      vocab: of its tokenizer.
      devices: to run on; all that there are by default.

    Raises:
      UserError: as `build`, but for the corpus.
    """
    data, training = experiment.data, experiment.training
    check_devices(training, devices)
    objective, model = experiment.objective.build(vocab), build_model(experiment.model, vocab)
    evaluation, packing = objective.for_evaluation(), None
    if data.packing:
        packing = _packing(objective, data)
        objective = within(objective, data.raw_length, packing.sizes)
        evaluation = within(evaluation, data.raw_length, packing.sizes)
    else:
        experiment.objective.check(data.raw_length, len(vocab.sentinel_ids))
    shapes = objective.shapes(max(objective.raw_lengths or (data.raw_length,)))
    model.check(shapes, training.gradients)
    shapes.targets(model.stack)  # or says that there are none
    return Plan(
        experiment=experiment,
        objective=objective,
        evaluation=evaluation,
        packing=packing,
        model=model,
        tx=_build_optimizer(experiment.optimizer, training.steps),
        backend=_make_backend(training, model, devices and tuple(devices)),
    )


def _packing(objective: Objective, data: DataConfig) -> Packing:
    sizes = row_sizes(objective, data.raw_length, data.encoder_length, data.decoder_length)
    return Packing(sizes=sizes, most=data.pieces)


def batches_of(
    plan: Plan, tokens: Tokens | Pairs, documents: np.ndarray | None, first_epoch: int = 0
) -> Batches | PackedBatches:
    """The batches of a stream of tokens or of pairs; packed rows need the `documents`."""
    data, training = plan.experiment.data, plan.experiment.training
    common: dict[str, Any] = {
        "tokens": tokens,
        "batch_size": training.batch_size,
        "steps": training.steps,
        "seed": plan.experiment.seed,
        "first_epoch": first_epoch,
    }
    if plan.packing is None:
        return Batches(raw_length=data.raw_length, train_tokens=data.train_tokens, **common)
    assert documents is not None and not isinstance(tokens, Pairs)
    if data.train_tokens is not None:
        documents = some_documents(documents, data.train_tokens)
    objective, packing = plan.objective, plan.packing
    return PackedBatches(documents=documents, objective=objective, packing=packing, **common)


def _batches_of_store(plan: Plan, store: TokenStore) -> Batches | PackedBatches | MixedBatches:
    wanted, there = plan.experiment.data.train_tokens, store.manifest["train"]["tokens"]
    require(
        wanted is None or wanted <= there,
        f"data.train_tokens is {wanted}, and the corpus has {there} for training; give at most "
        "that, or leave it out for all",
    )

    def of_corpus(corpus: int, store: TokenStore) -> Batches | PackedBatches:
        documents = None if plan.packing is None else store.documents("train")
        tokens = store.lines("train", pairs=plan.experiment.data.pairs)
        return batches_of(plan, tokens, documents, first_epoch(corpus))

    members = tuple(of_corpus(n, one) for n, one in enumerate(store.members))
    if len(members) == 1:
        return members[0]
    one = members[0]
    common: dict[str, Any] = {n: getattr(one, n) for n in ("batch_size", "steps", "seed")}
    return MixedBatches(members=members, rows=store.rows, **common)

"""From an experiment to the things that run it: store, objective, model, optimizer, devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import optax

from jaxdenoise import keys
from jaxdenoise.arrays import Rows, TrainState
from jaxdenoise.config import DataConfig
from jaxdenoise.data.mixing import MixedBatches, first_epoch, sample_mixed
from jaxdenoise.data.pieces import PackedBatches, Packing, sample_packed_rows
from jaxdenoise.data.rows import Batches, check_ids, sample_rows
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.experiment import Experiment
from jaxdenoise.losses import smoothed_cross_entropy
from jaxdenoise.model.model import Model, build_model
from jaxdenoise.objectives.packed import row_sizes, within
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.optim import build_optimizer
from jaxdenoise.training.parallel import Backend, check_devices, make_backend
from jaxdenoise.training.step import Step, init, make_step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a run needs, built and checked, nothing written yet but the token store.

    Attributes:
      objective: corrupts training rows.
      evaluation: corrupts held-out rows.
      packing: what packed rows have room for; None where rows are not packed.
    """

    experiment: Experiment
    store: TokenStore
    objective: Objective
    evaluation: Objective
    packing: Packing | None
    model: Model
    tx: optax.GradientTransformation
    backend: Backend
    batches: Batches | PackedBatches | MixedBatches

    def step(self) -> Step:
        """The pure training step of this experiment, for its backend."""
        training = self.experiment.training
        return make_step(
            self.objective,
            self.model,
            self.tx,
            loss=smoothed_cross_entropy(training.label_smoothing),
            z_loss=training.z_loss,
            normalisation=training.normalisation,
            constant=training.constant,
            gradients=training.gradients,
            micro_batches=training.micro_batches,
            steps=training.steps,
            across=self.backend.across,
        )

    def held_out(self, number: int) -> Rows:
        """Held-out rows for evaluation, the same for every run."""

        def sample(corpus: int, number: int) -> Rows:
            store, epoch = self.store.members[corpus], first_epoch(corpus)
            tokens = store.tokens("held_out")
            if self.packing is None:
                return sample_rows(tokens, self.experiment.data.raw_length, number, epoch)
            documents = store.documents("held_out")
            return sample_packed_rows(
                tokens, documents, self.evaluation, self.packing, number, epoch
            )

        rows = sample_mixed(sample, self.store.rows, number)
        return check_ids(rows, self.store.tokenizer.vocab.size)

    def held_out_alone(self, number: int) -> Rows:
        """Held-out rows of one example each, for looking at."""
        return jax.tree.map(lambda x: x[:number], one_by_one(self.held_out(number)))

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
        initialise = jax.jit(init, static_argnums=(1, 2), out_shardings=places)
        return initialise(keys.stream("init", self.experiment.seed), self.model, self.tx)

    def layout(self) -> TrainState:
        """Shapes, dtypes and shardings of a whole state."""
        return self.backend.layout(state_shapes(self.model, self.tx))


def state_shapes(model: Model, tx: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of a state."""
    return jax.eval_shape(lambda: init(jax.random.key(0), model, tx))


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
      UserError: a corpus shorter than a row, more spans than the tokenizer has sentinels, an
        objective of another architecture, or a batch that the devices do not divide.
    """
    data, training = experiment.data, experiment.training
    check_devices(training)
    store = prepare(data) if store is None else store
    vocab = store.tokenizer.vocab
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
    batches = _batches(experiment, store, objective, packing)
    return Setup(
        experiment=experiment,
        store=store,
        objective=objective,
        evaluation=evaluation,
        packing=packing,
        model=model,
        tx=build_optimizer(experiment.optimizer, training.steps),
        backend=make_backend(training, model),
        batches=batches,
    )


def _packing(objective: Objective, data: DataConfig) -> Packing:
    sizes = row_sizes(objective, data.raw_length, data.encoder_length, data.decoder_length)
    return Packing(sizes=sizes, most=data.pieces)


def _batches(
    experiment: Experiment, store: TokenStore, objective: Objective, packing: Packing | None
) -> Batches | PackedBatches | MixedBatches:
    training = experiment.training
    run: dict[str, Any] = {
        "batch_size": training.batch_size,
        "steps": training.steps,
        "seed": experiment.seed,
    }

    def of_corpus(store: TokenStore, epoch: int) -> Batches | PackedBatches:
        tokens = store.tokens("train")
        if packing is None:
            length = experiment.data.raw_length
            return Batches(tokens=tokens, raw_length=length, first_epoch=epoch, **run)
        return PackedBatches(
            tokens=tokens,
            documents=store.documents("train"),
            objective=objective,
            packing=packing,
            first_epoch=epoch,
            **run,
        )

    members = tuple(of_corpus(one, first_epoch(k)) for k, one in enumerate(store.members))
    if len(members) == 1:
        return members[0]
    return MixedBatches(members=members, rows=store.rows, **run)

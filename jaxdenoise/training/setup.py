"""From an experiment to the things that run it: store, objective, model, optimizer, devices."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax

from jaxdenoise import keys
from jaxdenoise.arrays import TrainState
from jaxdenoise.data.rows import Batches
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.experiment import Experiment
from jaxdenoise.losses import smoothed_cross_entropy
from jaxdenoise.model.model import Model, build_model
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.optim import build_optimizer
from jaxdenoise.training.parallel import Backend, make_backend
from jaxdenoise.training.step import Step, init, make_step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a run needs, built and checked, nothing written yet but the token store."""

    experiment: Experiment
    store: TokenStore
    objective: Objective
    model: Model
    tx: optax.GradientTransformation
    backend: Backend
    batches: Batches

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

    def initial_state(self) -> TrainState:
        """Parameters from the experiment's seed; not placed on the backend's devices yet."""
        initialise = jax.jit(init, static_argnums=(1, 2))
        return initialise(keys.stream("init", self.experiment.seed), self.model, self.tx)


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
    backend = make_backend(training.backend, training.batch_size, training.micro_batches)
    store = prepare(data) if store is None else store
    vocab = store.tokenizer.vocab
    experiment.objective.check(data.raw_length, len(vocab.sentinel_ids))
    objective, model = experiment.objective.build(vocab), build_model(experiment.model, vocab)
    shapes = objective.shapes(data.raw_length)
    model.check(shapes, training.gradients)
    shapes.targets(model.stack)  # or says that there are none
    batches = Batches(
        tokens=store.tokens("train"),
        raw_length=data.raw_length,
        batch_size=training.batch_size,
        steps=training.steps,
        seed=experiment.seed,
    )
    return Setup(
        experiment=experiment,
        store=store,
        objective=objective,
        model=model,
        tx=build_optimizer(experiment.optimizer, training.steps),
        backend=backend,
        batches=batches,
    )

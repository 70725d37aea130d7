"""Experiments on the embedded corpus, for a machine without an accelerator."""

from jaxdenoise.config import DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from jaxdenoise.experiment import Experiment, experiment
from jaxdenoise.objectives import configure


@experiment
def quickstart() -> Experiment:
    """Span corruption on docstrings."""
    return Experiment(
        data=DataConfig(corpus="pydocs", vocabulary_size=1128, sentinels=100, raw_length=71),
        objective=configure("span_corruption", noise_density=0.15, mean_noise_span_length=3.0),
        model=ModelConfig(
            width=128,
            mlp_width=256,
            heads=4,
            head_width=32,
            encoder_layers=2,
            decoder_layers=2,
            scan_unroll=2,
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=7e-3, embedding_rate=4e-3, warmup_steps=100, b1=0.95
        ),
        training=TrainingConfig(steps=1250, batch_size=64, evaluate_every=250),
    )

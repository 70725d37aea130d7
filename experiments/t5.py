"""T5 1.1 pre-training in its published shapes (Raffel et al. 2020; T5 1.1 release notes).

    jaxdenoise train t5_base --data.files "c4/*.jsonl" --data.tokenizer tokenizer.json

Without `--data.files` they train on the embedded corpus, which is far too small for them, with a
vocabulary of 32,100 trained on it: enough to see them run.

Shapes    t5x/examples/t5/t5_1_1: RMSNorm, gated GELU, no tied projection, no dropout.
Training  Raffel et al. 2020, section 3.1.2: span corruption (.15, 3), 2^19 steps of 128 rows whose
          inputs are 512 tokens, Adafactor, rate 0.01 for 10,000 steps, then 1/√step.
Expected  with C4: T5's own base model has 83.28 on GLUE after fine-tuning (table 1).
Cost      2^35 tokens; on accelerators alone, on all that there are: one of them or a pod. The
          larger ones are cut over several by --training.mesh.fsdp.
"""

import dataclasses
from typing import Any

from jaxdenoise.config import DataConfig, OptimizerConfig, TrainingConfig
from jaxdenoise.experiment import Experiment, experiment
from jaxdenoise.objectives import configure
from jaxdenoise.presets import presets


def _pretraining(preset: str, **fields: Any) -> Experiment:
    return Experiment(
        data=DataConfig(vocabulary_size=32_100, sentinels=100, raw_length=568),
        objective=configure("span_corruption", noise_density=0.15, mean_noise_span_length=3.0),
        model=dataclasses.replace(presets[preset].config, **fields),
        optimizer=OptimizerConfig(
            name="adafactor",
            learning_rate=1e-2,
            schedule="rsqrt",
            warmup_steps=10_000,
            clip_norm=None,
        ),
        training=TrainingConfig(
            steps=2**19,
            batch_size=128,
            backend="mesh",
            log_every=100,
            evaluate_every=10_000,
            checkpoint_every=5_000,
        ),
    )


@experiment
def t5_small() -> Experiment:
    """T5 1.1 small: 8 + 8 layers of 512, 6 heads; 77 million parameters."""
    return _pretraining("t5_1_1_small")


@experiment
def t5_base() -> Experiment:
    """T5 1.1 base: 12 + 12 layers of 768, 12 heads; 248 million parameters."""
    return _pretraining("t5_1_1_base")


@experiment
def t5_large() -> Experiment:
    """T5 1.1 large: 24 + 24 layers of 1024, 16 heads; 783 million parameters."""
    return _pretraining("t5_1_1_large", remat="dots")


@experiment
def t5_xl() -> Experiment:
    """T5 1.1 XL: 24 + 24 layers of 2048, 32 heads; 2.8 billion parameters."""
    return _pretraining("t5_1_1_xl", remat="dots")


@experiment
def t5_xxl() -> Experiment:
    """T5 1.1 XXL: 24 + 24 layers of 4096, 64 heads; 11 billion parameters."""
    return _pretraining("t5_1_1_xxl", remat="full")

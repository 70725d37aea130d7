"""Every field of an experiment but its objective's: frozen, keyword-only, checked when built.

No arrays and no JAX in here, so that a wrong field is refused before anything slow is loaded.
"""

from jaxdenoise.config.data import (
    BLOCK,
    MAX_CORPORA,
    SPECIAL_IDS,
    DataConfig,
    DecoderStart,
    check_vocabulary_size,
    rows_of_block,
)
from jaxdenoise.config.model import ModelConfig
from jaxdenoise.config.optimizer import OptimizerConfig
from jaxdenoise.config.training import (
    GRADIENTS,
    Gradients,
    MeshConfig,
    Normalisation,
    TrainingConfig,
    check_gradients,
)

__all__ = [
    "BLOCK",
    "GRADIENTS",
    "MAX_CORPORA",
    "SPECIAL_IDS",
    "DataConfig",
    "DecoderStart",
    "Gradients",
    "MeshConfig",
    "ModelConfig",
    "Normalisation",
    "OptimizerConfig",
    "TrainingConfig",
    "check_gradients",
    "check_vocabulary_size",
    "rows_of_block",
]

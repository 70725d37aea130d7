"""An optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.config.checks import in_range
from jaxdenoise.errors import require


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An Optax chain and its schedule, by name.

    Attributes:
      name: "adamw", "adafactor" (T5's), or "muon" for matrices with AdamW for the rest.
      learning_rate: peak of the schedule.
      schedule: after warm-up: "constant", "linear" or "cosine" to `final_fraction`, or
        "rsqrt", T5's inverse square root of the step.
      warmup_steps: linear from 0; with "rsqrt" constant at the peak, as in T5.
      final_fraction: of the peak, at the last step.
      weight_decay: decoupled; on matrices, not on norms (with Muon on those that it updates, not
        on embeddings).
      clip_norm: of the global gradient norm; None leaves it alone.
      b1: decay of AdamW's first moment, or of Muon's momentum.
      b2: decay of AdamW's second moment, beside Muon too. Adafactor has neither.
      embedding_rate: for Muon, the learning rate of what AdamW updates: embeddings, norms,
        relative position biases.
    """

    name: Literal["adamw", "adafactor", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine", "rsqrt"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.98
    embedding_rate: float = 3e-3

    def __post_init__(self):
        for name in ("learning_rate", "embedding_rate"):
            value = getattr(self, name)
            require(value > 0, f"optimizer.{name} is {value}; it must be above 0")
        in_range("optimizer", self, 0, 1, "b1", "b2")
        in_range("optimizer", self, 0, float("inf"), "weight_decay")
        require(
            0 <= self.final_fraction <= 1,
            f"optimizer.final_fraction is {self.final_fraction}; it must be in [0, 1]",
        )
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps is {self.warmup_steps}; it cannot be negative",
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optimizer.clip_norm is {self.clip_norm}; it must be above 0, or None for no clipping",
        )

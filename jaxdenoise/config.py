"""Every field of an experiment but its objective's: frozen, keyword-only, checked when built.

No arrays and no JAX in here, so that a wrong field is refused before anything slow is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.errors import require

NAMED_IDS = 4  # padding, end, mask, separator
BYTES = 256


def check_vocabulary_size(vocabulary_size: int, sentinels: int) -> None:
    """Raises `UserError` if a byte-level BPE of this size has no room for what it must hold."""
    least = NAMED_IDS + BYTES + sentinels
    require(
        vocabulary_size >= least,
        f"data.vocabulary_size is {vocabulary_size}; it must be at least {least}, for {NAMED_IDS} "
        f"special tokens, {BYTES} bytes and {sentinels} sentinels (data.sentinels)",
    )


def _positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{section}.{name} is {value}; it must be at least 1")


def _in_range(section: str, config: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(
            low <= value < high, f"{section}.{name} is {value}; it must be in [{low:g}, {high:g})"
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
      corpus: an embedded corpus by name; not used when `files` are given.
      files: paths or globs of .txt, .jsonl and .parquet files.
      field: the text's field in .jsonl and .parquet records.
      documents: what a document is in a .txt file; paragraphs are parted by blank lines.
      bad_records: refuse a corpus with records that cannot be read, or skip and count them.
      held_out: share of the documents kept for evaluation, chosen by hash.
      tokenizer: path of a tokenizer.json; by default a byte-level BPE is trained.
      vocabulary_size: ids of that BPE, special ones included.
      sentinels: how many of them are sentinels.
      raw_length: L, tokens of a row before corruption.
    """

    corpus: str = "pydocs"
    files: tuple[str, ...] = ()
    field: str = "text"
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    bad_records: Literal["refuse", "skip"] = "refuse"
    held_out: float = 0.05
    tokenizer: str | None = None
    vocabulary_size: int = 1128
    sentinels: int = 100
    raw_length: int = 568

    def __post_init__(self):
        _positive("data", self, "vocabulary_size", "raw_length")
        require(self.sentinels >= 0, f"data.sentinels is {self.sentinels}; it cannot be negative")
        if self.tokenizer is None:
            check_vocabulary_size(self.vocabulary_size, self.sentinels)
        require(
            0 < self.held_out < 1,
            f"data.held_out is {self.held_out}; it must be inside (0, 1), such as 0.05",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A T5 1.1 transformer: RMSNorm before, gated GELU, relative position bias, no biases.

    Attributes:
      architecture: "encoder_decoder", or "encoder" alone with a projection on its output.
      width: of the residual stream (d_model).
      mlp_width: hidden units of the MLP (d_ff).
      heads: attention heads.
      head_width: units of each (d_kv); heads · head_width need not be the width.
      encoder_layers: blocks of the encoder.
      decoder_layers: blocks of the decoder.
      relative_buckets: of the relative position bias.
      relative_max_distance: distances from here on share a bucket.
      dropout_rate: in training.
      tied_embeddings: project on the embedding matrix instead of one of its own (T5 1.0).
      compute_dtype: of matrix products; parameters, softmax, logits and loss are float32.
        float64 is for checking gradients, with JAX's x64 mode on and parameters of that type.
      remat: what the backward pass computes again: nothing, whole blocks, or all but products.
      scan_unroll: blocks compiled in one piece; more is faster to run and slower to compile.
    """

    architecture: Literal["encoder_decoder", "encoder"] = "encoder_decoder"
    width: int = 512
    mlp_width: int = 1024
    heads: int = 6
    head_width: int = 64
    encoder_layers: int = 8
    decoder_layers: int = 8
    relative_buckets: int = 32
    relative_max_distance: int = 128
    dropout_rate: float = 0.0
    tied_embeddings: bool = False
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_unroll: int = 1

    def __post_init__(self):
        _positive("model", self, "width", "mlp_width", "heads", "head_width", "encoder_layers")
        _positive("model", self, "decoder_layers", "scan_unroll")
        _in_range("model", self, 0, 1, "dropout_rate")
        require(
            self.relative_buckets >= 4 and self.relative_buckets % 2 == 0,
            f"model.relative_buckets is {self.relative_buckets}; it must be even, at least 4",
        )
        require(
            self.relative_max_distance > self.relative_buckets // 2,
            f"model.relative_max_distance is {self.relative_max_distance}; it must be above half "
            f"of model.relative_buckets ({self.relative_buckets // 2})",
        )


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
        _in_range("optimizer", self, 0, 1, "b1", "b2")
        _in_range("optimizer", self, 0, float("inf"), "weight_decay")
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


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop: how long, on which devices, what is written when.

    Attributes:
      steps: updates of the parameters.
      batch_size: rows a step, over all devices.
      backend: "single" device, or "pmap" over all local devices, parameters replicated.
      normalisation: what the summed loss is divided by: the sum of the weights ("tokens"), of the
        examples' counts ("count"), or nothing ("sum").
      z_loss: coefficient of log(Z)².
      log_every: steps between rows of metrics.jsonl.
      evaluate_every: steps between evaluations on held-out rows; one more comes at the end.
      evaluation_rows: held-out rows, always the same, under one frozen corruption.
      checkpoint_every: steps between checkpoints; one more comes at the end.
      keep_checkpoints: the latest so many are kept.
      reading_threads: of the host; their number changes nothing but speed.
    """

    steps: int = 1000
    batch_size: int = 128
    backend: Literal["single", "pmap"] = "single"
    normalisation: Literal["tokens", "count", "sum"] = "tokens"
    z_loss: float = 0.0
    log_every: int = 10
    evaluate_every: int = 500
    evaluation_rows: int = 512
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    reading_threads: int = 1

    def __post_init__(self):
        _positive("training", self, "steps", "batch_size", "log_every", "evaluate_every")
        _positive("training", self, "evaluation_rows", "checkpoint_every", "keep_checkpoints")
        _positive("training", self, "reading_threads")
        require(self.z_loss >= 0, f"training.z_loss is {self.z_loss}; it cannot be negative")

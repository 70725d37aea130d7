"""Every field of an experiment but its objective's: frozen, keyword-only, checked when built.

No arrays and no JAX in here, so that a wrong field is refused before anything slow is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.errors import require

SPECIAL_IDS = 10
BYTES = 256


def check_vocabulary_size(vocabulary_size: int, sentinels: int) -> None:
    """Raises `UserError` if a byte-level BPE of this size has no room for what it must hold."""
    least = SPECIAL_IDS + BYTES + sentinels
    require(
        vocabulary_size >= least,
        f"data.vocabulary_size is {vocabulary_size}; it must be at least {least}, for "
        f"{SPECIAL_IDS} special tokens, {BYTES} bytes and {sentinels} sentinels (data.sentinels)",
    )


Gradients = Literal["full", "output_only", "encoder", "decoder"]
Normalisation = Literal["tokens", "sequences", "count", "constant", "sum"]

GRADIENTS: dict[str, tuple[Gradients, ...]] = {
    "encoder_decoder": ("full", "encoder", "decoder"),
    "encoder": ("full",),
    "decoder": ("full", "output_only"),
}
"""What gradients may flow through, by architecture."""


def check_gradients(architecture: str, gradients: str) -> None:
    """Raises `UserError` unless gradients can be routed so in this architecture."""
    allowed = GRADIENTS[architecture]
    require(
        gradients in allowed,
        f"gradients are {gradients!r}; with model.architecture {architecture} they can be "
        f"{', '.join(allowed)}",
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
      raw_length: L, tokens of a row before corruption; of a piece, where rows are packed.
      packing: put several documents into a row, each corrupted by itself and unseen by the others;
        longer ones are cut into pieces. Without it rows are cut from the stream of all documents.
      pieces: the most in a packed row; corrupting a batch takes time in proportion.
      encoder_length: positions of the encoder in a packed row; by default what an example of
        `raw_length` takes.
      decoder_length: of the decoder. Both stacks are full where their lengths are to each other as
        what the objective puts into them on average; mixtures have no default.
    """

    corpus: str = "pydocs"
    files: tuple[str, ...] = ()
    field: str = "text"
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    bad_records: Literal["refuse", "skip"] = "refuse"
    held_out: float = 0.05
    tokenizer: str | None = None
    vocabulary_size: int = 1134
    sentinels: int = 100
    raw_length: int = 568
    packing: bool = False
    pieces: int = 16
    encoder_length: int | None = None
    decoder_length: int | None = None

    def __post_init__(self):
        _positive("data", self, "vocabulary_size", "raw_length", "pieces")
        for name in ("encoder_length", "decoder_length"):
            length = getattr(self, name)
            require(
                length is None or (self.packing and length >= 1),
                f"data.{name} is {length}; it is of packed rows, and at least 1: set data.packing "
                "too, or leave it out",
            )
        require(self.sentinels >= 0, f"data.sentinels is {self.sentinels}; it cannot be negative")
        if self.tokenizer is None:
            check_vocabulary_size(self.vocabulary_size, self.sentinels)
        require(
            0 < self.held_out < 1,
            f"data.held_out is {self.held_out}; it must be inside (0, 1), such as 0.05",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A transformer's shape. The defaults are T5 1.1's; `presets` has those of other papers.

    Attributes:
      architecture: "encoder_decoder"; an "encoder" alone, which predicts at its own positions; or a
        "decoder" alone, causal, or bidirectional on a prefix where the objective says so.
      width: of the residual stream (d_model).
      mlp_width: hidden units of the MLP (d_ff).
      heads: attention heads.
      head_width: units of each (d_kv); heads · head_width need not be the width.
      key_value_heads: heads of keys and values, each shared by as many queries (grouped-query
        attention); None for as many as `heads`.
      encoder_layers: blocks of the encoder.
      decoder_layers: blocks of the decoder.
      activation: of the MLP; "gelu_tanh" is GELU's approximation.
      gated: multiply the activation by a second projection (GEGLU, SwiGLU).
      norm: "rms", or "layer" with mean and offset.
      norm_place: "pre" each sublayer, with one more at the end, or "post" the residual sum.
      norm_epsilon: added to the variance.
      biases: on all products of the layers.
      positions: "relative" is T5's bias, "learned" an absolute embedding for each stack.
      relative_buckets: of the relative position bias.
      relative_max_distance: distances from here on share a bucket.
      max_positions: of learned positions.
      rotary_base: of the wavelengths of rotary positions (θ).
      local_rotary_base: of local layers; None for the same.
      continued_positions: the decoder counts on from the encoder's last position, and rotary
        positions hold for cross-attention too (RedLLM).
      scaled_attention: divide attention logits by √head_width; T5 does not.
      qk_norm: RMSNorm on queries and keys, head by head.
      local_window: positions that local layers see around each, half of it to either side; None
        for global layers alone.
      global_every: with a window, layer 0 and every so many after it are global.
      merged_attention: the decoder attends to itself and to the encoder in one softmax, with the
        same projections (T5Gemma 2).
      shared_embedding: one embedding for both stacks.
      tied_embeddings: project on the embedding matrix instead of one of its own (T5 1.0).
      scaled_projection: multiply by 1/√width before a tied projection, as T5 1.0 does.
      embedding_norm: a norm on the sum of token and position embeddings (BERT, BART).
      prediction_head: a dense layer, activation and norm before the projection (BERT).
      prediction_bias: one number for each id, added to the logits (BERT, BART).
      initial_scale: standard deviation of every fresh matrix; None for T5's, by fan-in.
      dropout_rate: in training, of embeddings, of what each sublayer adds and inside the MLP; not
        of attention weights.
      compute_dtype: of matrix products; parameters, softmax, logits and loss are float32.
        float64 is for checking gradients, with JAX's x64 mode on and parameters of that type.
      remat: what the backward pass computes again: nothing, whole blocks, or all but products.
      scan_unroll: blocks compiled in one piece; more is faster to run and slower to compile.
    """

    architecture: Literal["encoder_decoder", "encoder", "decoder"] = "encoder_decoder"
    width: int = 512
    mlp_width: int = 1024
    heads: int = 6
    head_width: int = 64
    key_value_heads: int | None = None
    encoder_layers: int = 8
    decoder_layers: int = 8
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] = "gelu_tanh"
    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-6
    biases: bool = False
    positions: Literal["relative", "learned", "rotary"] = "relative"
    relative_buckets: int = 32
    relative_max_distance: int = 128
    max_positions: int = 512
    rotary_base: float = 10_000.0
    local_rotary_base: float | None = None
    continued_positions: bool = False
    scaled_attention: bool = False
    qk_norm: bool = False
    local_window: int | None = None
    global_every: int = 3
    merged_attention: bool = False
    shared_embedding: bool = True
    tied_embeddings: bool = False
    scaled_projection: bool = True
    embedding_norm: bool = False
    prediction_head: bool = False
    prediction_bias: bool = False
    initial_scale: float | None = None
    dropout_rate: float = 0.0
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_unroll: int = 1

    def __post_init__(self):
        _positive("model", self, "width", "mlp_width", "heads", "head_width", "encoder_layers")
        _positive("model", self, "decoder_layers", "max_positions", "global_every", "scan_unroll")
        _in_range("model", self, 0, 1, "dropout_rate")
        for name in ("norm_epsilon", "rotary_base", "local_rotary_base", "initial_scale"):
            value = getattr(self, name)
            require(value is None or value > 0, f"model.{name} is {value}; it must be above 0")
        require(
            self.query_groups >= 1 and self.heads % self.query_groups == 0,
            f"model.key_value_heads is {self.key_value_heads}; it must divide model.heads "
            f"({self.heads})",
        )
        require(
            self.local_window is None or self.local_window >= 2,
            f"model.local_window is {self.local_window}; it must be at least 2, or None",
        )
        self._check_positions()
        for name in ("merged_attention", "continued_positions"):
            require(
                self.architecture == "encoder_decoder" or not getattr(self, name),
                f"model.{name} is True; it needs model.architecture encoder_decoder, not "
                f"{self.architecture}",
            )

    @property
    def query_groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.key_value_heads is None else self.key_value_heads

    def layers(self, stack: str) -> int:
        """Blocks of a stack, "encoder" or "decoder"."""
        return self.encoder_layers if stack == "encoder" else self.decoder_layers

    def _check_positions(self) -> None:
        require(
            self.relative_buckets >= 4 and self.relative_buckets % 2 == 0,
            f"model.relative_buckets is {self.relative_buckets}; it must be even, at least 4",
        )
        require(
            self.relative_max_distance > self.relative_buckets // 2,
            f"model.relative_max_distance is {self.relative_max_distance}; it must be above half "
            f"of model.relative_buckets ({self.relative_buckets // 2})",
        )
        require(
            self.positions != "rotary" or self.head_width % 2 == 0,
            f"model.head_width is {self.head_width}; rotary positions turn pairs: give an even one",
        )
        require(
            self.positions != "relative" or not self.continued_positions,
            "model.continued_positions is True; it needs model.positions rotary or learned",
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
      micro_batches: parts that each device's rows are walked in, to save memory; their gradients
        are summed and divided once.
      gradients: what the backward pass goes through: "full", every position that the loss depends
        on; "output_only", for a decoder, the positions that predict, the others' parameters
        stopped; "encoder" or "decoder", for both stacks, the parameters as used in that one.
        Weight decay is no gradient: it moves the others too.
      normalisation: what the summed loss is divided by: the sum of the weights ("tokens"); the
        number of sequences, each with the mean of its own ("sequences"); the examples' counts
        ("count"); a "constant"; or nothing ("sum"). None for the objective's own: its targets
        ("tokens"), but for masked diffusion its maskable tokens ("count").
      constant: for the normalisation of that name.
      label_smoothing: share of each target that is spread over all ids.
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
    micro_batches: int = 1
    gradients: Gradients = "full"
    normalisation: Normalisation | None = None
    constant: float = 1.0
    label_smoothing: float = 0.0
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
        _positive("training", self, "reading_threads", "micro_batches")
        _in_range("training", self, 0, 1, "label_smoothing")
        require(self.z_loss >= 0, f"training.z_loss is {self.z_loss}; it cannot be negative")
        require(self.constant > 0, f"training.constant is {self.constant}; it must be above 0")

"""The loop, the devices, and what gradients flow through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.config.checks import in_range, positive
from jaxdenoise.errors import require

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


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices of the backend "mesh" are arranged: their number is the product.

    Attributes:
      data: parts of the batch, each with a copy of the parameters; None for as many as the devices
        allow.
      fsdp: parts of the batch, and of parameters and optimizer state, which are gathered where a
        layer uses them.
      tensor: parts of every layer: of its heads, hidden units and the vocabulary.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            require(
                size is None or size >= 1, f"training.mesh.{name} is {size}; it must be at least 1"
            )

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """Of the three axes, on so many devices.

        Raises:
          UserError: they do not multiply to them.
        """
        inner = self.fsdp * self.tensor
        data = devices // inner if self.data is None else self.data
        axes = f"fsdp {self.fsdp} × tensor {self.tensor}"
        if self.data is not None:
            axes = f"data {self.data} × {axes}"
        require(
            data * inner == devices,
            f"training.mesh is {axes}, which "
            + ("does not divide" if self.data is None else f"makes {data * inner}, not")
            + f" the {devices} devices; change one of them, or leave training.mesh.data out",
        )
        return data, self.fsdp, self.tensor


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop: how long, on which devices, what is written when.

    Attributes:
      steps: updates of the parameters.
      init_from: a run whose parameters this one starts from, trained or imported; None for fresh
        ones. Its optimizer's state is not taken.
      batch_size: rows a step, over all devices.
      backend: a "single" device; "pmap" over all devices, parameters replicated; or "mesh", jit
        over all devices, parameters and batch cut as `mesh` says.
      mesh: the arrangement of the devices, for that backend.
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
      bad_steps: what comes of a step whose loss or gradient is not finite, or whose loss is a
        spike. It is never applied, and its rows are written down for `jaxdenoise replay`. "halt"
        stops the run there, "skip" goes on with the next rows.
      most_skipped: with "skip", a run stops that has skipped more steps than these.
      spikes: standard deviations above the mean of the last 128 losses from which a loss is a
        spike, such as 6; None for no such limit.
      log_every: steps between rows of metrics.jsonl.
      evaluate_every: steps between evaluations on held-out rows; one more comes at the end.
      evaluation_rows: held-out rows, always the same, under one frozen corruption.
      checkpoint_every: steps between checkpoints; one more comes at the end.
      keep_checkpoints: the latest so many are kept.
      reading_threads: of the host, beside the loop's own; their number changes nothing but speed.
    """

    steps: int = 1000
    init_from: str | None = None
    batch_size: int = 128
    backend: Literal["single", "pmap", "mesh"] = "single"
    mesh: MeshConfig = MeshConfig()
    micro_batches: int = 1
    gradients: Gradients = "full"
    normalisation: Normalisation | None = None
    constant: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    bad_steps: Literal["halt", "skip"] = "halt"
    most_skipped: int = 10
    spikes: float | None = None
    log_every: int = 10
    evaluate_every: int = 500
    evaluation_rows: int = 512
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    reading_threads: int = 1

    def __post_init__(self):
        positive("training", self, "steps", "batch_size", "log_every", "evaluate_every")
        positive("training", self, "evaluation_rows", "checkpoint_every", "keep_checkpoints")
        positive("training", self, "micro_batches")
        in_range("training", self, 0, float("inf"), "reading_threads", "most_skipped")
        in_range("training", self, 0, 1, "label_smoothing")
        require(self.z_loss >= 0, f"training.z_loss is {self.z_loss}; it cannot be negative")
        require(
            self.spikes is None or self.spikes > 0,
            f"training.spikes is {self.spikes}; it must be above 0, such as 6, or none",
        )
        require(self.constant > 0, f"training.constant is {self.constant}; it must be above 0")
        require(
            self.backend == "mesh" or self.mesh == MeshConfig(),
            f"training.mesh is given, but training.backend is {self.backend}; say "
            "--training.backend mesh",
        )

    def check_devices(self, devices: int, processes: int) -> None:
        """Raises `UserError` unless devices, mesh, micro-batches and batch divide each other.

        Args:
          devices: of all processes.
          processes: how many.
        """
        require(
            self.backend != "single" or processes == 1,
            "training.backend is single, but there are several processes; say --training.backend "
            "pmap or mesh",
        )
        devices = 1 if self.backend == "single" else devices
        parts, among = devices, f"{devices} devices"
        if self.backend == "mesh":
            data, fsdp, _ = self.mesh.sizes(devices)
            parts, among = data * fsdp, f"training.mesh.data {data} × fsdp {fsdp}"
        if self.micro_batches > 1:
            parts, among = (
                parts * self.micro_batches,
                f"{among} × {self.micro_batches} micro-batches",
            )
        rest = self.batch_size % parts
        require(
            rest == 0,
            f"training.batch_size is {self.batch_size}, which {among} do not divide; give "
            f"{self.batch_size - rest or parts} or {self.batch_size - rest + parts}",
        )

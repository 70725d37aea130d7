"""Our training step beside that of transformers' T5 in PyTorch: the same model, rows and work.

Both sides run forward and backward, clip the global norm of the gradient and update with AdamW.
Ours draws the corruption of the rows in each step too; theirs is given what it made of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxdenoise import keys
from jaxdenoise.arrays import Example, Rows
from jaxdenoise.bench.pairs import Paired, time_in_turn
from jaxdenoise.config import ModelConfig, OptimizerConfig
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment
from jaxdenoise.model.model import build_model
from jaxdenoise.optim import build_optimizer
from jaxdenoise.training.parallel import SingleDevice
from jaxdenoise.training.step import corrupted, init, make_step
from jaxdenoise.vocabulary import Vocabulary

ACTIVATIONS = {"relu": "relu", "gelu_tanh": "gelu_new", "gelu": "gelu", "silu": "silu"}
ATTENTIONS = ("eager", "sdpa")
"""Implementations that transformers' T5 accepts on any device."""
FREE = (
    *("width", "mlp_width", "heads", "head_width", "encoder_layers", "decoder_layers"),
    *("activation", "gated", "norm_epsilon", "relative_buckets", "relative_max_distance"),
    *("tied_embeddings", "scaled_projection", "compute_dtype", "remat", "scan_unroll"),
)
"""Fields of a `ModelConfig` that transformers' T5 has too, or that change no result."""
SPANS = 5  # a step takes a second or more on a CPU


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Our step beside one of the peer's.

    Attributes:
      peer: how the peer runs, "compiled, sdpa attention".
      times: seconds of a step, the peer's first, ours second.
      tokens: of a step, inputs and targets, without padding.
      parameters: of the peer's model and of ours.
    """

    peer: str
    times: Paired
    tokens: tuple[int, int]
    parameters: tuple[int, int]

    @property
    def speeds(self) -> tuple[float, float]:
        """Tokens a second, inputs and targets together, at the median time."""
        first, second = (sum(self.tokens) / seconds for seconds in self.times.medians)
        return first, second

    def summary(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            **self.times.summary(),
            "tokens": list(self.tokens),
            "tokens_per_second": list(self.speeds),
            "parameters": list(self.parameters),
        }


def steps_beside_transformers(experiment: Experiment, rounds: int = 9) -> Iterator[Beside]:
    """Our whole step (second) in pairs with each way to run transformers' T5 (first).

    Rows are random tokens without padding; what corrupting them gives has none either where the
    objective fills what it makes.

    Args:
      experiment: an encoder-decoder that transformers has, with AdamW; its projection is tied, as
        it always is there.
      rounds: pairs that are timed, of each.

    Returns:
      A comparison for PyTorch eager and compiled, with each of `ATTENTIONS`.

    Raises:
      UserError: PyTorch or transformers are missing, or cannot build or run such a model.
    """
    torch, transformers = imported("torch"), imported("transformers")
    experiment = dataclasses.replace(experiment, model=_tied(experiment.model))
    check(experiment)
    return _beside(torch, transformers, experiment, rounds, _device(torch))


def versions() -> str:
    """Of the peer, and the load of the machine that it is measured on."""
    torch, transformers = imported("torch"), imported("transformers")
    load = os.getloadavg()[0]
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} threads; load {load:.1f}"
    )


def _beside(
    torch: Any, transformers: Any, experiment: Experiment, rounds: int, device: str
) -> Iterator[Beside]:
    step, batch, ours = _our_step(experiment)
    tokens = _count(batch)
    for compiled in (False, True):
        for attention in ATTENTIONS:
            model = _their_model(torch, transformers, experiment, attention).to(device)
            run = _their_step(torch, model, experiment, batch, device, compiled)
            times = time_in_turn(run, step, rounds, spans=SPANS)
            theirs = sum(p.numel() for p in model.parameters())
            yield Beside(
                peer=f"{'compiled' if compiled else 'eager'}, {attention} attention",
                times=times,
                tokens=tokens,
                parameters=(theirs, ours),
            )
            del model, run
            _forget(torch)


def check(experiment: Experiment) -> None:
    """Raises `UserError` unless transformers' T5 can do the same work."""
    model, optimizer = experiment.model, experiment.optimizer
    plain = ModelConfig()
    for field in dataclasses.fields(ModelConfig):
        value, allowed = getattr(model, field.name), getattr(plain, field.name)
        require(
            field.name in FREE or value == allowed,
            f"model.{field.name} is {value}, which transformers' T5 has not; give {allowed}",
        )
    require(
        optimizer.name == "adamw" and optimizer.clip_norm is not None,
        f"optimizer.name is {optimizer.name} with clip_norm {optimizer.clip_norm}; the peer has "
        "AdamW and clips: give --optimizer.name adamw --optimizer.clip-norm 1",
    )
    require(
        model.compute_dtype != "float64",
        "model.compute_dtype is float64; give float32 or bfloat16",
    )


def imported(name: str) -> Any:
    """A package that may be missing; `UserError` if it is."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({error}); install it: pip install 'jaxdenoise[peers]'"
        ) from error


def use_all_cores(torch: Any) -> None:
    """Lets PyTorch have as many threads as there are cores, as XLA has."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _device(torch: Any) -> str:
    """PyTorch's name for what JAX runs on; all cores of a CPU."""
    backend = jax.default_backend()
    if backend == "cpu":
        use_all_cores(torch)
        return "cpu"
    require(
        backend == "gpu" and torch.cuda.is_available(),
        f"JAX runs on {backend} and PyTorch {torch.__version__} does not; install PyTorch's build "
        "for it, or set JAX_PLATFORMS=cpu",
    )
    return "cuda"


def _tied(config: ModelConfig) -> ModelConfig:
    """The model with a tied projection, scaled only where it was tied."""
    scaled = config.tied_embeddings and config.scaled_projection
    return dataclasses.replace(config, tied_embeddings=True, scaled_projection=scaled)


def _our_step(experiment: Experiment) -> tuple[Callable[[], Any], Example, int]:
    """A function that makes a step, the batch that it corrupts its rows to, and the parameters."""
    data, training = experiment.data, experiment.training
    vocab = _vocabulary(experiment)
    objective, model = experiment.objective.build(vocab), build_model(experiment.model, vocab)
    tx, backend = build_optimizer(experiment.optimizer, training.steps), SingleDevice()
    rows = _rows(training.batch_size, data.raw_length, vocab)
    batch = jax.device_get(corrupted(objective, rows))
    step = make_step(
        objective, model, tx, steps=training.steps, micro_batches=training.micro_batches
    )
    state = jax.jit(lambda key: init(key, model, tx))(keys.stream("init", experiment.seed))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    step = backend.compile(step, state, rows)
    holder = [state]  # the state is donated: each call takes what the last one gave

    def run() -> Any:
        holder[0], metrics = step(holder[0], rows)
        return holder[0], metrics

    return run, batch, parameters


def _vocabulary(experiment: Experiment) -> Vocabulary:
    data = experiment.data
    return Vocabulary.with_sentinels(size=data.vocabulary_size, sentinels=data.sentinels)


def _rows(number: int, length: int, vocab: Vocabulary) -> Rows:
    """Full rows of ordinary tokens."""
    ordinary = np.flatnonzero(~np.asarray(vocab.is_special))
    return Rows(
        tokens=np.random.default_rng(0).choice(ordinary, (number, length)).astype(np.int32),
        lengths=np.full(number, length, np.int32),
        example_ids=np.arange(number, dtype=np.uint32),
        epochs=np.zeros(number, np.uint32),
    )


def _count(batch: Example) -> tuple[int, int]:
    """Inputs and targets that are no padding."""
    inputs = int(np.sum(batch.inputs("encoder")[1] > 0))
    return inputs, int(np.sum(batch.targets("decoder")[1] > 0))


def _their_model(torch: Any, transformers: Any, experiment: Experiment, attention: str) -> Any:
    """Transformers' T5 of the same shape, fresh."""
    config = experiment.model
    torch.manual_seed(experiment.seed)
    made = transformers.T5Config(
        vocab_size=build_model(config, _vocabulary(experiment)).vocab_size,
        d_model=config.width,
        d_kv=config.head_width,
        d_ff=config.mlp_width,
        num_heads=config.heads,
        num_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        relative_attention_num_buckets=config.relative_buckets,
        relative_attention_max_distance=config.relative_max_distance,
        layer_norm_epsilon=config.norm_epsilon,
        feed_forward_proj="gated-" * config.gated + ACTIVATIONS[config.activation],
        dropout_rate=0.0,
        decoder_start_token_id=0,
        use_cache=False,
        tie_word_embeddings=config.scaled_projection,  # tied anyway: whether it is scaled
    )
    made._attn_implementation = attention
    model = transformers.T5ForConditionalGeneration(made).train()
    if config.remat != "none":
        model.gradient_checkpointing_enable()
    return model


def _their_step(
    torch: Any, model: Any, experiment: Experiment, batch: Example, device: str, compiled: bool
) -> Callable[[], Any]:
    """A function that makes a step of the peer's on the batch."""
    inputs = _tensors(torch, batch, device)
    optimizer = _their_optimizer(torch, model, experiment.optimizer)
    forward = torch.compile(model) if compiled else model
    autocast = contextlib.nullcontext()
    if experiment.model.compute_dtype == "bfloat16":
        autocast = torch.autocast(device, dtype=torch.bfloat16)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), experiment.optimizer.clip_norm)
        optimizer.step()
        return loss.item()  # waits for the device

    return run


def _tensors(torch: Any, batch: Example, device: str) -> dict[str, Any]:
    """The batch as transformers' T5 takes it; a mask only where there is padding."""
    inputs, segments, _ = batch.inputs("encoder")
    targets, weights = batch.targets("decoder")
    named = {
        "input_ids": np.asarray(inputs, np.int64),
        "labels": np.where(np.asarray(weights) > 0, targets, -100).astype(np.int64),
    }
    if np.any(np.asarray(segments) == 0):
        named["attention_mask"] = (np.asarray(segments) > 0).astype(np.int64)
    return {name: torch.tensor(x, device=device) for name, x in named.items()}


def _their_optimizer(torch: Any, model: Any, config: OptimizerConfig) -> Any:
    """AdamW, fused, which is its fastest."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.b1, config.b2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _forget(torch: Any) -> None:
    """Gives back what a peer held."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Whether our models compute what transformers' do, and weights survive the way in and out.

Small models of every family and variation, with random weights in every tensor, go from PyTorch
through a folder to ours: logits, loss and gradients on padded batches, then the way back.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example, Params
from jaxdenoise.bench.peers import imported
from jaxdenoise.errors import unknown
from jaxdenoise.huggingface.files import Tensors
from jaxdenoise.huggingface.pretrained import (
    FAMILIES,
    Pretrained,
    read_pretrained,
    to_tensors,
    write_pretrained,
)
from jaxdenoise.losses import loss_terms, mean_loss

BATCH, INPUTS, TARGETS, IDS = 3, 24, 17, 199
IGNORED = -100  # PyTorch's label of a position without a loss
FLOOR = 1e-3  # of the whole gradient's norm, below which a tensor's own is not what counts


@dataclass(frozen=True)
class Case:
    """A model of transformers.

    Attributes:
      kind: its class.
      what: of its kind, in words.
      fields: of its config, beside a small size.
      untied: its projection has weights of its own.
      sharded: it is saved in several files.
    """

    kind: str
    what: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    untied: bool = False
    sharded: bool = False


SIZES: dict[str, dict[str, Any]] = {
    "T5": {
        "d_model": 48,
        "d_kv": 8,
        "d_ff": 80,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 20,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    },
    "Bart": {
        "d_model": 48,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 80,
        "decoder_ffn_dim": 80,
        "max_position_embeddings": 40,
        "dropout": 0.0,
    },
    "Bert": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}

_T5, _T5_ENCODER = "T5ForConditionalGeneration", "T5EncoderModel"
_BART, _BERT = "BartForConditionalGeneration", "BertForMaskedLM"
_GATED = {"feed_forward_proj": "gated-gelu"}
_1_1 = {**_GATED, "tie_word_embeddings": False}
_SILU = {"feed_forward_proj": "gated-silu"}
_RELU = {"activation_function": "relu"}
_TYPES = {"hidden_act": "gelu_new", "type_vocab_size": 3}
CASES = {
    "t5_1_0": Case(_T5, "ReLU; tied, scaled projection"),
    "t5_1_1": Case(_T5, "gated GELU; a projection of its own", _1_1, untied=True),
    "t5_1_1_tied": Case(_T5, "gated GELU; tied, not scaled", _1_1),
    "t5_gated_silu": Case(_T5, "gated SiLU; several files", _SILU, sharded=True),
    "t5_encoder": Case(_T5_ENCODER, "the encoder alone, ReLU"),
    "t5_1_1_encoder": Case(_T5_ENCODER, "the encoder alone, gated GELU", _GATED),
    "bart": Case(_BART, "GELU"),
    "bart_relu": Case(_BART, "ReLU; several files", _RELU, sharded=True),
    "bart_headless": Case("BartModel", "no bias of the logits"),
    "bert": Case(_BERT, "GELU"),
    "bert_tanh": Case(_BERT, "approximated GELU; 3 token types", _TYPES),
    "bert_headless": Case("BertModel", "no prediction head"),
    "bert_pretraining": Case("BertForPreTraining", "a pooler, left out"),
}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How near ours is to theirs.

    Attributes:
      parameters: of ours.
      outputs: the largest difference of a logit at a position that is no padding, or of a hidden
        state where the model has no projection.
      loss: the relative difference of the loss: cross entropy, or mean square without projection.
      gradients: the largest ‖g − g′‖ / max(‖g′‖, 1e-3 · ‖all‖) of a tensor.
      tensors: in the file that was read, without those left out.
      identical: of them, written again with the very same bytes.
      returned: transformers reads what was written, and computes the very same outputs.
    """

    parameters: int
    outputs: float
    loss: float
    gradients: float
    tensors: int
    identical: int
    returned: bool


def parities(names: list[str] | None = None) -> Iterator[tuple[str, Case, Parity]]:
    """Compares the cases of these names, all by default.

    Raises:
      UserError: PyTorch or transformers are missing, or an unknown case.
    """
    for name in CASES if names is None else names:
        if name not in CASES:
            raise unknown("case", name, CASES)
        yield name, CASES[name], parity(CASES[name])


def parity(case: Case) -> Parity:
    """Compares one case."""
    torch, transformers = imported("torch"), imported("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    theirs = _their_model(torch, transformers, case)
    batch = _batch(np.random.default_rng(0), theirs.config)
    with tempfile.TemporaryDirectory() as folder:
        read, written = Path(folder) / "theirs", Path(folder) / "ours"
        theirs.save_pretrained(read, max_shard_size="40KB" if case.sharded else "5GB")
        ours = read_pretrained(read)
        wanted, loss, gradients = _their_results(torch, theirs, batch)
        got, our_loss, our_gradients = _our_results(ours, batch)
        write_pretrained(written, ours.config, ours.params)
        tensors, identical = _compare_files(read, written, ours.unused)
        again = type(theirs).from_pretrained(written, torch_dtype=torch.float32)
        returned = _their_results(torch, again, batch)[0]
    real = _targets_are_real(batch)
    return Parity(
        parameters=sum(int(np.size(x)) for x in jax.tree.leaves(ours.params)),
        outputs=float(np.max(np.abs(got - wanted)[real])),
        loss=abs(our_loss - loss) / abs(loss),
        gradients=_distance(our_gradients, gradients),
        tensors=tensors,
        identical=identical,
        returned=np.array_equal(wanted, returned),
    )


def _their_model(torch: Any, transformers: Any, case: Case) -> Any:
    """Fresh, and every tensor far enough from its start to matter."""
    kind = next(name for name in SIZES if case.kind.startswith(name))
    config = getattr(transformers, f"{kind}Config")(
        **{**SIZES[kind], "vocab_size": IDS, **case.fields}
    )
    model = getattr(transformers, case.kind)(config).eval()
    if case.untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(IDS, config.d_model))
        model.all_tied_weights_keys.pop("lm_head.weight", None)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            value.normal_(centre, 0.2 if value.ndim == 1 else 0.12)
    return model


def _batch(rng: np.random.Generator, config: Any) -> dict[str, np.ndarray]:
    """Rows of three lengths; padding holds the padding id, behind what is real."""
    ids = rng.integers(5, IDS, (BATCH, INPUTS))
    real = np.arange(INPUTS) < np.array([INPUTS, 15, 9])[:, None]
    batch = {"input_ids": np.where(real, ids, config.pad_token_id), "attention_mask": real}
    if config.is_encoder_decoder:
        targets = rng.integers(5, IDS, (BATCH, TARGETS))
        real = np.arange(TARGETS) < np.array([11, TARGETS, 4])[:, None]
        shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=2)
        batch["decoder_input_ids"] = np.where(real, shifted, config.pad_token_id)
        batch["decoder_attention_mask"] = real
    else:
        real, targets = real & (rng.random(real.shape) < 0.4), ids
    batch["labels"] = np.where(real, targets, IGNORED)
    return batch


def _targets_are_real(batch: dict[str, np.ndarray]) -> np.ndarray:
    mask = "decoder_attention_mask" if "decoder_input_ids" in batch else "attention_mask"
    return batch[mask].astype(bool)


def _predicts(model: Any) -> bool:
    return not type(model).__name__.endswith("Model")


def _their_results(
    torch: Any, model: Any, batch: dict[str, np.ndarray]
) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """Outputs, loss, and the gradient of every tensor by name."""
    given = {name: torch.tensor(x.astype(np.int64)) for name, x in batch.items()}
    labels = given.pop("labels")
    model.zero_grad()
    found = model(**given)
    if _predicts(model):
        outputs = found.logits if hasattr(found, "logits") else found.prediction_logits
        loss = torch.nn.functional.cross_entropy(
            outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
    else:
        outputs = found.last_hidden_state
        loss = (outputs[torch.tensor(_targets_are_real(batch))] ** 2).mean()
    loss.backward()
    gradients = {
        _without_prefix(name): value.grad.numpy()
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    return outputs.detach().numpy(), loss.item(), gradients


def _our_results(
    ours: Pretrained, batch: dict[str, np.ndarray]
) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    family, config, model = FAMILIES[ours.family], ours.config, ours.model
    example, real = _example(batch), _targets_are_real(batch)
    predicts = config.prediction_bias or (family.name == "t5" and config.architecture != "encoder")

    def loss_of(params: Params) -> tuple[Any, Any]:
        forward = model.forward(params, example, everywhere=True)
        if not predicts:
            weights = jnp.asarray(real)[..., None]
            mean = jnp.sum(forward.hidden**2 * weights) / (real.sum() * config.width)
            return mean, forward.hidden
        logits = forward.projection(forward.hidden)
        weights = (batch["labels"] != IGNORED).astype(np.float32)
        return mean_loss(loss_terms(logits, np.maximum(batch["labels"], 0), weights)), logits

    (loss, outputs), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(ours.params)
    named = to_tensors(family, config, gradients)
    return np.asarray(outputs), float(loss), {_without_prefix(k): x for k, x in named}


def _example(batch: dict[str, np.ndarray]) -> Example:
    found = {
        "encoder_input_tokens": batch["input_ids"],
        "encoder_segment_ids": batch["attention_mask"],
        "decoder_input_tokens": batch.get("decoder_input_ids"),
        "decoder_segment_ids": batch.get("decoder_attention_mask"),
    }
    return Example(**{k: None if x is None else x.astype(np.int32) for k, x in found.items()})


def _distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Of the tensors that have a gradient there; some are tied, and some of no use to the loss."""
    total = np.sqrt(sum(float(np.sum(np.square(x))) for x in theirs.values()))

    def apart(name: str, wanted: np.ndarray) -> float:
        scale = max(float(np.linalg.norm(wanted)), FLOOR * total)
        return float(np.linalg.norm(ours[name] - wanted)) / scale

    return float(max(apart(name, wanted) for name, wanted in theirs.items()))


def _compare_files(read: Path, written: Path, unused: tuple[str, ...]) -> tuple[int, int]:
    """How many tensors were read, and how many of them came back with the same bytes."""
    with Tensors(read) as before, Tensors(written) as after:
        there = {_without_prefix(name): name for name in after.names}
        names = [name for name in before.names if name not in unused]
        pairs = [(name, there.get(_without_prefix(name))) for name in names]
        same = [a for a, b in pairs if b and before.read(a).tobytes() == after.read(b).tobytes()]
        return len(names), len(same)


def _without_prefix(name: str) -> str:
    """A tensor's name as a model without a head has it."""
    return re.sub(r"^(model|bert)\.", "", name)

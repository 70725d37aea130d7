"""The package's transformers in plain NumPy, float64, with loops: slow, and hard to get wrong.

Written from the definitions: Vaswani et al. 2017; Raffel et al. 2020, section 2.1, and the T5 1.1
release notes; Devlin et al. 2019 (learned positions, post-norm, the prediction head); Shazeer 2020
(gated MLPs); Su et al. 2021 (rotary positions, here as complex numbers); Ainslie et al. 2023
(grouped queries); Henry et al. 2020 (QK norm); Beltagy et al. 2020 (windows); T5Gemma 2 (merged
attention); RedLLM (continued positions). Takes the parameters of the package's model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Tree = dict[str, Any]


@dataclasses.dataclass
class Row:
    """The inputs of a stack. Key k is seen where visible_at[k] ≤ sees_until[q], or in one group."""

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    visible_at: np.ndarray
    sees_until: np.ndarray
    groups: np.ndarray | None


@dataclasses.dataclass
class Source:
    """Positions whose keys and values are asked by queries.

    Attributes:
      x: their hidden states.
      positions: by which their keys are turned; None if they are not.
      seen: from each query.
      bias: on the logits, by head and query.
    """

    x: np.ndarray
    positions: np.ndarray | None
    seen: np.ndarray
    bias: np.ndarray


def logits(params: Tree, example: Any, config: Any) -> np.ndarray:
    """Float[T, V] at all positions of the stack that predicts, for an example without a batch."""
    name = "encoder" if config.architecture == "encoder" else "decoder"
    row, memory, memory_row = read(example, name), None, None
    if config.architecture == "encoder_decoder":
        memory_row = read(example, "encoder")
        memory = stack(params, "encoder", memory_row, config)
        if config.continued_positions:
            row = continued(row, memory_row)
    x = stack(params, name, row, config, memory, memory_row)
    if config.prediction_head:
        head = params["prediction"]
        x = activation(affine(x, head, "kernel", "bias", config), config)
        x = norm(x, head["norm"], config)
    if not config.tied_embeddings:
        result = x @ params["projection"]
    else:
        scale = 1 / math.sqrt(config.width) if config.scaled_projection else 1
        result = x * scale @ embedding(params, name, config).T
    return result + params["prediction_bias"] if config.prediction_bias else result


def read(example: Any, name: str) -> Row:
    """The inputs of a stack, what is not given filled in."""
    tokens, segments, positions, visibility = (
        getattr(example, f"{name}_{field}")
        for field in ("input_tokens", "segment_ids", "positions", "visibility")
    )
    tokens, segments, places = np.asarray(tokens), np.asarray(segments), np.arange(len(tokens))
    positions = places if positions is None else np.asarray(positions)
    if visibility is None:
        causal = places if name == "decoder" else np.zeros(len(tokens), int)
        return Row(tokens, segments, positions, causal, causal, None)
    given = np.asarray(visibility.visible_at), np.asarray(visibility.sees_until)
    groups = None if visibility.groups is None else np.asarray(visibility.groups)
    return Row(tokens, segments, positions, *given, groups)


def continued(row: Row, memory: Row) -> Row:
    """Positions that start after the last one of the encoder's segment of the same number."""
    positions = row.positions.copy()
    for place, segment in enumerate(row.segments):
        before = memory.positions[memory.segments == segment]
        positions[place] += before.max() + 1 if len(before) else 0
    return dataclasses.replace(row, positions=positions)


def stack(
    params: Tree,
    name: str,
    row: Row,
    config: Any,
    memory: np.ndarray | None = None,
    memory_row: Row | None = None,
) -> np.ndarray:
    """A stack's output, from its tokens."""
    weights = params[name]
    x = embedding(params, name, config)[row.tokens]
    bias = np.zeros((config.heads, len(x), len(x)))
    if config.positions == "learned":
        x = x + weights["positions"]["embedding"][row.positions + config.position_offset]
    if config.positions == "relative":
        bias = relative_bias(weights["relative_bias"]["table"], row, name == "encoder", config)
    if config.token_types:
        x = x + weights["token_types"]["embedding"][0]
    if config.embedding_norm:
        x = norm(x, weights["embedding_norm"], config)
    for number, layer in enumerate(_layers(weights["layers"])):
        x = block(x, layer, number, row, bias, memory, memory_row, config)
    return norm(x, weights["norm"], config) if config.norm_place == "pre" else x


def block(
    x: np.ndarray,
    layer: Tree,
    number: int,
    row: Row,
    bias: np.ndarray,
    memory: np.ndarray | None,
    memory_row: Row | None,
    config: Any,
) -> np.ndarray:
    """Self-attention, attention on the memory, MLP."""
    local = config.local_window is not None and number % config.global_every != 0
    seen = sight(row, config.local_window if local else None)
    base = config.rotary_base
    if local and config.local_rotary_base is not None:
        base = config.local_rotary_base
    across = []
    if memory is not None and memory_row is not None:
        same = row.segments[:, None] == memory_row.segments[None, :]
        turned = memory_row.positions if config.continued_positions else None
        across = [Source(memory, turned, same, np.zeros((config.heads, *same.shape)))]

    def itself(y: np.ndarray) -> np.ndarray:
        asked = [Source(y, row.positions, seen, bias)]
        asked += across if config.merged_attention else []
        return attention(y, row.positions, asked, layer["self_attention"], base, config)

    def crossing(y: np.ndarray) -> np.ndarray:
        positions = row.positions if config.continued_positions else None
        return attention(y, positions, across, layer["cross_attention"], base, config)

    x = sublayer(x, layer["self_attention_norm"], itself, config)
    if across and not config.merged_attention:
        x = sublayer(x, layer["cross_attention_norm"], crossing, config)
    return sublayer(x, layer["mlp_norm"], lambda y: mlp(y, layer["mlp"], config), config)


def sublayer(
    x: np.ndarray, weights: Tree, function: Callable[[np.ndarray], np.ndarray], config: Any
) -> np.ndarray:
    """X + f(norm(x)), or norm(x + f(x))."""
    if config.norm_place == "pre":
        return x + function(norm(x, weights, config))
    return norm(x + function(x), weights, config)


def sight(row: Row, window: int | None) -> np.ndarray:
    """Bool[T, T], which keys each query of a stack sees, pair by pair."""
    size = len(row.tokens)
    seen = np.zeros((size, size), bool)
    for query in range(size):
        for key in range(size):
            allowed = row.visible_at[key] <= row.sees_until[query]
            if row.groups is not None and row.groups[query] == row.groups[key]:
                allowed = True
            distance = abs(row.positions[key] - row.positions[query])
            near = window is None or distance <= window // 2
            seen[query, key] = row.segments[query] == row.segments[key] and allowed and near
    return seen


def attention(
    x: np.ndarray,
    positions: np.ndarray | None,
    sources: list[Source],
    weights: Tree,
    base: float,
    config: Any,
) -> np.ndarray:
    """Multi-head attention on all sources in one softmax, one head and one query at a time."""
    query = by_head(x, "query", positions, weights, base, config)
    key = np.concatenate([by_head(s.x, "key", s.positions, weights, base, config) for s in sources])
    value = np.concatenate([by_head(s.x, "value", None, weights, base, config) for s in sources])
    seen = np.concatenate([source.seen for source in sources], axis=1)
    bias = np.concatenate([source.bias for source in sources], axis=2)
    scale = 1 / math.sqrt(config.head_width) if config.scaled_attention else 1
    sharing = config.heads // (config.key_value_heads or config.heads)
    joined = np.zeros((len(x), config.heads, config.head_width))
    for head in range(config.heads):
        for place in range(len(x)):
            keys = np.flatnonzero(seen[place])
            if len(keys) == 0:  # nothing is seen, nothing is taken
                continue
            scores = key[keys, head // sharing] @ query[place, head] * scale
            scores = scores + bias[head, place, keys]
            shares = np.exp(scores - scores.max())
            joined[place, head] = shares / shares.sum() @ value[keys, head // sharing]
    return affine(joined.reshape(len(x), -1), weights, "out", "out_bias", config)


def by_head(
    x: np.ndarray, name: str, positions: np.ndarray | None, weights: Tree, base: float, config: Any
) -> np.ndarray:
    """Float[T, heads, head_width]: queries, keys or values, normed and turned."""
    product = affine(x, weights, name, f"{name}_bias", config)
    product = product.reshape(len(x), -1, config.head_width)
    if config.qk_norm and name != "value":
        product = rms(product, config.norm_epsilon) * weights[f"{name}_norm"]
    if config.positions == "rotary" and positions is not None:
        product = turn(product, positions, base)
    return product


def turn(x: np.ndarray, positions: np.ndarray, base: float) -> np.ndarray:
    """Units i and i + D/2 as a complex number, times exp(√−1 · position · base^(−2i/D))."""
    half = x.shape[-1] // 2
    turned = x.copy()
    for place, position in enumerate(positions):
        for unit in range(half):
            angle = position * base ** (-2 * unit / x.shape[-1])
            number = x[place, :, unit] + 1j * x[place, :, unit + half]
            number = number * np.exp(1j * angle)
            turned[place, :, unit], turned[place, :, unit + half] = number.real, number.imag
    return turned


def mlp(x: np.ndarray, weights: Tree, config: Any) -> np.ndarray:
    """Two products with an activation between them, or three."""
    if config.gated:
        hidden = activation(affine(x, weights, "wi_0", "wi_0_bias", config), config)
        hidden = hidden * affine(x, weights, "wi_1", "wi_1_bias", config)
    else:
        hidden = activation(affine(x, weights, "wi", "wi_bias", config), config)
    return affine(hidden, weights, "wo", "wo_bias", config)


def activation(x: np.ndarray, config: Any) -> np.ndarray:
    """Of the MLP and of the prediction head."""
    if config.activation == "relu":
        return np.where(x > 0, x, 0)
    if config.activation == "silu":
        return x / (1 + np.exp(-x))
    if config.activation == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert config.activation == "gelu_tanh"
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def affine(x: np.ndarray, weights: Tree, kernel: str, bias: str, config: Any) -> np.ndarray:
    """X @ kernel, plus the bias where the model has biases."""
    product = x @ weights[kernel]
    return product + weights[bias] if config.biases else product


def norm(x: np.ndarray, weights: Tree, config: Any) -> np.ndarray:
    """RMSNorm, or LayerNorm."""
    if config.norm == "rms":
        return rms(x, config.norm_epsilon) * weights["scale"]
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + config.norm_epsilon)
    return centred / deviation * weights["scale"] + weights["bias"]


def rms(x: np.ndarray, epsilon: float) -> np.ndarray:
    """X / rms(x)."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


def embedding(params: Tree, name: str, config: Any) -> np.ndarray:
    """A stack's embedding: of both, unless the decoder has its own."""
    both = config.architecture == "encoder_decoder"
    own = both and name == "decoder" and not config.shared_embedding
    return params["decoder_embedding" if own else "embedding"]


def relative_bias(table: np.ndarray, row: Row, bidirectional: bool, config: Any) -> np.ndarray:
    """Float[heads, T, T], entry by entry."""
    size, shape = len(row.tokens), (config.relative_buckets, config.relative_max_distance)
    bias = np.zeros((config.heads, size, size))
    for query in range(size):
        for key in range(size):
            distance = int(row.positions[key] - row.positions[query])
            bias[:, query, key] = table[bucket(distance, bidirectional, *shape)]
    return bias


def bucket(distance: int, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """T5's bucket of key position − query position."""
    first = 0
    if bidirectional:
        buckets //= 2
        if distance > 0:
            first = buckets
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    ratio = math.log(distance / exact) / math.log(max_distance / exact)
    # The published code computes the ratio in float32.
    far = exact + int(np.float32(ratio) * (buckets - exact))
    return first + min(far, buckets - 1)


def _layers(stacked: Tree) -> list[Tree]:
    """Parameters of scanned layers, layer by layer."""
    number = len(stacked["mlp"]["wo"])

    def take(tree: Any, layer: int) -> Any:
        if isinstance(tree, dict):
            return {name: take(inner, layer) for name, inner in tree.items()}
        return np.asarray(tree[layer], np.float64)

    return [take(stacked, layer) for layer in range(number)]

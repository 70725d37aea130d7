"""T5 1.1 in plain NumPy, float64, loops over heads and positions: slow, and hard to get wrong.

Written from Raffel et al. 2020, section 2.1, Shazeer 2020 and the T5 1.1 release notes. Takes the
parameters of the package's model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Tree = dict[str, Any]


def logits(
    params: Tree, example: Any, *, heads: int, buckets: int, max_distance: int
) -> np.ndarray:
    """Float[T, V] for one example of an encoder-decoder, or of an encoder if it has no decoder."""
    shape = {"heads": heads, "buckets": buckets, "max_distance": max_distance}
    inputs = np.asarray(example.encoder_input_tokens)
    segments = np.asarray(example.encoder_segment_ids)
    memory = encoder(params, params["embedding"][inputs], segments, **shape)
    if "decoder" not in params:
        return memory @ params["projection"]
    targets = np.asarray(example.decoder_input_tokens)
    target_segments = np.asarray(example.decoder_segment_ids)
    x = params["embedding"][targets]
    x = decoder(params, x, target_segments, memory, segments, **shape)
    return x @ params["projection"]


def encoder(params: Tree, x: np.ndarray, segments: np.ndarray, **shape: int) -> np.ndarray:
    """The encoder stack."""
    stack = params["encoder"]
    seen = segments[:, None] == segments[None, :]
    bias = relative_bias(stack["relative_bias"]["table"], len(x), True, **shape)
    for layer in _layers(stack["layers"]):
        y = rms_norm(x, layer["self_attention_norm"]["scale"])
        x = x + attention(y, y, layer["self_attention"], seen, bias, shape["heads"])
        x = x + gated_mlp(rms_norm(x, layer["mlp_norm"]["scale"]), layer["mlp"])
    return rms_norm(x, stack["norm"]["scale"])


def decoder(
    params: Tree,
    x: np.ndarray,
    segments: np.ndarray,
    memory: np.ndarray,
    memory_segments: np.ndarray,
    **shape: int,
) -> np.ndarray:
    """The decoder stack."""
    stack = params["decoder"]
    causal = np.tril(np.ones((len(x), len(x)), bool))
    seen = causal & (segments[:, None] == segments[None, :])
    across = segments[:, None] == memory_segments[None, :]
    bias = relative_bias(stack["relative_bias"]["table"], len(x), False, **shape)
    for layer in _layers(stack["layers"]):
        y = rms_norm(x, layer["self_attention_norm"]["scale"])
        x = x + attention(y, y, layer["self_attention"], seen, bias, shape["heads"])
        y = rms_norm(x, layer["cross_attention_norm"]["scale"])
        x = x + attention(y, memory, layer["cross_attention"], across, None, shape["heads"])
        x = x + gated_mlp(rms_norm(x, layer["mlp_norm"]["scale"]), layer["mlp"])
    return rms_norm(x, stack["norm"]["scale"])


def attention(
    x: np.ndarray,
    memory: np.ndarray,
    kernels: Tree,
    seen: np.ndarray,
    bias: np.ndarray | None,
    heads: int,
) -> np.ndarray:
    """Multi-head attention without scaling, one head and one query at a time."""
    query, key, value = x @ kernels["query"], memory @ kernels["key"], memory @ kernels["value"]
    width = query.shape[1] // heads
    joined = np.zeros_like(query)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for position in range(len(x)):
            scores = key[:, part] @ query[position, part]
            if bias is not None:
                scores = scores + bias[head, position]
            scores = np.where(seen[position], scores, -1e9)
            weights = np.exp(scores - scores.max())
            joined[position, part] = weights / weights.sum() @ value[:, part]
    return joined @ kernels["out"]


def gated_mlp(x: np.ndarray, kernels: Tree) -> np.ndarray:
    """GEGLU with the tanh approximation of GELU."""
    gate = x @ kernels["wi_0"]
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * (x @ kernels["wi_1"])) @ kernels["wo"]


def rms_norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x / rms(x) · scale."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def relative_bias(
    table: np.ndarray,
    length: int,
    bidirectional: bool,
    *,
    heads: int,
    buckets: int,
    max_distance: int,
) -> np.ndarray:
    """Float[heads, length, length], entry by entry."""
    bias = np.zeros((heads, length, length))
    for query in range(length):
        for key in range(length):
            number = bucket(key - query, bidirectional, buckets, max_distance)
            bias[:, query, key] = table[number]
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

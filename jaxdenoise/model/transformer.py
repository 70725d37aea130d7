"""The three architectures from one set of layers: scanned stacks, for one example at a time.

Gradient routing happens here. Under `output_only` a decoder's positions are parted into two
streams: those that predict, which are trained, and the context, which runs with stopped inputs
and parameters, so that nothing of its backward pass is computed or stored. Where the example does
not say which positions are selected, there is one stream and the context's keys and values are
stopped: the same gradient, at the full price.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, Projection, Visibility, part_places
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.attention import Attention
from jaxdenoise.model.layers import (
    MLP,
    Dropout,
    Hidden,
    Layer,
    Norm,
    PredictionHead,
    embedding_init,
    matrix_init,
)
from jaxdenoise.model.positions import LearnedPositions, RelativeBias, TokenTypes
from jaxdenoise.model.sharding import by_example, gathered
from jaxdenoise.model.streams import (
    Reach,
    Sight,
    Slots,
    Streams,
    Surroundings,
    continued,
    seen_by_all,
)

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(Layer):
    """Self-attention, attention on the memory if there is one, MLP; each with norm and residual."""

    crosses: bool = False

    @nn.compact
    def __call__(
        self, streams: Streams, around: Surroundings, reach: Reach
    ) -> tuple[Streams, None]:
        config = self.config
        streams = tuple(self.perturb(f"stream_{n}", x) for n, x in enumerate(streams))
        streams = by_example(streams[0]), *map(jax.lax.stop_gradient, streams[1:])
        merged = self.crosses and config.merged_attention
        attention = Attention(config, "merged" if merged else "self", name="self_attention")
        streams = self._add("self_attention", streams, lambda xs: attention(xs, around, reach))
        if self.crosses and not merged:
            cross = Attention(config, "cross", name="cross_attention")
            streams = self._add("cross_attention", streams, lambda xs: cross(xs, around, reach))
        mlp = MLP(config, name="mlp")
        streams = self._add("mlp", streams, lambda xs: [mlp(x, n > 0) for n, x in enumerate(xs)])
        return streams, None

    def _add(
        self, name: str, streams: Streams, function: Callable[[Streams], Sequence[AnyArray]]
    ) -> Streams:
        """X + function(norm(x)), or norm(x + function(x)), for every stream."""
        norm, dropout = Norm(self.config, name=f"{name}_norm"), Dropout(self.config)

        def normed(xs: Sequence[AnyArray]) -> Streams:
            return tuple(norm(x, n > 0) for n, x in enumerate(xs))

        before = self.config.norm_place == "pre"
        added = function(normed(streams) if before else streams)
        sums = tuple(x + dropout(y) for x, y in zip(streams, added, strict=True))
        return sums if before else normed(sums)


def layer_by_layer(stacked: Any) -> Sequence[Any]:
    """The parameters of each layer, from those of all; or as they are, where they stand apart."""
    if isinstance(stacked, tuple):
        return stacked
    number = len(jax.tree.leaves(stacked)[0])
    return tuple(jax.tree.map(lambda x, n=n: x[n], stacked) for n in range(number))


class Stack(Layer):
    """Positions added, blocks scanned, a final norm where norms come before."""

    stack: str = "encoder"

    @nn.compact
    def __call__(self, streams: Streams, around: Surroundings) -> Streams:
        config = self.config
        dropout = Dropout(config)
        if config.positions == "learned":
            learned = LearnedPositions(config, name="positions")
            places = [learned(s.positions, n > 0) for n, s in enumerate(around.sights)]
            streams = tuple(x + place for x, place in zip(streams, places, strict=True))
        if config.token_types:
            types = TokenTypes(config, name="token_types")
            streams = tuple(x + types(n > 0) for n, x in enumerate(streams))
        if config.embedding_norm:
            norm = Norm(config, name="embedding_norm")
            streams = tuple(norm(x, n > 0) for n, x in enumerate(streams))
        around = dataclasses.replace(around, biases=self._biases(around))
        streams = tuple(map(dropout, streams))
        if around.slots is None:
            streams, _ = self._layers()(streams, around, self._reaches())
        else:
            streams = self._one_by_one(streams, around)
        if config.norm_place == "post":
            return streams
        norm = Norm(config, name="norm")
        return tuple(dropout(norm(x, n > 0)) for n, x in enumerate(streams))

    def _biases(self, around: Surroundings) -> tuple[Float[AnyArray, "H Tq Tk"] | None, ...]:
        """Of each stream's queries; keys of the memory have none."""
        if self.config.positions != "relative":
            return (None,) * len(around.sights)
        relative = RelativeBias(self.config, self.stack == "encoder", name="relative_bias")
        first = around.sights[0]
        if len(around.sights) == 1 and first.counted:
            biases = [relative(first.size, first.size)]
        else:
            asked = around.sights if around.slots is None else (around.slots.sight,)
            keys = jnp.concatenate([sight.positions for sight in asked])
            biases = [
                relative(sight.positions, keys, frozen=n > 0)
                for n, sight in enumerate(around.sights)
            ]
        if self.config.merged_attention and around.memory_sight is not None:
            more = [(0, 0), (0, 0), (0, around.memory_sight.size)]
            biases = [jnp.pad(bias, more) for bias in biases]
        return tuple(biases)

    def _reaches(self) -> Reach:
        """Of every layer, [layers] each: local or global."""
        config = self.config
        base = np.full(config.layers(self.stack), config.rotary_base, np.float32)
        if config.local_window is None:
            return Reach(window=None, base=jnp.asarray(base))
        local = np.arange(len(base)) % config.global_every != 0
        base = np.where(local, config.local_rotary_base or config.rotary_base, base)
        window = np.where(local, config.local_window, np.iinfo(np.int32).max)
        return Reach(window=jnp.asarray(window, jnp.int32), base=jnp.asarray(base))

    def _one_by_one(self, streams: Streams, around: Surroundings) -> Streams:
        """The blocks without a loop, so that each has what it keeps in a place of its own."""
        count = self.config.layers(self.stack)
        kept = self.variable("cache", "layers", lambda: ({},) * count)
        block, layers = Block(self.config, self._crosses, parent=None), []
        apart, reaches = layer_by_layer(self.variables["params"]["layers"]), self._reaches()
        for number, before in enumerate(kept.value):
            params, reach = apart[number], jax.tree.map(lambda x, n=number: x[n], reaches)
            variables = {"params": params, "cache": before}
            (streams, _), after = block.apply(variables, streams, around, reach, mutable=["cache"])
            layers.append(after["cache"])
        kept.value = tuple(layers)
        return streams

    @property
    def _crosses(self) -> bool:
        """Whether the blocks look at an encoder's output."""
        return self.stack == "decoder" and self.config.architecture == "encoder_decoder"

    def _layers(self) -> nn.Module:
        """The blocks as one, parameters stacked in front."""
        config, block = self.config, Block
        if config.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=False)
        layers = config.layers(self.stack)
        return nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0, "perturbations": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0),  # type: ignore[arg-type]  # Flax documents tuples
            length=layers,
            unroll=min(config.scan_unroll, layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, self._crosses, name="layers")


class Transformer(Layer):
    """Embedding, stacks, prediction head and projection.

    Source: Raffel et al. 2020, section 2.1; T5 1.1 (t5x/examples/t5/t5_1_1); Devlin et al. 2019;
    Lewis et al. 2020.
    """

    vocab_size: int = 0

    def setup(self):
        config, shape = self.config, (self.vocab_size, self.config.width)
        init = embedding_init(config)
        axes = ("vocab", "embed")
        self.embedding = self.weight("embedding", init, shape, axes)
        if config.architecture == "encoder_decoder" and not config.shared_embedding:
            self.decoder_embedding = self.weight("decoder_embedding", init, shape, axes)
        if not config.tied_embeddings:
            init = matrix_init(config)
            self.kernel_of_projection = self.weight("projection", init, shape[::-1], axes[::-1])
        if config.prediction_bias:
            self.prediction_bias = self.weight(
                "prediction_bias", nn.initializers.zeros, (self.vocab_size,), ("vocab",)
            )
        if config.prediction_head:
            self.prediction = PredictionHead(config)
        if config.architecture != "decoder":
            self.encoder = Stack(config, "encoder")
        if config.architecture != "encoder":
            self.decoder = Stack(config, "decoder")

    def __call__(
        self, example: Example, gradients: str = "full", everywhere: bool = False
    ) -> Hidden:
        """What is projected: the predicting stack's output at the selected positions.

        Args:
          example: unbatched.
          gradients: `full`, `output_only`, or only through the `encoder` or the `decoder`.
          everywhere: at all positions, whatever is selected.
        """
        config = self.config
        if config.architecture == "encoder":
            hidden = self.encode(example)
        elif config.architecture == "encoder_decoder":
            encoded = self.encode(example, frozen=gradients == "decoder")
            hidden = self.decode(example, encoded, frozen=gradients == "encoder")
        elif gradients == "output_only":
            return self.predict(self._decode_outputs(example, everywhere))
        else:
            hidden = self.decode(example)
        places = None if everywhere else example.places(predicting_stack(config))
        return self.predict(hidden if places is None else hidden[places])

    def encode(self, example: Example, frozen: bool = False) -> Hidden:
        """The encoder's output."""
        tokens, sight = self._read(example, "encoder")
        encoded = self.encoder((self._embed(tokens, "encoder", frozen),), Surroundings((sight,)))[0]
        return jax.lax.stop_gradient(encoded) if frozen else encoded

    def decode(
        self, example: Example, encoded: Hidden | None = None, frozen: bool = False
    ) -> Hidden:
        """The decoder's output at all its positions, on the encoder's if there is one."""
        tokens, sight = self._read(example, "decoder")
        around = Surroundings((sight,))
        if encoded is not None:
            memory_sight = self._read(example, "encoder")[1]
            if self.config.continued_positions:
                around = Surroundings((continued(sight, memory_sight),))
            around = dataclasses.replace(
                around, memory=encoded, memory_sight=seen_by_all(memory_sight)
            )
        return self.decoder((self._embed(tokens, "decoder", frozen),), around)[0]

    def decode_on(
        self, tokens: Int[AnyArray, "S"], sight: Sight, slots: Slots, example: Example, encoded: Any
    ) -> Hidden:
        """What is projected, at positions behind those whose keys and values are kept.

        Args:
          tokens: of these positions.
          sight: where they stand.
          slots: for keys and values, which the collection "cache" holds.
          example: the encoder's side, where there is one.
          encoded: the encoder's output the first time, then None.
        """
        around = Surroundings((sight,), slots=slots)
        if self.config.architecture == "encoder_decoder":
            memory_sight = self._read(example, "encoder")[1]
            if self.config.continued_positions:
                sight, ahead = (continued(s, memory_sight) for s in (sight, slots.sight))
                around = Surroundings((sight,), slots=dataclasses.replace(slots, sight=ahead))
            memory_sight = seen_by_all(memory_sight)
            around = dataclasses.replace(around, memory=encoded, memory_sight=memory_sight)
        return self.predict(self.decoder((self._embed(tokens, "decoder"),), around)[0])

    def projection(self) -> Projection:
        """How hidden states become logits."""
        config, bias = self.config, self.prediction_bias if self.config.prediction_bias else None
        if not config.tied_embeddings:
            kernel = gathered(self.kernel_of_projection, ("embed", "vocab"))
            return Projection(kernel, bias)
        scale = config.width**-0.5 if config.scaled_projection else 1.0
        table = gathered(self._table(predicting_stack(config)), ("vocab", "embed"))
        return Projection(table.T, bias, scale)

    def _decode_outputs(self, example: Example, everywhere: bool) -> Hidden:
        """A lone decoder whose gradients flow through the positions that predict, and no others."""
        tokens, sight = self._read(example, "decoder")
        live = jnp.asarray(example.targets("decoder")[1]) != 0
        if everywhere or example.decoder_selected is None:
            embedded = self._embed(tokens, "decoder")
            return self.decoder((embedded,), Surroundings((sight,), live=live))[0]
        selected, rest = part_places(example.decoder_selected, sight.size)
        parts = [selected, rest] if rest.shape[0] else [selected]
        streams = tuple(
            self._embed(tokens[places], "decoder", frozen=n > 0) for n, places in enumerate(parts)
        )
        sights = tuple(sight.take(places) for places in parts)
        return self.decoder(streams, Surroundings(sights, live=live[selected]))[0]

    def _read(self, example: Example, stack: str) -> tuple[Int[AnyArray, "T"], Sight]:
        """The tokens of a stack, and where they stand."""
        tokens, segment_ids, positions = example.inputs(stack)
        size, visibility = tokens.shape[-1], example.visibility(stack)
        if visibility is None:
            sees = Visibility.bidirectional if stack == "encoder" else Visibility.causal
            visibility = sees(size)
        counted = positions is None
        places = jnp.arange(size) if positions is None else positions
        return tokens, Sight(segment_ids, places, visibility, counted)

    def _embed(self, tokens: Int[AnyArray, "T"], stack: str, frozen: bool = False) -> Hidden:
        """The rows of the stack's embedding, in the compute dtype."""
        table = self._table(stack)
        table = jax.lax.stop_gradient(table) if frozen else table
        # Outside the vocabulary, where padding may be: the nearest row, since NaN would spread.
        return by_example(self.computed(jnp.take(table, tokens, axis=0, mode="clip")))

    def _table(self, stack: str) -> Float[AnyArray, "V width"]:
        own = stack == "decoder" and self.config.architecture == "encoder_decoder"
        own = own and not self.config.shared_embedding
        return self.decoder_embedding if own else self.embedding

    def predict(self, hidden: Hidden) -> Hidden:
        """What is projected, of a stack's output."""
        return self.prediction(hidden) if self.config.prediction_head else hidden


def predicting_stack(config: ModelConfig) -> str:
    """The stack whose targets the model predicts: the last one."""
    return "encoder" if config.architecture == "encoder" else "decoder"

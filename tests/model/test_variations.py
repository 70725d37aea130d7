"""Every variation of the model against plain NumPy, and what reaches what in each of them."""

import functools
import typing
from dataclasses import dataclass

import jax
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.arrays import Example, Visibility
from jaxdenoise.model.model import Model
from tests.reference import transformer as reference

VOCAB, PREFIX, GROUP = 128, 5, 3
# Two rows of two documents and padding, in each stack.
SEGMENTS = {
    "encoder": [(7, 8, 3), (10, 4, 4)],
    "decoder": [(9, 7, 4), (6, 11, 3)],
}


@dataclass(frozen=True)
class Case:
    """A model and how its rows are read.

    Attributes:
      fields: of the config.
      encoder: what the encoder's positions see.
      decoder: what the decoder's positions see.
      counted: positions are left out, and run through both documents of a row.
    """

    fields: dict
    encoder: str = "all"
    decoder: str = "causal"
    counted: bool = False


def case(architecture, *, encoder="all", decoder="causal", counted=False, **fields) -> Case:
    return Case({"architecture": architecture, **fields}, encoder, decoder, counted)


BERT = {"norm": "layer", "norm_place": "post", "activation": "gelu", "gated": False, "biases": True}
BERT |= {"positions": "learned", "scaled_attention": True, "tied_embeddings": True}
BERT |= {"scaled_projection": False, "embedding_norm": True, "prediction_bias": True}
GEMMA = {"positions": "rotary", "scaled_attention": True, "qk_norm": True, "key_value_heads": 1}
GEMMA |= {"local_window": 4, "global_every": 2, "local_rotary_base": 50.0, "tied_embeddings": True}
RELATIVE = {"relative_buckets": 8, "relative_max_distance": 7}

CASES = {
    "t5_encoder": case("encoder", counted=True, **RELATIVE),
    "bert": case(
        "encoder", prediction_head=True, norm_epsilon=1e-3, token_types=2, position_offset=1, **BERT
    ),
    "modernbert": case(
        "encoder",
        norm="layer",
        activation="gelu",
        prediction_head=True,
        embedding_norm=True,
        **(GEMMA | {"qk_norm": False, "key_value_heads": None}),
    ),
    "encoder_of_blocks": case(
        "encoder",
        encoder="blocks",
        positions="rotary",
        norm_place="post",
        activation="silu",
        rotary_base=300.0,
        qk_norm=True,
        key_value_heads=2,
    ),
    "encoder_with_relative_windows": case(
        "encoder",
        activation="relu",
        gated=False,
        biases=True,
        key_value_heads=1,
        local_window=5,
        scaled_attention=True,
        **RELATIVE,
    ),
    "gpt1": case("decoder", prediction_head=True, token_types=3, **BERT),
    "gpt2": case(
        "decoder",
        counted=True,
        position_offset=2,
        **(BERT | {"norm_place": "pre", "activation": "gelu_tanh", "embedding_norm": False}),
    ),
    "prefix_lm": case(
        "decoder",
        decoder="prefix",
        positions="rotary",
        activation="silu",
        qk_norm=True,
        key_value_heads=2,
        norm_epsilon=1e-3,
        rotary_base=300.0,
    ),
    "gemma3": case("decoder", **GEMMA),
    "decoder_of_blocks": case(
        "decoder",
        decoder="blocks",
        norm_place="post",
        activation="relu",
        gated=False,
        prediction_bias=True,
        local_window=4,
        global_every=2,
        **RELATIVE,
    ),
    "t5_1_0": case(
        "encoder_decoder",
        counted=True,
        activation="relu",
        gated=False,
        tied_embeddings=True,
        **RELATIVE,
    ),
    "bart": case("encoder_decoder", position_offset=2, **BERT),
    "redllm": case(
        "encoder_decoder",
        positions="rotary",
        continued_positions=True,
        activation="silu",
        scaled_attention=True,
        qk_norm=True,
        key_value_heads=2,
        local_window=4,
        global_every=2,
        local_rotary_base=50.0,
        tied_embeddings=True,
        shared_embedding=False,
    ),
    "t5gemma2": case("encoder_decoder", merged_attention=True, **GEMMA),
    "merged_with_relative_bias": case(
        "encoder_decoder",
        encoder="blocks",
        decoder="blocks",
        merged_attention=True,
        norm_place="post",
        biases=True,
        norm_epsilon=1e-3,
        **RELATIVE,
    ),
    "merged_with_continued_positions": case(
        "encoder_decoder",
        merged_attention=True,
        continued_positions=True,
        positions="rotary",
        rotary_base=300.0,
        norm="layer",
        activation="gelu",
        prediction_head=True,
        prediction_bias=True,
        local_window=4,
        counted=True,
    ),
    "learned_and_continued": case(
        "encoder_decoder",
        encoder="blocks",
        decoder="prefix",
        positions="learned",
        continued_positions=True,
        shared_embedding=False,
        qk_norm=True,
        embedding_norm=True,
        token_types=2,
    ),
}
SIZES = {"width", "mlp_width", "heads", "head_width", "encoder_layers", "decoder_layers"}
SIZES |= {"relative_buckets", "relative_max_distance", "max_positions", "initial_scale"}
SIZES |= {"embedding_rows"}  # of a Model, given as its own
COMPUTED = {"dropout_rate", "compute_dtype", "remat", "scan_unroll"}
OF_BOTH_STACKS = {"merged_attention", "continued_positions", "shared_embedding"}
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def made(name):
    """The model, its parameters in float64, and its logits as a compiled function."""
    config = jd.ModelConfig(
        width=16,
        mlp_width=24,
        heads=4,
        head_width=6,
        encoder_layers=3,
        decoder_layers=2,
        max_positions=40,
        compute_dtype="float64",
        **CASES[name].fields,
    )
    model = Model(config, VOCAB)
    rng = np.random.default_rng(0)

    def fresh(path, leaf):
        """Far enough from an initialisation that every parameter matters."""
        centre = path[-1].key in ("scale", "query_norm", "key_norm")
        return centre + 0.3 * rng.normal(size=leaf.shape)

    with jax.enable_x64(True):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree_util.tree_map_with_path(fresh, shapes), jax.jit(model.apply)


def logits_of(name, batch):
    _, params, apply = made(name)
    with jax.enable_x64(True):  # so that nothing but the order of sums is left to differ
        return np.asarray(apply(params, batch))


def stacks_of(name):
    architecture = CASES[name].fields["architecture"]
    return ("encoder", "decoder") if architecture == "encoder_decoder" else (architecture,)


def batch_of(name) -> Example:
    """Two packed rows, what stands in padding included."""
    rng, fields = np.random.default_rng(1), {}
    for stack in stacks_of(name):
        segments = segments_of(stack)
        size = segments.shape[1]
        fields[f"{stack}_input_tokens"] = rng.integers(0, VOCAB, segments.shape, np.int32)
        fields[f"{stack}_segment_ids"] = segments
        fields[f"{stack}_visibility"] = visibility_of(getattr(CASES[name], stack), size)
        if not CASES[name].counted:
            fields[f"{stack}_positions"] = positions_of(stack)
    return Example(**fields)


def positions_of(stack):
    """From 0 in every document; two left out of each, so that they differ as places do not."""
    rows = [np.concatenate([np.arange(n) for n in row]) for row in SEGMENTS[stack]]
    return np.array([row + 2 * (row > 2) for row in rows], np.int32)


def segments_of(stack):
    rows = [np.repeat([1, 2, 0], lengths) for lengths in SEGMENTS[stack]]
    return np.array(rows, np.int32)


def visibility_of(kind, size):
    """Of both rows; None where it is the stack's own."""
    if kind not in ("prefix", "blocks"):
        return None
    one = Visibility.prefix(size, PREFIX) if kind == "prefix" else Visibility.causal(size)
    if kind == "blocks":
        one = one.replace(groups=np.arange(size) // GROUP)
    return jax.tree.map(lambda x: np.stack([x, x]).astype(np.int32), one)


def sees(name, stack) -> np.ndarray:
    """Bool[B, T, T]: by definition, which keys a query's logits depend on."""
    segments = segments_of(stack)
    query, key = np.indices((segments.shape[1],) * 2)
    allowed = {
        "all": key >= 0,
        "causal": key <= query,
        "prefix": (key <= query) | (key < PREFIX),
        "blocks": (key <= query) | (key // GROUP == query // GROUP),
    }[getattr(CASES[name], stack)]
    return allowed & (segments[:, :, None] == segments[:, None, :])


def changed(batch, stack, where):
    """The batch with other tokens there."""
    tokens = getattr(batch, f"{stack}_input_tokens")
    other = np.where(where, (tokens + 1) % VOCAB, tokens)
    return batch.replace(**{f"{stack}_input_tokens": other})


def moved(name, before, batch):
    """Bool[B, T]: where the logits are not the very same bits."""
    return (logits_of(name, batch) != before).any(axis=-1)


@every_case
def test_logits_are_those_of_the_numpy_reference(name):
    assert_as_in_the_reference(name, batch_of(name))


@pytest.mark.parametrize("name", ["t5_1_0", "t5gemma2"])
def test_a_decoder_segment_whose_encoder_segment_is_missing_sees_nothing_of_the_encoder(name):
    """Not even padding, though the softmax would then have nothing to sum over."""
    batch = batch_of(name)
    segments = np.asarray(batch.encoder_segment_ids)
    alone = batch.replace(encoder_segment_ids=np.where(segments == 2, 0, segments))
    assert_as_in_the_reference(name, alone)


def assert_as_in_the_reference(name, batch):
    model, params, _ = made(name)
    ours = logits_of(name, batch)
    real = segments_of(model.stack) > 0  # what padding positions compute is nobody's business
    for row in range(len(real)):
        example = jax.tree.map(lambda x, row=row: x[row], batch)
        expected = reference.logits(params, example, model.config)[real[row]]
        np.testing.assert_allclose(ours[row][real[row]], expected, rtol=1e-9, atol=1e-9)


@every_case
def test_a_token_reaches_the_positions_that_see_it_and_no_others(name):
    """Layer 0 is global, so that windows do not show here."""
    stack, batch = made(name)[0].stack, batch_of(name)
    before, seen = logits_of(name, batch), sees(name, stack)
    real = segments_of(stack) > 0
    for place in range(real.shape[1]):
        there = np.arange(real.shape[1]) == place
        reached = moved(name, before, changed(batch, stack, there))
        np.testing.assert_array_equal(reached[real], seen[:, :, place][real], str(place))


@pytest.mark.parametrize("name", [name for name in CASES if len(stacks_of(name)) == 2])
def test_an_input_reaches_its_segment_of_the_decoder_and_no_other(name):
    batch = batch_of(name)
    before = logits_of(name, batch)
    inputs, outputs = segments_of("encoder"), segments_of("decoder")
    for place in range(inputs.shape[1]):
        there = np.arange(inputs.shape[1]) == place
        reached = moved(name, before, changed(batch, "encoder", there))
        expected = outputs == inputs[:, place, None]
        np.testing.assert_array_equal(reached[outputs > 0], expected[outputs > 0], str(place))


@every_case
@pytest.mark.parametrize("number", [1, 2])
def test_nothing_of_the_rest_of_a_row_reaches_a_segment(number, name):
    """Neither tokens nor positions of the other document and of the padding."""
    batch = batch_of(name)
    before, other = logits_of(name, batch), batch
    for stack in stacks_of(name):
        elsewhere = segments_of(stack) != number
        other = changed(other, stack, elsewhere)
        positions = getattr(batch, f"{stack}_positions")
        if positions is not None:
            further = np.where(elsewhere, positions + 2, positions)
            other = other.replace(**{f"{stack}_positions": further})
    own = segments_of(made(name)[0].stack) == number
    reached = moved(name, before, other)
    assert not reached[own].any()
    assert reached[~own].all()


@every_case
def test_what_padding_holds_reaches_nothing(name):
    batch = batch_of(name)
    before, other = logits_of(name, batch), batch
    for stack in stacks_of(name):
        other = changed(other, stack, segments_of(stack) == 0)
    real = segments_of(made(name)[0].stack) > 0
    assert not moved(name, before, other)[real].any()


@pytest.mark.parametrize("architecture", ["encoder_decoder", "encoder", "decoder"])
def test_every_variation_has_a_case_in_every_architecture(architecture):
    """Every option by name, both answers to yes or no, two values at least of what else varies."""
    models = [made(n)[0].config for n in CASES if CASES[n].fields["architecture"] == architecture]
    same = {"architecture", *SIZES, *COMPUTED}
    same |= OF_BOTH_STACKS if architecture != "encoder_decoder" else set()
    for name, kind in typing.get_type_hints(jd.ModelConfig).items():
        options = {True, False} if kind is bool else set(typing.get_args(kind))
        found = {getattr(model, name) for model in models}
        if name in same:
            continue
        if kind is bool or typing.get_origin(kind) is typing.Literal:
            assert found == options, name
        assert len(found) > 1, name

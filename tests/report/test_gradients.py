"""What receives gradient and what receives exactly none, by routing; and how it is drawn."""

import functools
import io

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxdenoise as jd
from jaxdenoise.arrays import Example
from jaxdenoise.cli import main
from jaxdenoise.experiment import to_dict
from jaxdenoise.objectives import objectives
from jaxdenoise.report.display import render_example
from jaxdenoise.report.gradients import GradientFlow, gradient_flow
from jaxdenoise.report.heat import draw_flow
from jaxdenoise.tokenizer import train_tokenizer
from jaxdenoise.training.run_directory import write_json
from jaxdenoise.vocabulary import Vocabulary

SIZE, LENGTH = 12, 10  # of a row, and of its tokens
VOCAB = Vocabulary.with_sentinels(size=200, sentinels=9, mask_id=2)
MODELS = {
    "causal_lm": jd.decoder(vocab=VOCAB, width=16, layers=2, positions="rotary"),
    "causal_prefix_lm": jd.decoder(vocab=VOCAB, width=16, layers=2, positions="rotary"),
    "masked_lm": jd.encoder(vocab=VOCAB, width=16, layers=2),
    "span_corruption": jd.encoder_decoder(
        vocab=VOCAB, width=16, layers=2, shared_embedding=False, tied_embeddings=False
    ),
}
SELECTIONS = ("own", "none", "all, backwards")


@functools.cache
def example_of(name: str) -> Example:
    tokens = np.random.default_rng(0).integers(10, 180, SIZE).astype(np.int32)
    options = {"longest_output": 0.5} if name == "causal_prefix_lm" else {}
    objective = objectives[name](vocab=VOCAB, **options)
    return jax.device_get(jax.jit(objective)(jax.random.key(2), tokens, LENGTH))


def selecting(example: Example, selection: str) -> Example:
    """A decoder's example with its own selection, none, or all positions in another order."""
    backwards = np.arange(SIZE, dtype=np.int32)[::-1].copy()
    other = {"none": None, "all, backwards": backwards}
    changes = {} if selection == "own" else {"decoder_selected": other[selection]}
    return example.replace(**changes)


@functools.cache
def flow_of(name: str, gradients: str = "full", selection: str = "own") -> GradientFlow:
    example = selecting(example_of(name), selection)
    return gradient_flow(MODELS[name], params_of(MODELS[name]), example, gradients=gradients)


@functools.cache
def params_of(model: jd.Model):
    return model.init(jax.random.key(0))


def received(norms: np.ndarray) -> np.ndarray:
    """Bool: above 0, and not exactly 0."""
    assert np.isfinite(norms).all()
    assert (norms >= 0).all()
    return norms > 0


def assert_reaches(norms: np.ndarray, expected: np.ndarray) -> None:
    """Norms [N, layers, T] are above 0 where Bool[N, T] says, in every layer, and 0 elsewhere."""
    every_layer = np.broadcast_to(expected[:, None], norms.shape)
    np.testing.assert_array_equal(received(norms), every_layer)


def trained(flow: GradientFlow) -> dict[str, bool]:
    """Which modules receive from all targets together; all layers of one do, or none."""
    reached = {name: received(norms).any(axis=0) for name, norms in flow.modules.items()}
    assert all(layers.all() == layers.any() for layers in reached.values())
    return {name: bool(layers.all()) for name, layers in reached.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal_lm", "causal_prefix_lm"])
def test_a_decoder_receives_at_and_before_a_target_and_not_behind(name):
    flow, weights = flow_of(name), example_of(name).decoder_loss_weights
    np.testing.assert_array_equal(flow.places, np.flatnonzero(weights))
    np.testing.assert_array_equal(flow.tokens, example_of(name).decoder_target_tokens[flow.places])
    assert flow.number == len(flow.places) > 2
    assert flow.places[0] == 0 if name == "causal_lm" else flow.places[0] > 2
    # The prefix is before every target, the padding behind.
    assert_reaches(flow.positions["decoder"], np.arange(SIZE) <= flow.places[:, None])
    assert all(trained(flow).values())
    assert flow.silent_parameters == 0


@pytest.mark.parametrize("selection", SELECTIONS)
def test_output_only_gives_the_context_nothing(selection):
    flow = flow_of("causal_prefix_lm", "output_only", selection)
    predicts = example_of("causal_prefix_lm").decoder_loss_weights > 0
    assert 2 < predicts.sum() < 6  # with room for six, one of the context is selected too
    assert_reaches(flow.positions["decoder"], predicts & (np.arange(SIZE) <= flow.places[:, None]))
    assert all(trained(flow).values())


@pytest.mark.parametrize("selection", SELECTIONS[1:])
def test_one_stream_or_two_are_the_same_gradient(selection):
    split = flow_of("causal_prefix_lm", "output_only")
    other = flow_of("causal_prefix_lm", "output_only", selection)
    np.testing.assert_array_equal(split.tokens, other.tokens)
    for ours, theirs in ((split.positions, other.positions), (split.modules, other.modules)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, theirs)


@pytest.mark.slow
def test_an_encoder_receives_everywhere_but_in_padding():
    flow = flow_of("masked_lm")
    expected = np.broadcast_to(np.arange(SIZE) < LENGTH, (len(flow.places), SIZE))
    assert_reaches(flow.positions["encoder"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["full", "encoder", "decoder"])
def test_a_stopped_stack_receives_nothing(gradients):
    """Its parameters do not; a stopped decoder still passes gradient on."""
    flow, example = flow_of("span_corruption", gradients), example_of("span_corruption")
    real = example.encoder_segment_ids > 0
    assert not real.all()
    expected = real if gradients != "decoder" else np.zeros_like(real)
    assert_reaches(flow.positions["encoder"], np.tile(expected, (len(flow.places), 1)))
    size = len(example.decoder_segment_ids)
    assert_reaches(flow.positions["decoder"], np.arange(size) <= flow.places[:, None])

    encoders = {n: n == "embedding" or n.startswith("encoder") for n in flow.modules}
    others = {"encoder": encoders, "decoder": {n: not mine for n, mine in encoders.items()}}
    assert trained(flow) == others.get(gradients, dict.fromkeys(encoders, True))
    total = sum(size.sum() for size in flow.sizes.values())
    silent = sum(flow.sizes[name].sum() for name, mine in trained(flow).items() if not mine)
    assert flow.silent_parameters == silent / total


def test_sizes_count_the_parameters():
    params = params_of(MODELS["span_corruption"])
    sizes = flow_of("span_corruption").sizes
    assert sum(size.sum() for size in sizes.values()) == sum(map(np.size, jax.tree.leaves(params)))
    assert sizes["encoder.mlp_norm"].tolist() == [16, 16]


def test_targets_come_in_order_the_selected_alone_the_first_if_asked():
    flow, model = flow_of("causal_lm"), MODELS["causal_lm"]
    example = example_of("causal_lm").replace(decoder_selected=np.array([7, 11, 4, 1], np.int32))
    some = gradient_flow(model, params_of(model), example, first=2)
    assert (some.places.tolist(), some.number) == ([1, 4], 3)  # 11 is padding
    np.testing.assert_allclose(
        some.positions["decoder"], flow.positions["decoder"][[1, 4]], rtol=1e-5
    )


def test_no_target_and_a_wrong_routing_are_refused():
    model = MODELS["causal_lm"]
    params, example = params_of(model), example_of("causal_lm")
    weightless = example.replace(decoder_loss_weights=np.zeros(SIZE, np.float32))
    with pytest.raises(jd.UserError, match="no targets"):
        gradient_flow(model, params, weightless)
    with pytest.raises(jd.UserError, match="they can be full, output_only"):
        gradient_flow(model, params, example, gradients="encoder")


def printed(renderable, width: int, **console) -> str:
    file = io.StringIO()
    Console(width=width, file=file, highlight=False, **console).print(renderable)
    return file.getvalue()


def drawing(entrance: np.ndarray, width: int, **fields) -> list[str]:
    """The lines of a decoder's maps: one layer, padding at the end."""
    count, size = entrance.shape
    padded = np.pad(entrance, ((0, 0), (0, 2)))
    flow = GradientFlow(
        gradients="full",
        stack="decoder",
        places=np.arange(count),
        tokens=np.arange(count) + 50,
        positions={"decoder": padded[:, None].astype(np.float32)},
        modules={
            "decoder.mlp": np.array([[1.0, 0.0]] * count, np.float32),
            "projection": np.full(count, 1e-20, np.float32),
        },
        sizes={"decoder.mlp": np.array([30, 50]), "projection": np.array(20)},
        **{"number": count, **fields},
    )
    example = Example(
        decoder_input_tokens=np.arange(size + 2),
        decoder_segment_ids=np.arange(size + 2) < size,
    )
    return [
        line.rstrip() for line in printed(draw_flow(flow, example, str, width), width).splitlines()
    ]


def test_zero_is_a_dot_and_anything_above_it_a_shade():
    lines = drawing(np.array([[1.0, 0.34, 0.33, 0.12, 0.11, 0.04, 0.03, 1e-30, 0.0]]), 60)
    assert lines[0].startswith("gradients full: 1 of 9 decoder positions (11%) and 50% of")
    row = next(line for line in lines if line.startswith("50"))
    assert row.split()[1:] == list("██▓▓▒▒░░·")  # padding is not drawn
    assert "mlp     █ ·" in lines
    assert lines[-1] == "projection ░"


def test_what_is_not_finite_is_told():
    lines = drawing(np.array([[np.nan, 1.0, 0.0]]), 60)
    assert "? is infinite or not a number." in lines
    assert next(line for line in lines if line.startswith("50")).split()[1:] == list("?█·")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_wide_map_is_folded_and_cut_with_a_note(width):
    norms = np.ones((1, 500))
    norms[:, 200:] = 0
    lines = drawing(norms, width, number=30)
    assert max(map(len, lines)) <= width
    assert "the first 1 of 30 targets; only those are drawn." in " ".join(lines)
    fits = width - len("layer 0 ")
    drawn = [line.split()[1] for line in lines if line.startswith("50 ")]
    assert len(drawn) == min(3, -(-200 // fits))
    assert drawn[0] == "█" * fits
    assert f"positions 0 to {fits - 1} of 500" in lines
    told = [line for line in lines if "exactly 0" in line or "no room" in line]
    assert len(told) == 2  # the scale's line, and what is not drawn
    assert ("no room" in told[1]) == (width == 60)


def test_a_lone_decoder_is_shown_with_its_context_dim():
    tokenizer = train_tokenizer(["a b c"], vocabulary_size=300, sentinels=9)
    ids = tokenizer.encode("abcd")
    example = Example(
        decoder_input_tokens=np.array([0, *ids[:3], 0]),
        decoder_target_tokens=np.array([*ids, 0]),
        decoder_loss_weights=np.array([0.0, 0, 1, 1, 0]),
        decoder_segment_ids=np.array([1, 1, 1, 1, 0]),
    )
    losses = np.array([0, 0, 2.5, 5, 0])
    plain = [
        " ".join(x.split())
        for x in printed(render_example(example, tokenizer, losses), 60).splitlines()
    ]
    assert plain[:4] == [
        "source abcd",
        "inputs <pad>abc",
        "targets abcd",
        "weights 2 of weight 1, 3 of weight 0",
    ]
    assert plain[5:] == ["decoder reads predicts loss", "b c 2.50 ███", "c d 5.00 ██████"]
    coloured = printed(render_example(example, tokenizer), 60, force_terminal=True)
    targets = next(line for line in coloured.splitlines() if "targets" in line)
    assert "\x1b[2mab\x1b[0mcd" in targets.replace("\x1b[2ma\x1b[0m\x1b[2mb", "\x1b[2mab")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs `jaxdenoise show`: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    tokenizer = train_tokenizer(["the sum of it"], vocabulary_size=300, sentinels=9)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")

    def run(*args: str) -> tuple[int, str, str]:
        status = main(["show", *args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.mark.slow
def test_show_draws_the_gradients_of_a_fresh_model(command):
    text = ("--text", "the sum [red] of", "--tokenizer", "tokenizer.json")
    status, out, err = command("causal_prefix_lm", "--gradients", "output_only", *text)
    assert (status, err) == (0, "")
    assert "A fresh decoder of 3 layers" in out
    assert "relative_bias" not in out  # its positions are rotary
    lines = out.splitlines()
    scale = next(n for n, line in enumerate(lines) if line.startswith("gradients output_only: "))
    silent, of = (int(word) for word in lines[scale].split() if word.isdigit())
    assert 0 < silent < of
    layer = next(line for line in lines if line.startswith("layer 0"))
    cells = layer.removeprefix("layer 0").split()
    assert len(cells) == of
    assert [cell == "·" for cell in cells] == [True] * silent + [False] * (of - silent)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["masked_lm", "--gradients", "output_only"], "architecture encoder they can be full"),
        (["causal_lm", "--gradients", "encoder"], "they can be full, output_only"),
        (["span_corruption", "--gradients", "output_only"], "they can be full, encoder, decoder"),
        (["causal_lm", "--gradients", "both"], "'both'"),
        (["causal_lm", "--gradients"], "--gradients has no value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_routing_is_one_line(args, message, command):
    status, out, err = command(*args, "--tokenizer", "tokenizer.json")
    assert (status, out) == (2, "")
    assert err.startswith("jaxdenoise: ")
    assert err.count("\n") == 1
    assert message in err


def test_show_draws_the_gradients_of_a_runs_model(command, tiny, tmp_path, monkeypatch):
    """A run's directory without a checkpoint: training takes longer than all the rest."""
    saved = {"name": "run", "experiment": to_dict(tiny), "store": {}}
    write_json(tmp_path / "config.json", saved)

    def restore(run, experiment, model):
        """Parameters that give all hidden states 0, so that the last norm alone has a gradient."""
        params = model.init(jax.random.key(0))
        norm = jax.tree.map(np.zeros_like, params["decoder"]["norm"])
        return params | {"decoder": params["decoder"] | {"norm": norm}}

    monkeypatch.setattr("jaxdenoise.training.weights.restore_params", restore)
    text = ("--text", "the sum of it", "--run", ".")
    status, out, err = command("span_corruption", "--gradients", "decoder", *text)
    assert (status, err) == (0, "")
    assert "decoder reads" in out
    assert "fresh" not in out
    assert "gradients decoder: " in out
    assert ">99% of the parameters" in out
    assert "decoder.norm █" in out
    assert "projection ·" in out

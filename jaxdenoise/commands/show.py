"""jaxdenoise show OBJECTIVE [--text …]: see a corruption, every token's loss, what gradients reach.

Losses need a run; gradients take its model, or a fresh small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from jaxdenoise.commands.console import make_console
from jaxdenoise.config import Gradients
from jaxdenoise.errors import require
from jaxdenoise.experiment import Experiment, load_experiments
from jaxdenoise.flags import parse_flags, split_flags, take_single
from jaxdenoise.objectives import ObjectiveConfig, objectives
from jaxdenoise.training.run_directory import RunDirectory, open_run

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Rows
    from jaxdenoise.model.model import Model
    from jaxdenoise.tokenizer import Tokenizer
    from jaxdenoise.vocabulary import Vocabulary

USAGE = """usage: jaxdenoise show OBJECTIVE [--text "…"] [--run RUN] [--gradients ROUTING]
                       [--objective.FIELD value …]

Shows what an objective makes of a text: source, inputs, targets, weights. With the directory of a
run, its tokenizer and model are used and every target gets its loss; without a text, the first rows
are shown that the run was trained on. `--gradients full` (or output_only, encoder, decoder) draws
which positions, layers and parameters receive gradient from which targets, in the run's model or a
fresh one. `--module NAME` imports one of yours first; `jaxdenoise show OBJECTIVE --help` lists all
flags.
"""
FRESH_WIDTH, FRESH_LAYERS = 64, 3  # of the model whose gradients are drawn without a run
FRESH = f"""
A fresh {{}} of {FRESH_LAYERS} layers, width {FRESH_WIDTH}, seed {{}}: it tells what flows where, \
not how much in training."""
SENTENCE = "Thank you for inviting me to your party last week, it was a pleasure to be there."


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """See a corruption.

    Attributes:
      objective: its fields; with a run of the same objective, that run's.
      text: what to corrupt; by default a run's training rows, or a sentence.
      run: a run's directory: use its tokenizer, and give every target's loss.
      tokenizer: otherwise the corpus, or the path of a tokenizer.json.
      draws: how many corruptions of the text, each from its own key; or how many rows.
      seed: of the draws of a text, and of a fresh model.
      gradients: draw what receives gradient from which targets; `training.gradients` says what the
        names mean.
      module: Python modules that register objectives of your own.
    """

    objective: ObjectiveConfig
    text: str | None = None
    run: str | None = None
    tokenizer: str = "pydocs"
    draws: int = 1
    seed: int = 0
    gradients: Gradients | None = None
    module: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.draws >= 1, f"draws is {self.draws}; it must be at least 1")
        require(self.text != "", "text is empty; give some")


def run(args: Sequence[str]) -> int:
    """Prints the corrupted text."""
    if not args or args[0].startswith("-"):
        print(USAGE)
        return 0 if "--help" in args or "-h" in args else 2
    name, *rest = args
    given = split_flags([arg for arg in rest if arg not in ("--help", "-h")])
    load_experiments(tuple(given.get("module", ())))
    objective = objectives[name].config()
    if "run" in given:  # the run's own options, where it has the same objective
        trained = open_run(take_single(given, "run") or "")[2].objective
        objective = trained if trained.name == name else objective
    default = ShowOptions(objective=objective)
    options = parse_flags(default, rest, program=f"jaxdenoise show {name}")
    _show(options, make_console())
    return 0


def _show(options: ShowOptions, console: Console) -> None:
    opened = open_run(options.run) if options.run else None

    import jax
    import numpy as np

    from jaxdenoise.data.store import load_tokenizer
    from jaxdenoise.model.model import build_model
    from jaxdenoise.report.display import render_example, render_gradients
    from jaxdenoise.training.run import restore_params
    from jaxdenoise.training.step import corrupt, token_losses

    tokenizer = load_tokenizer(opened[0].path if opened else options.tokenizer)
    objective = options.objective.build(tokenizer.vocab)
    rows = _rows(options, opened, tokenizer, console)
    batch = jax.jit(lambda rows: corrupt(objective, rows))(rows)  # compiled, seconds sooner
    model = params = losses = None
    note = ""
    if opened:
        model = build_model(opened[2].model, tokenizer.vocab)
        model.check(batch)
        params = restore_params(opened[0], opened[2], model)
        losses = np.asarray(jax.jit(token_losses, static_argnums=0)(model, params, batch))
    elif options.gradients is not None:
        model = _fresh_model(batch, tokenizer.vocab)
        note = FRESH.format(model.config.architecture, options.seed)
    if options.gradients is not None and model is not None:
        model.check(batch, options.gradients)  # before anything is printed
        params = model.init(jax.random.key(options.seed)) if params is None else params
    for draw in range(len(rows.lengths)):
        example = jax.tree.map(lambda x, draw=draw: np.asarray(x[draw]), batch)
        if draw:
            console.rule(style="dim")
        loss = None if losses is None else losses[draw]
        source = np.asarray(rows.tokens[draw])[: int(rows.lengths[draw])]
        console.print(render_example(example, tokenizer, loss, source))
        if options.gradients is not None and model is not None:
            console.print(note, style="dim")
            drawn = {"gradients": options.gradients, "width": console.width}
            console.print(render_gradients(model, params, example, tokenizer=tokenizer, **drawn))


def _rows(
    options: ShowOptions,
    opened: tuple[RunDirectory, str, Experiment] | None,
    tokenizer: Tokenizer,
    console: Console,
) -> Rows:
    """The run's first training rows, or the text as often as asked."""
    import jax
    import numpy as np

    from jaxdenoise.arrays import Rows
    from jaxdenoise.data.store import prepare
    from jaxdenoise.training.setup import build

    if opened and options.text is None:
        store = prepare(opened[2].data, console=console)
        opened[0].check(opened[2], store.manifest)
        setup = build(opened[2], store)
        return jax.tree.map(lambda x: x[: options.draws], setup.batches[0])
    ids = tokenizer.encode(options.text or SENTENCE)
    return Rows(
        tokens=np.tile(ids, (options.draws, 1)),
        lengths=np.full(options.draws, len(ids), np.int32),
        example_ids=np.arange(options.draws, dtype=np.uint32),
        epochs=np.zeros(options.draws, np.uint32),
        seed=options.seed,
    )


def _fresh_model(batch: Example, vocab: Vocabulary) -> Model:
    """A small model of the architecture that the examples are for."""
    from jaxdenoise.model import model as models

    size = {"width": FRESH_WIDTH, "layers": FRESH_LAYERS}
    if batch.decoder_target_tokens is None:
        return models.encoder(vocab=vocab, **size)
    if batch.encoder_input_tokens is None:
        return models.decoder(vocab=vocab, positions="rotary", **size)
    return models.encoder_decoder(vocab=vocab, **size)

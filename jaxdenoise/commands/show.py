"""jaxdenoise show OBJECTIVE [--text …]: see a corruption, every token's loss, what gradients reach.

Losses need a run; gradients take its model, or a fresh small one. `show --all` is a gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_rows import SourceOptions, read_rows
from jaxdenoise.config import Gradients
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, load_experiments
from jaxdenoise.flags import parse_flags, split_flags, take_single
from jaxdenoise.objectives import ObjectiveConfig, objectives
from jaxdenoise.training.run_directory import RunDirectory, open_run

if TYPE_CHECKING:
    from jaxdenoise.arrays import Example, Params, Rows
    from jaxdenoise.model.model import Model
    from jaxdenoise.objectives import Objective
    from jaxdenoise.tokenizer import Tokenizer
    from jaxdenoise.vocabulary import Vocabulary

USAGE = """usage: jaxdenoise show OBJECTIVE [--text "…" | --file FILE | --corpus NAME]
                       [--raw-length L] [--run RUN] [--gradients ROUTING]
                       [--objective.FIELD value …]
       jaxdenoise show --all [--text "…" | --file FILE | --corpus NAME] [--raw-length L]
                       [--page FILE.html]

Shows what an objective makes of a text: source, inputs, targets, weights, then statistics of many
corruptions of it: how much is corrupted, in spans of which lengths, how long inputs and targets are
and how much of them is padding. With the directory of a run, its tokenizer and model are used and
every target gets its loss; without a text, the first rows are shown that the run was trained on.
`--gradients full` (or output_only, encoder, decoder) draws which positions, layers and parameters
receive gradient from which targets, in the run's model or a fresh one. `--module NAME` imports one
of yours first; `jaxdenoise show OBJECTIVE --help` lists all flags.

`--all` shows every objective, with its own defaults, on the same sentences, and compares them in a
table; `--page` writes that as one HTML page, which opens offline.
"""
FRESH_WIDTH, FRESH_LAYERS = 64, 3  # of the model whose gradients are drawn without a run
FRESH = f"""
A fresh {{}} of {FRESH_LAYERS} layers, width {FRESH_WIDTH}, seed {{}}: it tells what flows where, \
not how much in training."""
SENTENCE = "Thank you for inviting me to your party last week, it was a pleasure to be there."
SENTENCES = (
    "Thank you for inviting me to your party last week. It was a pleasure to be there. I hope to "
    "see you all again soon!"
)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(SourceOptions):
    """See a corruption.

    Attributes:
      objective: its fields; with a run of the same objective, that run's.
      run: a run's directory: use its tokenizer, and give every target's loss.
      draws: how many corruptions of the text, each from its own key; or how many rows.
      gradients: draw what receives gradient from which targets; `training.gradients` says what the
        names mean.
    """

    objective: ObjectiveConfig
    run: str | None = None
    draws: int = 1
    gradients: Gradients | None = None

    def __post_init__(self):
        super().__post_init__()
        require(self.draws >= 1, f"draws is {self.draws}; it must be at least 1")
        require(
            self.run is None or self.raw_length is None or self.given,
            f"raw_length is {self.raw_length}, but a run's own rows have its data.raw_length; give "
            "a text, file or corpus too, or leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class GalleryOptions(SourceOptions):
    """See every objective on the same rows.

    Attributes:
      page: an HTML file to write it to.
    """

    page: str | None = None


def run(args: Sequence[str]) -> int:
    """Prints the corrupted text."""
    if "--all" in args:
        return _run_gallery([arg for arg in args if arg != "--all"])
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
    options.check_files()
    _show(options, make_console())
    return 0


def _run_gallery(args: Sequence[str]) -> int:
    """Prints every objective, or writes the page."""
    if args and not args[0].startswith("-"):
        raise UserError(
            f"'{args[0]}' and --all are both given; leave out one: --all shows every objective"
        )
    given = split_flags([arg for arg in args if arg not in ("--help", "-h")])
    for name in given:
        require(
            not name.startswith("objective"),
            f"--all shows every objective with its own defaults, and takes no {name}; name one to "
            "set its fields: jaxdenoise show OBJECTIVE --objective.FIELD value",
        )
    options = parse_flags(GalleryOptions(), args, program="jaxdenoise show --all")
    options.check_files()
    if options.page is not None:
        place = Path(options.page)
        require(
            place.parent.is_dir() and not place.is_dir(),
            f"page is '{place}', where no file can be written; give one in a folder that exists",
        )
    load_experiments(options.module)
    _show_all(options, make_console())
    return 0


def _show(options: ShowOptions, console: Console) -> None:
    opened = open_run(options.run) if options.run else None

    import jax
    import numpy as np

    from jaxdenoise.report.display import render_example, render_gradients
    from jaxdenoise.report.figures import render_statistics
    from jaxdenoise.report.statistics import DRAWS, corrupt_rows, count, repeat
    from jaxdenoise.training.step import token_losses

    rows, tokenizer, objective = _rows(options, opened, console)
    # A text is drawn several times; of other rows there are several.
    whole = options.text is not None or not (options.given or opened)
    shown = options.draws * len(rows.lengths) if whole else min(options.draws, len(rows.lengths))
    rows = repeat(rows, max(DRAWS, shown))
    batch = corrupt_rows(objective, rows)
    first = jax.tree.map(lambda x: x[:shown], batch)
    model, params = _model(options, opened, first, tokenizer.vocab)
    losses = None
    if opened and model is not None:
        losses = np.asarray(jax.jit(token_losses, static_argnums=0)(model, params, first))
    for draw in range(shown):
        example = jax.tree.map(lambda x, draw=draw: x[draw], first)
        if draw:
            console.rule(style="dim")
        loss = None if losses is None else losses[draw]
        source = np.asarray(rows.tokens[draw])[: int(rows.lengths[draw])]
        console.print(render_example(example, tokenizer, loss, source))
        if options.gradients is not None and model is not None:
            note = "" if opened else FRESH.format(model.config.architecture, options.seed)
            console.print(note, style="dim")
            drawn = {"gradients": options.gradients, "width": console.width}
            console.print(render_gradients(model, params, example, tokenizer=tokenizer, **drawn))
    console.print()
    console.print(render_statistics(count(batch, rows, tokenizer.vocab)))


def _model(
    options: ShowOptions,
    opened: tuple[RunDirectory, str, Experiment] | None,
    batch: Example,
    vocab: Vocabulary,
) -> tuple[Model | None, Params]:
    """The run's model, or a fresh one where gradients are drawn; checked before all printing."""
    import jax

    from jaxdenoise.model.model import build_model
    from jaxdenoise.training.weights import restore_params

    if opened is None and options.gradients is None:
        return None, None
    model = build_model(opened[2].model, vocab) if opened else _fresh_model(batch, vocab)
    model.check(batch, options.gradients or "full")
    if opened:
        return model, restore_params(opened[0], opened[2], model)
    return model, model.init(jax.random.key(options.seed))


def _show_all(options: GalleryOptions, console: Console) -> None:
    from jaxdenoise.report.display import render_lines
    from jaxdenoise.report.figures import render_comparison, statistics_line
    from jaxdenoise.report.gallery import Entry, gallery
    from jaxdenoise.report.statistics import DRAWS, repeat

    rows, tokenizer = read_rows(options, options.tokenizer, SENTENCES, console)
    entries, refused = [], []
    for shown in gallery(repeat(rows, DRAWS), tokenizer):
        console.print(shown.name, style="bold cyan")
        console.print(shown.description, style="dim")
        if isinstance(shown, Entry):
            entries.append(shown)
            console.print(render_lines(shown.lines, shown.weights))
            console.print(statistics_line(shown.statistics), style="dim")
        else:
            refused.append(shown)
            console.print(f"not shown: {shown.reason}")
        console.print()
    statistics = {entry.name: entry.statistics for entry in entries}
    if entries:
        console.print(render_comparison(statistics, console.width))
    if options.page is not None:
        from jaxdenoise.report.gallery_page import write_gallery

        write_gallery(entries, refused, Path(options.page))
        console.print(f"page: {options.page}", soft_wrap=True)


def _rows(
    options: ShowOptions, opened: tuple[RunDirectory, str, Experiment] | None, console: Console
) -> tuple[Rows, Tokenizer, Objective]:
    """The first batch that the run was trained on, or what the options give; and the objective."""
    if opened is None or options.given:
        source = opened[0].path if opened else options.tokenizer
        rows, tokenizer = read_rows(options, source, SENTENCE, console)
        return rows, tokenizer, options.objective.build(tokenizer.vocab)

    from jaxdenoise.data.store import load_tokenizer, prepare
    from jaxdenoise.training.setup import build, one_by_one

    store = prepare(opened[2].data, console=console)
    opened[0].check(opened[2], store.manifest)
    setup, tokenizer = build(opened[2], store), load_tokenizer(opened[0].path)
    objective = options.objective.build(tokenizer.vocab)
    return one_by_one(setup.batches[0]), tokenizer, setup.fit(objective)


def _fresh_model(batch: Example, vocab: Vocabulary) -> Model:
    """A small model of the architecture that the examples are for."""
    from jaxdenoise.model import model as models

    size = {"width": FRESH_WIDTH, "layers": FRESH_LAYERS}
    if batch.decoder_target_tokens is None:
        return models.encoder(vocab=vocab, **size)
    if batch.encoder_input_tokens is None:
        return models.decoder(vocab=vocab, positions="rotary", **size)
    return models.encoder_decoder(vocab=vocab, **size)

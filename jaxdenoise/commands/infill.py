"""jaxdenoise infill RUN --text "…<mask>…": a trained model fills the blanks."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_results import print_choices, print_pieces
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import load_experiments
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.training.run_directory import open_run

USAGE = """usage: jaxdenoise infill RUN --text "Return the <mask> of the array." [MORE …]

Fills each <mask>, from the newest checkpoint of a run. An encoder-decoder with sentinels writes any
number of tokens, greedily; one that writes whole texts anew, as BART does, gives the text with
what it wrote otherwise in brackets; an encoder one for each, all at once or, with --rounds N, those
it is surest of first, and with --top-k N the likeliest N and their probabilities; a decoder goes on
where the text ends, so that <mask> stands there, and one that was trained by fill_in_the_middle
writes between what stands around it. `--module NAME` imports the module that registered the run's
objective, where it is one of yours.
"""


def run(args: Sequence[str]) -> int:
    """Prints the texts with their blanks filled."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    flags = split_flags(args[1:])
    load_experiments(tuple(flags.pop("module", ())))
    directory, _, experiment = open_run(args[0])
    texts = flags.pop("text", [])
    top_k, rounds = (_number(name, take_single(flags, name)) for name in ("top_k", "rounds"))
    refuse_others(flags, "infill", ["text", "top-k", "rounds", "module"])
    require(bool(texts), 'give a text with blanks: --text "Return the <mask> of the array."')

    from jaxdenoise.training.blanks import fill_blanks, writes_anew
    from jaxdenoise.training.weights import restore_model

    model, params, tokenizer = restore_model(directory, experiment)
    console, objective = make_console(), experiment.objective
    options = objective.options()
    needs = objective.recipe.needs(**options)
    masks = model.config.architecture == "encoder_decoder" and "mask" in needs
    filled = fill_blanks(
        model,
        params,
        tokenizer,
        texts,
        top_k=top_k,
        rounds=1 if rounds is None else rounds,
        blocks_of=options["block_length"] if objective.name == "block_diffusion" else None,
        middles="fim_middle" in needs,
        anew=masks and writes_anew(objective.build(tokenizer.vocab), experiment.data.raw_length),
    )
    for pieces in filled:
        print_pieces(pieces, console)
        print_choices(pieces, console)
    return 0


def _number(name: str, given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isdecimal():
        flag = name.replace("_", "-")
        raise UserError(f"--{flag} is '{given}'; it must be a whole number, such as 5")
    return int(given)

"""jaxdenoise infill RUN --text "…<mask>…": a trained model fills the blanks."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_results import print_pieces
from jaxdenoise.errors import require
from jaxdenoise.experiment import load_experiments
from jaxdenoise.flags import refuse_others, split_flags
from jaxdenoise.training.run_directory import open_run

USAGE = """usage: jaxdenoise infill RUN --text "Return the <mask> of the array." [MORE …]

Fills each <mask> with greedy decoding, from the newest checkpoint of a run. `--module NAME`
imports the module that registered the run's objective, where it is one of yours.
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
    refuse_others(flags, "infill", ["text", "module"])
    require(bool(texts), 'give a text with blanks: --text "Return the <mask> of the array."')

    from jaxdenoise.model.model import build_model
    from jaxdenoise.tokenizer import read_tokenizer
    from jaxdenoise.training.run import restore_params
    from jaxdenoise.training.samples import fill_blanks

    tokenizer = read_tokenizer(directory.tokenizer, separator=False)
    model = build_model(experiment.model, tokenizer.vocab)
    params = restore_params(directory, experiment, model)
    console = make_console()
    for pieces in fill_blanks(model, params, tokenizer, texts):
        print_pieces(pieces, console)
    return 0

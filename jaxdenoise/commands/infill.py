"""jaxdenoise infill RUN --text "…<mask>…": a trained model fills the blanks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from jaxdenoise.commands.show_results import print_pieces
from jaxdenoise.errors import require
from jaxdenoise.flags import split_flags
from jaxdenoise.training.run_directory import open_run

USAGE = """usage: jaxdenoise infill RUN --text "Return the <mask> of the array." [MORE …]

Fills each <mask> with greedy decoding, from the newest checkpoint of a run.
"""


def run(args: Sequence[str]) -> int:
    """Prints the texts with their blanks filled."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    directory, _, experiment = open_run(args[0])
    flags = split_flags(args[1:])
    texts = flags.pop("text", [])
    require(not flags, f"infill has no flag --{next(iter(flags), '')}; it takes --text")
    require(bool(texts), 'give a text with blanks: --text "Return the <mask> of the array."')

    from jaxdenoise.model.model import build_model
    from jaxdenoise.tokenizer import read_tokenizer
    from jaxdenoise.training.run import restore_params
    from jaxdenoise.training.samples import fill_blanks

    tokenizer = read_tokenizer(directory.tokenizer)
    model = build_model(experiment.model, tokenizer.vocab)
    params = restore_params(directory, experiment, model)
    console = Console(highlight=False)
    for pieces in fill_blanks(model, params, tokenizer, texts):
        print_pieces(pieces, console)
    return 0

"""jaxdenoise export RUN DIR: a run's model for Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdenoise.commands.console import make_console
from jaxdenoise.errors import require
from jaxdenoise.experiment import load_experiments
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.paths import as_path, is_local
from jaxdenoise.training.run_directory import open_run

USAGE = """usage: jaxdenoise export RUN DIR [--dtype float32]

Writes the newest checkpoint of a run as a folder that `from_pretrained` of Hugging Face's
transformers reads: config.json, model.safetensors, tokenizer.json, generation_config.json. For
shapes that T5, BART or BERT have there.

  --dtype NAME   of the tensors: float32, bfloat16 or float16 (default: as they were imported, or
                 float32)
"""


def run(args: Sequence[str]) -> int:
    """Writes the folder and says what it is."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    require(
        len(args) >= 2 and not any(arg.startswith("-") for arg in args[:2]),
        "give a run and the folder to write, before any flag: jaxdenoise export RUN DIR",
    )
    flags = split_flags(args[2:])
    load_experiments(tuple(flags.pop("module", ())))
    dtype = take_single(flags, "dtype")
    refuse_others(flags, "export", ["dtype", "module"])
    require(is_local(as_path(args[1])), f"'{args[1]}' is not of this machine; give a local folder")
    directory, _, experiment = open_run(args[0])

    from jaxdenoise.huggingface.pretrained import family_of, write_pretrained
    from jaxdenoise.training.weights import origin, restore_model

    family = family_of(experiment.model)
    _, params, tokenizer = restore_model(directory, experiment)
    about = origin(directory) or {}
    dtype = dtype or about.get("dtype", "float32")
    settings = about.get("settings")
    write_pretrained(args[1], experiment.model, params, tokenizer, dtype=dtype, settings=settings)
    console = make_console()
    kind = family.class_of(experiment.model)
    console.print(f"{kind}, {dtype}: {args[1]}", soft_wrap=True)
    console.print(f"  transformers.{kind}.from_pretrained({args[1]!r})", soft_wrap=True)
    return 0

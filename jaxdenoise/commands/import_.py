"""jaxdenoise import DIR: a model of transformers becomes a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdenoise.commands.console import make_console
from jaxdenoise.config import DataConfig, ModelConfig
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, load_experiments
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.objectives import configure
from jaxdenoise.paths import as_path
from jaxdenoise.training.run_directory import RUNS, RunDirectory, open_run

if TYPE_CHECKING:
    from jaxdenoise.arrays import Params
    from jaxdenoise.tokenizer import Tokenizer

    Found = tuple[ModelConfig, Params, Tokenizer, dict[str, Any]]

USAGE = """usage: jaxdenoise import DIR [--run-dir RUN] [--as encoder-decoder]

Reads a T5, a BART or a BERT from a folder of Hugging Face's transformers (config.json, safetensors,
tokenizer.json or spiece.model) and makes a run of it, for infill, export and train --init-from.

  --run-dir RUN          where the run goes (default: runs/ and the folder's name)
  --tokenizer FILE       a tokenizer.json or a .model, where the folder has none
  --as encoder-decoder   start both stacks from the one of an encoder or a decoder alone; DIR may
                         then be a run too
"""
AS = "encoder-decoder"


def run(args: Sequence[str]) -> int:
    """Makes the run and says what is in it."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    require(not args[0].startswith("-"), "give the folder of a model, before any flag")
    source, flags = Path(args[0]), split_flags(args[1:])
    load_experiments(tuple(flags.pop("module", ())))
    target = take_single(flags, "run_dir")
    kind, tokenizer_file = take_single(flags, "as"), take_single(flags, "tokenizer")
    refuse_others(flags, "import", ["run-dir", "tokenizer", "as", "module"])
    require(kind in (None, AS), f"--as is '{kind}'; it can be {AS}, or left out")
    place = RunDirectory(as_path(target) if target else RUNS / source.resolve().name)

    from jaxdenoise.training.weights import check_free, write_imported

    check_free(place)
    if _is_run(source):
        require(kind is not None, f"'{source}' is a run already; --as {AS} makes another of it")
        require(tokenizer_file is None, f"'{source}' has a tokenizer; leave --tokenizer out")
        config, params, tokenizer, about = _of_run(source)
    else:
        config, params, tokenizer, about = _of_folder(source, tokenizer_file)
    if kind:
        from jaxdenoise.model.warm_start import both_stacks

        config, params = both_stacks(config, params)
        about["as"] = kind
        about.pop("settings", None)  # of a model that had no decoder, or no encoder
    experiment = Experiment(
        data=DataConfig(tokenizer=str(place.tokenizer), decoder_start=tokenizer.decoder_start),
        objective=configure(_objective(config, about)),
        model=config,
    )
    write_imported(place, experiment, params, tokenizer, about)
    _say(config, params, tokenizer, about)
    make_console().print(f"run: {place.path}", soft_wrap=True)
    return 0


def _is_run(source: Path) -> bool:
    try:
        open_run(source)
    except UserError:
        return False
    return True


def _of_folder(source: Path, tokenizer_file: str | None) -> Found:
    from jaxdenoise.huggingface.pretrained import read_pretrained

    found = read_pretrained(source, tokenizer_file)
    if found.tokenizer is None:
        raise UserError(
            f"'{source}' has no tokenizer.json and no spiece.model, without which text is no ids; "
            "give one with --tokenizer, or make it in transformers: AutoTokenizer"
            f".from_pretrained('{source}').save_pretrained('{source}')"
        )
    about = {"family": found.family, "dtype": found.dtype, "unused": list(found.unused)}
    about |= {"settings": found.settings}
    return found.config, found.params, found.tokenizer, about


def _of_run(source: Path) -> Found:
    from jaxdenoise.training.weights import restore_model

    opened, name, experiment = open_run(source)
    _, params, tokenizer = restore_model(opened, experiment)
    return experiment.model, params, tokenizer, {"run": name}


def _objective(config: ModelConfig, about: dict[str, Any]) -> str:
    """What such models are trained with, for the run's config."""
    if config.architecture == "encoder":
        return "masked_lm"
    return "bart" if about.get("family") == "bart" else "span_corruption"


def _say(config: ModelConfig, params: Params, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    import jax

    console = make_console()
    stacks = ("encoder", "decoder")
    if config.architecture != "encoder_decoder":
        stacks = (config.architecture,)
    layers = " + ".join(str(config.layers(stack)) for stack in stacks)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    console.print(
        f"{about.get('family', 'run')}: {config.architecture}, {layers} × {config.width}, "
        f"{count:,} parameters; {tokenizer.vocab.size:,} ids in {len(params['embedding']):,} rows"
    )
    if about.get("unused"):
        console.print(f"left out: {', '.join(about['unused'])}")
    if config.architecture == "encoder" and "family" in about and not config.prediction_head:
        console.print("it has no head to predict with: fill no masks before it is trained on")
    start = about.get("settings", {}).get("decoder_start_token_id")
    if start not in (None, tokenizer.vocab.start_id):
        console.print(
            f"its decoder starts from id {start}, here from {tokenizer.vocab.start_id}: generate "
            "nothing before it is trained on; an export has its own again"
        )

"""jaxdenoise list [CONFIG [--scale NAME]]: what can be trained, shown and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdenoise.ablation import config_files, find_config, load_ablation, read_config
from jaxdenoise.commands.console import make_console
from jaxdenoise.data.corpora import corpora
from jaxdenoise.experiment import experiments, load_experiments
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.objectives import objectives
from jaxdenoise.presets import Preset, presets

USAGE = """usage: jaxdenoise list [CONFIG [--scale NAME]] [--module NAME]

Lists experiments, objectives, models, configs and corpora; or the runs of one config, at a scale.
"""


def run(args: Sequence[str]) -> int:
    """Prints the lists."""
    if "--help" in args or "-h" in args:
        print(USAGE)
        return 0
    config = args[0] if args and not args[0].startswith("-") else None
    flags = split_flags(args[1:] if config else args)
    load_experiments(tuple(flags.pop("module", ())))
    scale = take_single(flags, "scale") if config else None
    refuse_others(flags, "list", ["scale", "module"] if config else ["module"])
    console = make_console()
    if config:
        ablation = load_ablation(find_config(config), scale=scale)
        _print(f"{ablation.title}: {ablation.source}", {r.name: "" for r in ablation.runs}, console)
        return 0
    _print("experiments", {n: experiments[n].__doc__ for n in experiments.names()}, console)
    _print("objectives", {n: objectives[n].__doc__ for n in objectives.names()}, console)
    _print("models", {n: _shape(presets[n]) for n in presets.names()}, console)
    configs = {name: read_config(path) for name, path in config_files().items()}
    titles = {name: f"{c['title']}: {c['source']}" for name, c in configs.items()}
    _print("configs", titles, console)
    _print("corpora", {n: corpora[n].__doc__ for n in corpora.names()}, console)
    return 0


def _shape(preset: Preset) -> str:
    """Such as "encoder_decoder, 12 + 12 × 768, 248M parameters": layers × width."""
    config, millions = preset.config, preset.parameters / 1e6
    layers = {
        "encoder_decoder": f"{config.encoder_layers} + {config.decoder_layers}",
        "encoder": f"{config.encoder_layers}",
        "decoder": f"{config.decoder_layers}",
    }[config.architecture]
    count = f"{millions:.0f}M" if millions < 1000 else f"{millions / 1000:.1f}B"
    return f"{config.architecture}, {layers} × {config.width}, {count} parameters"


def _print(title: str, entries: Mapping[str, str | None], console: Console) -> None:
    console.print(Text(title, "bold"))
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, text in entries.items():
        table.add_row(f"  {name}", (text or "").strip().split("\n")[0])
    console.print(table)

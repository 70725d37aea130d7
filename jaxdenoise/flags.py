"""Flags for dataclasses, by tyro: `--objective.noise-density 0.25`; its errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxdenoise.errors import UserError, require, unknown

T = TypeVar("T")

REPEATED = ("log", "module")
"""Flags whose values add up where they are given again; of others the last one counts."""


def parse_flags(default: T, args: Sequence[str], *, program: str = "jaxdenoise") -> T:
    """Returns `default` with the fields that the flags name.

    Args:
      default: an instance of a (nested) frozen dataclass.
      args: as on the command line, `["--data.files", "a.txt", "b.txt", "--seed", "1"]`.
      program: for the usage line of `--help`.

    Raises:
      UserError: an unknown field, a value of another type or out of range.
      SystemExit: `--help` was asked for and printed.
    """
    import tyro

    known = field_names(default)
    for arg in args:
        if arg.startswith("--") and arg != "--help" and _field(arg) not in known:
            raise _unknown_field(_field(arg), known)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                type(default),
                default=default,
                args=_capitalised(args, default),
                prog=program,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(_one_line(errors.getvalue())) from None


def split_flags(args: Sequence[str]) -> dict[str, list[str]]:
    """Flags as dotted fields with their raw values, for what is parsed later, or more than once.

    Example:
      >>> split_flags(["--data.files", "a", "b", "--training.batch-size=8"])
      {'data.files': ['a', 'b'], 'training.batch_size': ['8']}
      >>> split_flags(["--log", "a", "--seed", "1", "--log", "b", "--seed", "2"])
      {'log': ['a', 'b'], 'seed': ['2']}

    Raises:
      UserError: a value without a flag before it, or a flag without a value.
    """
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for arg in args:
        if arg.startswith("--"):
            flag, equals, value = arg.partition("=")
            name = _field(flag)
            if name not in REPEATED or name not in fields:
                fields[name] = []
            values = fields[name]
            values += [value] if equals else []
        elif values is None:
            raise UserError(f"'{arg}' is not a flag; give fields as --section.name value")
        else:
            values.append(arg)
    for name, given in fields.items():
        require(
            len(given) > 0, f"--{name.replace('_', '-')} has no value; give one, or leave it out"
        )
    return fields


def spell_out(args: Sequence[str], switches: Sequence[str]) -> list[str]:
    """The arguments, with True after each switch that has no value.

    Example:
      >>> spell_out(["a", "--run", "--write", "b"], ["--run"])
      ['a', '--run', 'True', '--write', 'b']
    """
    spelled: list[str] = []
    for arg, following in itertools.pairwise([*args, "--"]):
        spelled += [arg, "True"] if arg in switches and following.startswith("--") else [arg]
    return spelled


def take_single(flags: dict[str, list[str]], name: str) -> str | None:
    """Takes a flag of one value out of `flags`; None if it is not there."""
    values = flags.pop(name, None)
    if values is not None and len(values) != 1:
        raise UserError(f"--{name.replace('_', '-')} takes one value, not {len(values)}")
    return values[0] if values else None


def refuse_others(flags: Mapping[str, Any], command: str, known: Sequence[str]) -> None:
    """Raises `UserError` if a flag is left that the command does not take."""
    for name in flags:
        raise unknown(f"flag of {command}", name, known)


def to_flags(changes: Mapping[str, Any]) -> list[str]:
    """Dotted fields and plain values as flags.

    Example:
      >>> to_flags({"data.raw_length": 64, "data.files": ["a", "b"], "optimizer.clip_norm": None})
      ['--data.raw-length', '64', '--data.files', 'a', 'b', '--optimizer.clip-norm', 'None']
      >>> to_flags({"objective.noise_density": [[0, 0.3], [1, 0.15]]})
      ['--objective.noise-density', '0', '0.3', '1', '0.15']
    """
    args: list[str] = []
    for name, value in changes.items():
        args += ["--" + name.replace("_", "-"), *map(str, _flat(value))]
    return args


def _flat(value: Any) -> list[Any]:
    """A value, or all that is in a list of them, as the command line has it: one after another."""
    if not isinstance(value, (list, tuple)):
        return [value]
    return [one for part in value for one in _flat(part)]


def field_names(config: Any, prefix: str = "") -> list[str]:
    """The dotted names of all leaves of a nested dataclass."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def _capitalised(args: Sequence[str], default: Any) -> list[str]:
    """The arguments, with Python's True and False where a switch has true or false."""

    def is_switch(flag: str) -> bool:
        value = functools.reduce(getattr, _field(flag).split("."), default)
        return isinstance(value, bool)

    written, flag = [], ""
    for arg in args:
        flag = arg if arg.startswith("--") and arg != "--help" else flag
        begin, equals, value = arg.rpartition("=")
        plain = value in ("true", "false") and flag != "" and is_switch(flag)
        written.append(begin + equals + value.capitalize() if plain else arg)
    return written


def _field(flag: str) -> str:
    section, _, name = flag.removeprefix("--").split("=")[0].replace("-", "_").rpartition(".")
    return f"{section}.{name}" if section else name


def _unknown_field(name: str, known: list[str]) -> UserError:
    """Names the nearest of all fields, and lists those of the same section."""
    section = name.split(".")[0] + "."
    same = [field for field in known if field.startswith(section)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    shown = sorted({*same, *near}) if same else sorted({f.split(".")[0] for f in known} | {*near})
    return unknown("field", name, shown)


def _one_line(box: str) -> str:
    """The message inside tyro's framed error: what stands between the title and the next rule."""
    body: list[str] = []
    for line in box.strip().splitlines()[1:]:
        if line.strip(" │╭╮╰╯─-"):
            body.append(line.strip(" │"))
        elif body:
            break
    message = " ".join(" ".join(body).split())
    number = re.fullmatch(r"Error parsing --([\w.-]+): .*\b(int|float)\b.*: '(.*)'", message)
    optional = re.fullmatch(
        r"Error parsing --([\w.-]+): .*\{None\}\|(INT|FLOAT) .*\['(.*)'\]\.", message
    )
    if found := number or optional:
        name, kind, value = found.groups()
        wanted = {"int": "a whole number", "float": "a number"}[kind.lower()]
        wanted += " or None" if optional else ""
        return f"{_field(name)} is '{value}'; it must be {wanted}"
    if found := re.fullmatch(r"Error parsing --([\w.-]+): Could not find .*: \[(.*)\]", message):
        name, values = found.groups()
        return f"{_field(name)} cannot be read from {values}; --help says what it takes"
    return re.sub(r"^Error parsing \w+: ", "", message)

"""The command line: one line for an error, status 2, no traceback."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from jaxdenoise.errors import UserError, unknown

COMMANDS = {
    "list": "experiments, objectives, configs, corpora",
    "show": "see a corruption: source, inputs, targets, statistics",
    "train": "train an experiment, or continue it",
    "sweep": "every run of a config, resumable, compared in a table and a page",
    "launch": "train in many processes: here, under SLURM, on TPU pods",
    "report": "one self-contained HTML page of a run",
    "evaluate": "loss and answers of a trained model on held-out text",
    "replay": "a step of a run made again, such as one that could not be applied",
    "infill": "fill the blanks of a text with a trained model",
    "import": "a T5, BART or BERT of Hugging Face's becomes a run",
    "export": "a run's model as a folder for Hugging Face's transformers",
    "compile": "what a step takes on a TPU pod that is not there: memory, FLOPs, time",
    "bench": "throughput against plain NumPy, and where a step's time goes",
}
INTERRUPTED = 130  # as a shell reports SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_usage(), flush=True)
            return 0
        name, *rest = args
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        module = f"{name}_" if keyword.iskeyword(name) else name
        return importlib.import_module(f"jaxdenoise.commands.{module}").run(rest)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:  # before the first step or after the last: there is nothing to save
        print("jaxdenoise: interrupted; the same command starts again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def script() -> NoReturn:
    """The program: `main`, and an end even where something has failed.

    After a save that failed, Orbax leaves threads behind that wait for what will never come, and
    Python would wait for them.
    """
    try:
        status = main()
    except Exception:  # nobody's mistake but ours: the traceback is for us
        traceback.print_exc()
        status = 1
    left = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if status and left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _fail(message: str) -> int:
    from jaxdenoise.training.processes import name_among_others

    print(f"jaxdenoise:{name_among_others()}", " ".join(message.split()), file=sys.stderr)
    return 2


def _usage() -> str:
    lines = [f"  {name:<8}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxdenoise COMMAND …",
            "",
            "Denoising pre-training research in JAX.",
            "",
            *lines,
            "",
            "jaxdenoise COMMAND --help tells more; start with: jaxdenoise train quickstart",
        ]
    )

"""A run's folder: what is in it, and whose it is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdenoise import paths
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, determining, digest, from_dict, to_dict
from jaxdenoise.presets import NOT_SHAPE

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

RUNS = Path("runs")
HELD_OUT = ("corpus", "files", "mixture", "field", "documents", "held_out", "raw_length")
"""Fields of the data that say what is held out."""


class Busy(UserError):  # noqa: N818  # no error of the run
    """Another program has a run's directory."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    config.json the experiment, spelled out · tokenizer.json · metrics.jsonl a row every few steps
    · tensorboard/, wandb/ the same, where it was asked for
    · checkpoints/ · results.json, gallery.json what the report shows · report.html
    · answers.json what is written for each held-out pair, where it was trained on pairs
    """

    path: Path

    @property
    def config(self) -> Path:
        """The experiment and the digest of the token store, as JSON."""
        return self.path / "config.json"

    @property
    def tokenizer(self) -> Path:
        """A copy of the store's tokenizer, so that the run can be used without the corpus."""
        return self.path / "tokenizer.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints by step."""
        return self.path / "checkpoints"

    @property
    def damaged(self) -> Path:
        """Checkpoints that are not what was saved."""
        return self.path / "damaged"

    @property
    def bad(self) -> Path:
        """The steps that were not applied, a file each."""
        return self.path / "bad"

    @property
    def results(self) -> Path:
        """Final figures and baselines."""
        return self.path / "results.json"

    @property
    def failure(self) -> Path:
        """Why a sweep's run has failed; it may have done so before anything else was written."""
        return self.path / "failure.json"

    @property
    def gallery(self) -> Path:
        """Held-out examples with predictions."""
        return self.path / "gallery.json"

    @property
    def answers(self) -> Path:
        """What the model writes for held-out sources."""
        return self.path / "answers.json"

    @property
    def profile(self) -> Path:
        """Traces of steps that were asked for; on this machine, wherever the run is."""
        local = paths.is_local(self.path)
        return self.path / "profile" if local else Path(f"profile-{self.path.name}")

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def saved(self) -> dict[str, Any]:
        """What config.json holds: "name", "experiment" and "store".

        Raises:
          UserError: there is none, or it is another program's.
        """
        saved = read_json(self.config) if self.config.is_file() else None
        if isinstance(saved, dict) and {"name", "experiment", "store"} <= saved.keys():
            return saved
        raise UserError(
            f"'{self.path}' is not a run: it has no config.json of one; give a directory that "
            f"`jaxdenoise train` made{_known_runs()}"
        )

    def check(self, experiment: Experiment, store: dict[str, Any] | None = None) -> None:
        """Raises `UserError` unless the directory is free, or this experiment's already.

        Args:
          experiment: of the run.
          store: the manifest of its token store, once that is known.
        """
        # Orbax looks for what it has written with a glob, and loses it without an error.
        require(
            "[" not in str(self.path.absolute()),
            f"'{self.path.absolute()}' has a [ in it, where checkpoints cannot be kept; choose "
            "another --run-dir",
        )
        if not self.config.exists():
            require(
                not self.path.exists() or (self.path.is_dir() and self._is_unclaimed()),
                f"{self.path} is not empty and is no run; choose another --run-dir",
            )
            return
        saved = self.saved()
        # Through today's fields: one that was added since has its default there.
        other = from_dict(saved["experiment"])
        self._refuse_other(determining(other), determining(experiment))
        if store is not None:
            mine, other = store["identity_digest"], saved["store"]["identity_digest"]
            require(
                mine == other,
                f"{self.path} was trained on the token store {other}, now it would be {mine} "
                "(changed files, or other versions of Python and the documented packages); choose "
                "another --run-dir",
            )

    def _is_unclaimed(self) -> bool:
        """Whether nothing is there but what a run leaves that failed, or was killed, at once."""
        begins = tuple(map(paths.partial_prefix, (self.config, self.failure)))
        left = {path for path in self.path.iterdir() if not path.name.startswith(begins)}
        return left <= {self.failure}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other programs of this machine from writing here; a killed one lets go.

        Raises:
          Busy: another one is at it.
        """
        if not paths.is_local(self.path) or fcntl is None:
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(
                    f"another program is training in {self.path}; wait for it, stop it, or choose "
                    "another --run-dir"
                ) from error
            except OSError:  # a file system without locks
                pass
            yield

    def claim(self, name: str, experiment: Experiment, store: dict[str, Any]) -> None:
        """Creates the directory for this experiment, or finds that it is its own already.

        Args:
          name: of the experiment.
          experiment: of the run.
          store: the manifest of its token store.

        Raises:
          UserError: the directory belongs to another configuration or other data.
        """
        self.check(experiment, store)
        if not self.config.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            saved = {"name": name, "experiment": to_dict(experiment), "store": store}
            write_json(self.config, saved)

    def _refuse_other(self, saved: dict[str, Any], mine: dict[str, Any]) -> None:
        for field in sorted(saved.keys() | mine.keys()):
            old, new = saved.get(field), mine.get(field)
            require(
                old == new,
                f"{self.path} was made by another configuration: {field} is {old} there and {new} "
                "here; choose another --run-dir, or give the same fields to continue it",
            )


def default_directory(name: str, experiment: Experiment, root: Path = RUNS) -> RunDirectory:
    """./runs/NAME-HASH8: another configuration is another directory."""
    return RunDirectory(root / f"{name}-{digest(experiment)}")


def check_comparable(runs: Mapping[str, RunDirectory]) -> None:
    """Raises `UserError` unless runs, by name, were evaluated on the same held-out rows."""
    saved = {name: run.saved() for name, run in runs.items()}
    check_same_rows(
        {
            name: held_out_of(plain["experiment"], plain["store"]["identity_digest"])
            for name, plain in saved.items()
        }
    )


def held_out_of(experiment: Mapping[str, Any], store: str) -> dict[str, Any]:
    """What says which rows are held out, by name: of an experiment as plain data, and its store."""
    return {
        **{f"data.{field}": experiment["data"][field] for field in HELD_OUT},
        "training.evaluation_rows": experiment["training"]["evaluation_rows"],
        "the token store": store,
    }


def check_same_rows(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `UserError` unless what `held_out_of` gives, by name, is the same for all."""
    seen: dict[str, tuple[str, Any]] = {}
    for name, mine in found.items():
        for field, value in mine.items():
            other, first = seen.setdefault(field, (name, value))
            require(
                first == value,
                f"{name} and {other} cannot be compared: they have other held-out sets, {field} is "
                f"{value!r} and {first!r}; give runs of one, or a page to each",
            )


def open_run(path: str | Path) -> tuple[RunDirectory, str, Experiment]:
    """Opens a run: its files, its experiment's name, and the experiment.

    Raises:
      UserError: the path holds no run.
    """
    run = RunDirectory(paths.as_path(path))
    saved = run.saved()
    return run, saved["name"], from_dict(saved["experiment"])


def read_json(path: Path) -> Any:
    """Reads JSON, or raises `UserError` naming the file."""
    with paths.sound(path):
        return json.loads(path.read_text("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    paths.write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _known_runs() -> str:
    found = sorted(str(config.parent) for config in RUNS.glob("*/config.json"))
    return f", such as {', '.join(found[:5])}" if found else ""


def started_from(experiment: Experiment, address: str) -> Experiment:
    """The experiment with the model and the tokenizer of a run, to start from its parameters.

    What is no shape, such as the compute dtype, stays the experiment's.

    Raises:
      UserError: the address holds no run.
    """
    source, _, other = open_run(address)
    kept = {field: getattr(experiment.model, field) for field in NOT_SHAPE}
    # A corpus may need an id more than the other run had; `weights` makes room for it.
    model = dataclasses.replace(other.model, **kept, embedding_rows=None)
    return dataclasses.replace(
        experiment,
        model=model,
        data=dataclasses.replace(
            experiment.data,
            tokenizer=str(source.tokenizer),
            decoder_start=other.data.decoder_start,
        ),
        training=dataclasses.replace(experiment.training, init_from=str(address)),
    )

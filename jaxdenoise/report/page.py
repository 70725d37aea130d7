"""The report: one HTML file that opens offline, from the files of one run or of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdenoise.report.plots import Chart, Line, smooth
from jaxdenoise.report.template import write_page
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run_directory import RunDirectory, read_json
from jaxdenoise.training.scoring import MEASURES, MODEL


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What a page shows of a run; a run that is not finished has no results yet."""

    name: str
    path: str
    config: dict[str, Any]
    store: dict[str, Any]
    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    results: dict[str, Any] | None
    gallery: list[dict[str, Any]]

    @property
    def steps(self) -> list[int]:
        """The steps with a row of metrics."""
        return [row["step"] for row in self.training]

    def series(self, *names: str) -> list[float]:
        """A metric of every row, by the path of its name."""
        values: list[Any] = list(self.training)
        for name in names:
            values = [value[name] for value in values]
        return values


def write_report(runs: Sequence[Path], output: Path) -> None:
    """Writes the page.

    Args:
      runs: run directories.
      output: the HTML file.
    """
    views = _named_apart([load_run(RunDirectory(path)) for path in runs])
    write_page(
        "report/page.html",
        output,
        title=" · ".join(view.name for view in views),
        runs=views,
        loss_chart=_loss_chart(views),
        speed_chart=_speed_chart(views),
        module_charts=_module_charts(views[0]) if len(views) == 1 else [],
        scored=MEASURES,
        model=MODEL,
    )


def load_run(run: RunDirectory) -> RunView:
    """What the files of a run say, finished or not."""
    saved, rows = read_json(run.config), read_metrics(run.metrics)
    results = read_json(run.results) if run.results.exists() else None
    held_out = [{"step": row["step"], **row["held_out"]} for row in rows if "held_out" in row]
    if results is not None:
        held_out.append({"step": saved["experiment"]["training"]["steps"], **results["held_out"]})
    return RunView(
        name=saved["name"],
        path=str(run.path),
        config=saved["experiment"],
        store=saved["store"],
        training=[row for row in rows if "loss" in row],
        held_out=held_out,
        results=results,
        gallery=read_json(run.gallery) if run.gallery.exists() else [],
    )


def _named_apart(views: list[RunView]) -> list[RunView]:
    """Runs of one name are called by their directories."""
    names = [view.name for view in views]
    return [
        view
        if names.count(view.name) == 1
        else dataclasses.replace(view, name=Path(view.path).name)
        for view in views
    ]


def _loss_chart(views: Sequence[RunView]) -> str:
    lines = []
    for colour, view in enumerate(views):
        prefix = f"{view.name}, " if len(views) > 1 else ""
        loss = view.series("loss")
        lines.append(Line(label="", x=view.steps, y=loss, colour=colour, faint=True))
        label = f"{prefix}training, all targets"
        lines.append(Line(label=label, x=view.steps, y=smooth(loss), colour=colour))
        if view.held_out:
            lines.append(
                Line(
                    label=f"{prefix}held out, text targets",
                    x=[row["step"] for row in view.held_out],
                    y=[row["text_loss"] for row in view.held_out],
                    colour=colour + len(views),
                    marked=True,
                )
            )
    if len(views) == 1 and views[0].results is not None and views[0].steps:
        ends = [0, views[0].steps[-1]]
        for number, (name, row) in enumerate(views[0].results["baselines"].items(), 2):
            level = [row["text_loss"]] * 2
            lines.append(Line(label=name, x=ends, y=level, colour=number, dashed=True))
    return Chart(
        name="loss", lines=lines, y_label="loss (nats a target)", title="Loss over steps"
    ).inline()


def _speed_chart(views: Sequence[RunView]) -> str:
    lines = [
        Line(
            label=view.name if len(views) > 1 else "",
            x=view.steps,
            y=smooth(view.series("tokens_per_second"), 5),
            colour=colour,
        )
        for colour, view in enumerate(views)
    ]
    return Chart(
        name="speed",
        lines=lines,
        y_label="source tokens / s",
        title="Source tokens a second over steps",
        size=(7.2, 2.2),
        from_zero=True,
    ).inline()


def _module_charts(view: RunView) -> list[tuple[str, str]]:
    """Gradient norm, update ratio and largest attention logit, a line a module."""
    titles = {
        "gradient_norm": ("Gradient norm by module", True),
        "update_ratio": ("Update over parameter norm by module", True),
        "max_attention_logit": ("Largest attention logit by module", False),
    }
    charts = []
    for metric, (title, log) in titles.items():
        names = list(view.training[0]["modules"][metric]) if view.training else []
        lines = [
            Line(
                label=name,
                x=view.steps,
                y=smooth([_largest(v) for v in view.series("modules", metric, name)], 5),
                colour=colour,
            )
            for colour, name in enumerate(n for n in names if not n.endswith("norm"))
        ]
        chart = Chart(
            name=metric,
            lines=lines,
            y_label=metric.replace("_", " "),
            title=title,
            size=(7.2, 3.6),
            log=log,
        )
        charts.append((title, chart.inline()))
    return charts


def _largest(value: float | list[float]) -> float:
    """Of a scanned module's layers the one that stands out."""
    return max(value) if isinstance(value, list) else value

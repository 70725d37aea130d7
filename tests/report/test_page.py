"""The report: complete, self-contained, and seen in a browser, light and dark, wide and narrow."""

import json
import re
import shutil
import subprocess

import pytest

from jaxdenoise.report.page import write_report
from jaxdenoise.report.plots import smooth
from jaxdenoise.training.run_directory import RunDirectory

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--allow-file-access-from-files",
]
PROBE = """<!doctype html><iframe id=f src="{page}" width={width} height=800></iframe><script>
f.onload = () => {{
  const d = f.contentDocument, e = d.documentElement, s = d.querySelector("svg.chart text");
  const opened = [...d.querySelectorAll("details")].filter(x => x.open).length;
  document.body.innerHTML = "<pre>" + JSON.stringify({{
    width: e.clientWidth, scroll: e.scrollWidth, opened: opened,
    paper: getComputedStyle(d.body).backgroundColor, ink: s && getComputedStyle(s).fill,
    text: d.body.innerText.length, charts: d.querySelectorAll("svg.chart path").length,
    focusable: d.querySelectorAll("summary").length,
  }}) + "</pre>";
}};</script>"""


def metrics_row(step: int) -> dict:
    modules = {"encoder.mlp": [0.5, 0.7 / step], "decoder.self_attention": [0.1], "embedding": 0.3}
    return {
        "step": step,
        "loss": 7.0 - step / 50,
        "accuracy": 0.1,
        "modules": dict.fromkeys(("gradient_norm", "update_ratio", "max_attention_logit"), modules),
        "tokens_per_second": 1000 + step,
        "data_wait": 0.001,
    }


def token(text: str, span: int | None = None, **loss: float) -> dict:
    return {"text": text, "span": span, **loss}


@pytest.fixture
def run(tmp_path, tiny) -> RunDirectory:
    """A finished run's files, written by hand: no training, and text that wants escaping."""
    from jaxdenoise.experiment import to_dict

    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    counts = {"documents": 3, "tokens": 1000, "bytes": 3000}
    store = {"train": counts, "held_out": counts, "bad_records": [], "identity_digest": "x"}
    run.config.write_text(json.dumps({"name": "tiny", "experiment": to_dict(tiny), "store": store}))
    rows = [metrics_row(step) for step in range(2, 102, 2)]
    rows.insert(20, {"step": 40, "held_out": {"text_loss": 6.0, "bits_per_byte": 3.5}})
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"text_loss": 5.0, "text_accuracy": 0.2, "bits_per_byte": 3.1}
    results = {
        "held_out": {**figures, "special_loss": 0.5, "special_accuracy": 0.9, "special_targets": 7},
        "baselines": {
            "unigram": {**figures, "text_loss": 6.0},
            "bigram": {**figures, "text_loss": 4.0},
        },
        "gap_closed": 0.5,
        "sentences": [[{"text": "Return the"}, {"model": " <b>sum", "truth": " mean"}]],
        "parameters": 1_083_136,
        "seconds": {"total": 70.0, "compiling": 5.0, "stepping": 60.0},
        "data_wait": 0.001,
        "device": "1 × cpu",
        "versions": {"jax": "0.10.2"},
    }
    run.results.write_text(json.dumps(results))
    example = {
        "source": [token("if x < 3 & y:\n"), token(" return", 0)],
        "inputs": [token("if x < 3 & y:\n"), token("<extra_id_0>", 0)],
        "targets": [token("<extra_id_0>", 0, loss=0.1), token(" return", 0, loss=3.21)],
        "prediction": [token("<extra_id_0>", 0), token("    ", 0)],
    }
    run.gallery.write_text(json.dumps([example] * 3))
    return run


def page_of(run: RunDirectory) -> str:
    write_report([run.path], run.report)
    return run.report.read_text("utf-8")


def test_the_page_holds_what_a_reader_wants(run):
    page = page_of(run)
    for wanted in (
        "50.0%",
        "unigram",
        "bigram",
        "this model",
        "1,083,136",
        "noise_density",
        "0.15",
        "corrupted input",
        "prediction",
        "loss 3.21 nats",
        "Loss over steps",
        "Source tokens a second",
        "Gradient norm by module",
    ):
        assert wanted in page, wanted


def test_a_run_of_one_step_that_changed_nothing_has_a_page(run):
    row = metrics_row(1)
    row["modules"]["update_ratio"] = {"encoder.mlp": [0.0, 0.0]}  # has no logarithm
    run.metrics.write_text(json.dumps(row) + "\n")
    assert "Gradient norm by module" in page_of(run)


def test_text_is_escaped_and_white_space_is_seen(run):
    page = page_of(run)
    assert "if x &lt; 3 &amp; y:⏎" in page
    assert "<b>sum" not in page
    assert "&lt;b&gt;sum" in page
    assert "····" in page


def test_the_page_needs_nothing_from_outside(run):
    page = page_of(run)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in page
    assert "@import" not in page
    assert len(page) < 1_000_000


def test_ids_are_unique_and_references_resolve(run):
    page = page_of(run)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {a or b for a, b in references} <= set(ids)


def test_colours_come_from_the_page(run):
    charts = "".join(re.findall(r"<svg.*?</svg>", page_of(run), re.DOTALL))
    assert "var(--series-1)" in charts
    assert not re.findall(r"(?:stroke|fill): #[0-9a-f]{6}", charts)


def test_a_blank_whose_truth_is_not_known_is_shown(run):
    results = json.loads(run.results.read_text("utf-8"))
    results["sentences"] = [[{"text": "a "}, {"model": "guess"}]]
    run.results.write_text(json.dumps(results), "utf-8")
    assert "guess</mark>" in page_of(run)


def test_a_run_under_way_has_a_page_too(run):
    run.results.unlink()
    run.gallery.unlink()
    assert "Not finished: 100 of 12 steps" in page_of(run)
    run.metrics.unlink()
    assert "Not finished: 0 of 12 steps" in page_of(run)


def test_several_runs_share_a_page(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    write_report([run.path, other], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text("utf-8")
    assert page.count("this model") == 2
    assert f"Configuration: {run.path.name}" in page
    assert "Configuration: other" in page


def test_a_running_mean_passes_over_what_is_no_number():
    nan = float("nan")
    assert smooth([1.0, nan, 3.0, 5.0], 2) == [1.0, 1.0, 3.0, 4.0]
    assert smooth([2.0, 4.0, 6.0], 2) == [2.0, 3.0, 5.0]
    assert smooth([], 3) == []


def browse(page, tmp_path, width: int, dark: bool = False) -> dict:
    """What a browser makes of a page of this width."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=page.as_uri(), width=width))
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    window = ["--window-size=1400,900", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *FLAGS, *scheme, *window, "--virtual-time-budget=5000", "--dump-dom"]
    shown = subprocess.run(
        [*command, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"<pre>(.*?)</pre>", shown.stdout)
    assert found is not None, shown.stdout[-500:]
    return json.loads(found[1].replace("&amp;", "&"))


@pytest.mark.browser
@pytest.mark.parametrize("width", [380, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_scrolling_sideways(run, tmp_path, width, dark):
    page_of(run)
    seen = browse(run.report, tmp_path, width, dark)
    assert seen["scroll"] <= seen["width"]
    assert seen["text"] > 1000
    assert seen["charts"] > 20
    assert seen["opened"] == 1
    assert seen["focusable"] == 3
    light = [int(v) > 128 for v in re.findall(r"\d+", seen["paper"])[:3]]
    assert all(light) != dark
    assert seen["ink"] != seen["paper"]

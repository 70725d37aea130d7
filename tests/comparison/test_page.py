"""The page of a sweep: whole, safe, to be downloaded, and used in a browser by keyboard alone."""

import base64
import csv
import html
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxdenoise.cli import main
from jaxdenoise.comparison.charts import averaged
from jaxdenoise.comparison.examples import side_by_side
from jaxdenoise.comparison.page import write_comparison
from jaxdenoise.comparison.results import collect
from jaxdenoise.report.page import load_run
from jaxdenoise.report.plots import Chart, Line
from jaxdenoise.training.run_directory import RunDirectory
from tests.browser import CHROMIUM, Browser
from tests.comparison.sweeps import fail, loss_of, token, write_sweep_folder

HOSTILE = ("<script>alert(1)</script>", '$x_1$ "a"', "_under, commas", *"abcdef")


def page_of(root) -> str:
    return write_comparison(collect(root), root).read_text("utf-8")


def text_of(page: str) -> str:
    """What is read, without what is drawn or run."""
    page = re.sub(r"<(style|script|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def downloads(page: str) -> dict[str, str]:
    """The files in the page's links, by name."""
    found = re.findall(r'download="([^"]+)" href="data:[\w/+]+;base64,([^"]+)"', page)
    return {name: base64.b64decode(content).decode() for name, content in found}


def table(page: str, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(downloads(page)[f"which-noise-{name}.csv"])))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Of two arms' four runs three have ended, one has failed; a third arm has not begun."""
    root = tmp_path_factory.mktemp("sweep")
    ended = [("spans", 0), ("spans", 1), ("masks", 0)]
    write_sweep_folder(root, arms=("spans", "masks", "copy"), finished=ended)
    fail(root, "run-1-1", "the loss is <nan>")
    return root


@pytest.fixture(scope="module")
def page(root):
    return page_of(root)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Names that are markup, mathematics and hidden, more arms than colours; one seed, no paper."""
    root = tmp_path_factory.mktemp("hostile")
    write_sweep_folder(root, arms=HOSTILE, seeds=(0,), published=None, title="<i>Names</i>")
    page_of(root)
    return root / "report.html"


def test_the_page_holds_what_a_reader_wants(page):
    text = text_of(page)
    for wanted in (
        "Which noise? source a paper, table 1 scale mini the same for all arms target tokens",
        "seeds 0, 1 runs 3 of 6 finished machine 1 × cpu versions jax 0.10.2",
        "mean ± standard deviation over 2 seeds",
        "3 of 6 runs are missing; failed: masks,seed=1 (the loss is <nan>)",
        "rms are of several architectures (encoder_decoder, encoder)",
        "spans 50.5% ± 0.7% 83.28 2.536 ± 0.051 5.071 ± 0.101",
        "GLUE, published",
        "83.28",
        "masks,seed=1 failed the loss is <nan>",
        "copy,seed=0 waiting",
    ):
        assert wanted in text, wanted
    assert 'href="run-0-0/report.html"' not in page  # it has none
    for title in ("Held-out text loss over steps", "Infill accuracy against FLOPs"):
        assert f'aria-label="{title}"' in page


def test_what_an_architecture_cannot_express_is_told_from_what_has_not_run(page):
    matrix = text_of(page)[text_of(page).index("cannot express the objective") :]
    assert "arm spans masks copy spans 5.071 ± 0.101 – 5.071 ± 0.101" in matrix
    assert "masks – 4.000 – copy no run no run no run" in matrix
    own = re.findall(r'<td class="own"[^>]*>([^<]+)<', page)
    assert own == ["5.071 ± 0.101", "4.000"]


def test_files_hold_the_numbers_whole(root, page):
    comparison = collect(root)
    [first, *_] = table(page, "measures")
    values = comparison.measures["infill accuracy"].values["spans"]
    assert float(first["infill accuracy, mean"]) == sum(values.values()) / 2
    assert (first["infill accuracy, seeds"], first["GLUE"]) == ("2", "83.28")
    matrix = {(row["arm"], row["objective"]): row for row in table(page, "matrix")}
    assert float(matrix["masks", "masks"]["mean"]) == loss_of(1, 0)
    assert matrix["masks", "spans"]["mean"] == ""
    runs = {row["run"]: row for row in table(page, "runs")}
    assert runs["masks,seed=1"]["reason"] == "the loss is <nan>"
    assert runs["copy,seed=0"]["state"] == "waiting"
    assert float(runs["spans,seed=1"]["own loss"]) == loss_of(0, 1)
    assert float(runs["spans,seed=1"]["seconds"]) == 6.0  # half was not timed
    assert float(runs["masks,seed=0"]["FLOPs"]) == 2000 * 40
    steps = [(row["arm"], int(row["step"])) for row in table(page, "held-out-loss")]
    assert steps == [("spans", 20), ("spans", 40), ("masks", 20), ("masks", 40)]
    dots = table(page, "infill-accuracy-target-tokens")
    assert [float(dot["target tokens"]) for dot in dots] == [16.0 * 40] * 3


def test_charts_alone_are_svg_of_real_colours_with_a_legend(hostile):
    drawn = {n: d for n, d in downloads(hostile.read_text("utf-8")).items() if n.endswith("svg")}
    assert len(drawn) == 2 + 3 * 6
    for document in drawn.values():
        texts = [e.text for e in ElementTree.fromstring(document).iter() if e.text]
        assert set(HOSTILE) <= set(texts)
        assert "var(" not in document
        assert "#1f6fc4" in document


def test_names_are_text_and_nothing_comes_from_outside(hostile):
    page = hostile.read_text("utf-8")
    assert page.count("<script") == 1
    assert "<i>Names" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)|url\((?!#)|@import', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "one seed: no gap can be told from noise" in page
    assert "published" not in text_of(page)
    assert "±" not in re.findall(r"<tbody>.*?</tbody>", page, re.DOTALL)[0]


@pytest.mark.parametrize("published", [None, {"measure": "F1", "values": {"spans": 1.0}}])
def test_a_sweep_without_any_finished_run_has_a_page(tmp_path, published):
    write_sweep_folder(tmp_path, finished=(), published=published)
    fail(tmp_path, "run-0-0", "it broke")
    (tmp_path / "run-1-0").mkdir()
    (tmp_path / "run-1-0" / "metrics.jsonl").write_text('{"step": 10, "loss": 7.0}\n')
    text = text_of(page_of(tmp_path))
    assert "no run has finished yet" in text.lower()
    assert "spans,seed=0 failed it broke" in text
    assert "masks,seed=0 running" in text


def test_only_rows_of_the_same_source_stand_side_by_side(page):
    examples = re.split(r"<summary>Example \d", page)[1:]
    assert len(examples) == 2
    assert "a &lt;b&gt;⏎ c" in examples[0]
    assert [f">guess {number}<" in examples[0] for number in (0, 1)] == [False, False]
    assert "&lt;extra_id_0&gt;guess 0</span>" in examples[0]
    assert "&lt;extra_id_0&gt;guess 1</span>" in examples[0]
    assert [part.count("<article") for part in examples] == [2, 1]


@pytest.mark.parametrize("marked", ["a", "b"])
def test_a_mode_token_does_not_hide_that_the_source_is_the_same(root, marked):
    views = {arm: load_run(RunDirectory(root / "run-0-0")) for arm in "ab"}
    views[marked].gallery[0]["source"].insert(0, token("[X]"))
    first, _ = side_by_side(views)
    assert list(first.arms) == ["a", "b"]
    assert first.source == "a <b>\n c"


def test_curves_are_of_the_steps_that_all_seeds_have():
    found = averaged([{10: 1.0, 20: 2.0}, {20: 4.0, 30: 5.0}])
    assert list(found) == [20]
    assert (found[20].mean, found[20].seeds) == (3.0, 2)
    assert averaged([]) == {}


def test_elements_of_a_chart_carry_their_group():
    line = Line(label="$x_1$", x=[1, 2], y=[3, 4], around=[1, 1], group=7)
    drawn = Chart(name="x", lines=[line], y_label="y", title="<t>").inline()
    assert drawn.count('data-group="7"') == 2  # line and band
    assert "<title>&lt;t&gt;</title>" in drawn
    assert ">$x_1$<" in drawn  # as it is, not set as mathematics


def test_report_writes_the_page_of_a_sweep_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxdenoise.comparison.page.trade_offs", lambda *_: [])  # most of the time
    folder = tmp_path / "sweep"
    write_sweep_folder(folder, finished=[("spans", 0)])
    (folder / "run-0-0" / "report.html").write_text("of one run")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    assert 'href="run-0-0/report.html"' in (folder / "report.html").read_text("utf-8")
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert "run-0-0/report.html" not in (tmp_path / "page.html").read_text("utf-8")
    assert main(["report", str(folder), str(folder / "run-0-0")]) == 2
    assert "is a sweep, which has a page of its own" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 400, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_scrolling_sideways(browser, hostile, width, dark):
    browser.open(hostile.as_uri(), width=width, dark=dark)
    seen = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    assert seen[0] <= seen[1]
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 128 for part in re.findall(r"\d+", paper)) == dark
    assert browser.run("document.querySelector('aside details').open") == (width == 1200)
    assert browser.errors == []


SHOWN = """[...document.querySelectorAll("[data-group='1'], [data-measure='1']")].filter(
    part => getComputedStyle(part).display !== "none").length"""


@pytest.mark.browser
def test_arms_and_measures_are_left_out_by_keyboard_and_kept_in_the_address(browser, hostile):
    address = hostile.as_uri()
    browser.open(address)
    assert browser.run(SHOWN) > 30
    chosen = []
    for name in (HOSTILE[1], "infill loss"):
        while browser.run("document.activeElement.value") != name:
            browser.press("Tab")
            assert browser.run("document.activeElement !== document.body")
        assert browser.run("getComputedStyle(document.activeElement).outlineWidth") == "2px"
        browser.press(" ")
        chosen.append(browser.run(SHOWN))
    assert chosen[0] > chosen[1] == 0
    kept = browser.run("location.hash")
    browser.open(address + kept)
    assert browser.run(SHOWN) == 0
    assert browser.run("document.getElementById('chosen').textContent") == " (8 of 9 arms)"
    browser.run("document.querySelector('[data-all=group]').click()")
    assert browser.run("document.querySelectorAll('[data-group].off').length") == 0
    assert "infill+loss" in browser.run("location.hash")
    assert browser.errors == []

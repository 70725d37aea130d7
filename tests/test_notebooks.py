"""The notebooks: stored with their outputs, and every cell runs."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
SMALLER = {
    r"^STEPS = \d+": "STEPS = 4",
    r'^SCALE = "mini"': 'SCALE = "smoke"',
    r'^SEEDS = "0 1 2"': 'SEEDS = "0 1"',
}
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|mnt|work|Users)/")

by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@by_notebook
def test_it_is_stored_as_it_ran_from_top_to_bottom(path):
    text = path.read_text("utf-8")
    assert len(text) < 400_000
    cells = json.loads(text)["cells"]
    assert cells[0]["source"][0].startswith("# ")
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z-]+", name) for name in ids)  # given by hand, so that they stay
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        shown = {**output.get("data", {}), "": output.get("text", "")}
        shown.pop("image/png", None)
        assert not ABSOLUTE.search(json.dumps(shown))


@pytest.mark.slow
@by_notebook
def test_every_cell_runs(path, tmp_path, monkeypatch):
    """As it is stored, but for the number of steps, and the scale of a sweep and its seeds."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed ([dev])")
    pytest.importorskip("nbclient", reason="nbclient is not installed ([dev])")
    run = runpy.run_path(str(ROOT / ".ci" / "notebooks.py"))["run"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is most of the time
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # runs of a sweep share programs
    for name, first in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", ROOT)):
        monkeypatch.setenv(name, str(first), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for stored, smaller in SMALLER.items():
            cell.source = re.sub(stored, smaller, cell.source, flags=re.MULTILINE)
    run(notebook, str(tmp_path))
    printed = [o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not any("jaxdenoise: " in text for text in printed)  # how a command fails

"""The API reference: every public name has its docstring, and a section on the built page."""

import html
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdenoise as jd

ROOT = Path(__file__).parent.parent


def test_every_public_name_says_what_it_is():
    for name in jd.__all__:
        assert len(inspect.getdoc(getattr(jd, name)) or "") > 20, name


@pytest.mark.slow
def test_the_built_page_describes_every_public_name(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed ([dev])")
    script = ROOT / ".ci" / "reference.py"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    subprocess.run([sys.executable, script, tmp_path], env=environment, check=True)
    sections = _sections(tmp_path / "jaxdenoise.html")
    for name in jd.__all__:
        assert '<div class="docstring">' in sections[name], name
    shown = {name: _as_read(section) for name, section in sections.items()}
    arrays = _sections(tmp_path / "jaxdenoise" / "arrays.html")
    assert _as_read(arrays["Tokens"]) == "Tokens = Int[AnyArray, 'L']"
    assert "loss: Loss = cross_entropy) -> Float[AnyArray, 'B T']" in shown["token_losses"]
    assert "noise_density: Rate = 0.15" in shown["span_corruption"]
    for text in shown.values():
        assert not re.search(r"jaxlib|<function|object at 0x", text)


def _sections(page: Path) -> dict[str, str]:
    parts = re.split(r'<section id="([^"]+)">', page.read_text("utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _as_read(section: str) -> str:
    """The text of a section, without source code."""
    section = re.sub(r'<div class="pdoc-code.*?</div>', "", section, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", section)).split())

"""Pages for people who come from elsewhere: every field, command and link on them exists."""

import re
import shlex
from pathlib import Path

import pytest

import jaxdenoise as jd
from jaxdenoise.experiment import experiments, load_experiments, override
from jaxdenoise.flags import split_flags
from jaxdenoise.training.loggers import LOGGERS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "experiments" / "moving").glob("*.md"))
COMMAND = re.compile(r"^jaxdenoise train (?:.*\\\n)*.*$", re.MULTILINE)
ROW = re.compile(r"^\|.*\|(?P<ours>[^|]*)\|$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")

load_experiments()
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def resolve(name: str, args: list[str]) -> jd.Experiment:
    """What `jaxdenoise train NAME …` would train."""
    changes = split_flags(args)
    changes.pop("run_dir", None)  # a flag of the command, as is the next
    assert all(log in LOGGERS for log in changes.pop("log", ()))
    return override(experiments[name](), changes)


@by_page
def test_its_command_can_be_trained(page):
    [command] = COMMAND.findall(page.read_text("utf-8"))
    _, _, name, *args = shlex.split(command.replace("\\\n", " "))
    assert resolve(name, args).objective.name == "span_corruption"


@by_page
def test_its_fields_take_these_values(page):
    text = page.read_text("utf-8")
    columns = [code for row in ROW.finditer(text) for code in CODE.findall(row["ours"])]
    in_table = [code for code in columns if code.startswith("--")]
    in_prose = [code for code in CODE.findall(text) if re.match(r"--[a-z]+\.", code)]
    assert len(in_table) > 15
    for flags in {*in_table, *in_prose}:
        resolve("t5_base", shlex.split(flags))


@by_page
def test_its_python_runs(page):
    text = page.read_text("utf-8")
    called = [code for code in CODE.findall(text) if code.startswith("jd.") and "(" in code]
    for code in called:
        assert eval(code, {"jd": jd}) == (1137, 229)
    assert jd.lengths.raw_length_for(512, 0.15, 3.0) == (568, 114)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec("\n".join(line.strip() for line in block.splitlines()), {})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "jaxdenoise/README.md"])
def test_its_links_inside_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target

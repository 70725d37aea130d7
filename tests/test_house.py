"""The house keeps its own rules: imports point one way, names are public on purpose."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdenoise

PACKAGE = Path(jaxdenoise.__file__).parent

# Each room may import the rooms before it and itself. Rooms on one line do not see each other.
ORDER = [
    {"errors"},
    {"registry", "config", "keys", "paths", "vocabulary", "sentencepiece_file"},
    {"arrays", "tokenizer", "presets", "costs"},
    {"corruption", "losses"},
    {"model", "optim", "objectives"},
    {"flags", "huggingface"},
    {"experiment"},
    {"ablation", "data"},
    {"training.loggers"},
    {
        "training.guard",
        "training.metrics",
        "training.metrics_file",
        "training.run_directory",
    },
    {"training.step"},
    {"training.parallel", "training.processes", "training.progress", "training.profile"},
    {"training.evaluation", "training.manifest"},
    {"training.checkpoint"},
    {"training.blanks", "training.scoring"},
    {"training.fingerprint", "training.setup", "training.samples"},
    {"training.weights", "training.answers", "training.targets", "training.bad_steps"},
    {"training.documents", "training.replay"},
    {"training.loop", "training.compiled"},
    {"training.run"},
    {"report", "bench", "launch"},
    {"sweep"},
    {"comparison"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FORBIDDEN = {
    "model": {"objectives", "data", "losses", "training"},
    "losses": {"data", "model", "objectives"},
    "corruption": {"tokenizer", "model", "objectives", "data"},
    "objectives": {"model", "training", "data", "tokenizer"},
    "data": {"model", "training", "objectives"},
}


def room_of(module: str) -> str:
    parts = module.removeprefix("jaxdenoise").strip(".").split(".")
    return ".".join(parts[:2]) if parts[0] == "training" and len(parts) > 1 else parts[0]


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, inside functions too, for type checking too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdenoise"):
            names = [node.module]
            if node.module in ("jaxdenoise", "jaxdenoise.training"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            rooms |= {room_of(name) for name in names}
        elif isinstance(node, ast.Import):
            rooms |= {room_of(a.name) for a in node.names if a.name.startswith("jaxdenoise.")}
    return rooms


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    level = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
    own = room_of(".".join(("jaxdenoise", *path.relative_to(PACKAGE).with_suffix("").parts)))
    for other in imported_rooms(path) - {own}:
        assert level[other] < level[own], f"{own} imports {other}"
        assert other.split(".")[0] not in FORBIDDEN.get(own, set())


def test_only_the_model_imports_flax_modules():
    for path in FILES:
        text = path.read_text("utf-8")
        if "flax.linen" in text:
            assert path.parent.name == "model"


def test_only_one_file_names_devices():
    names = ("pmap", "psum", "shard_map", "NamedSharding", "local_devices")
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"))
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        if used & set(names):
            assert path.name == "parallel.py"


def test_no_file_is_longer_than_400_lines():
    for path in [*FILES, *Path(__file__).parent.rglob("*.py")]:
        assert len(path.read_text("utf-8").splitlines()) <= 400, path


def test_every_public_name_exists_and_nothing_loads_jax_before_it_is_used():
    for name in jaxdenoise.__all__:
        assert getattr(jaxdenoise, name) is not None
    code = (
        "import sys, jaxdenoise.cli\n"
        "for args in (['list'], ['train', 'quickstart', '--model.width', '0'], ['infill', '.']):\n"
        "    jaxdenoise.cli.main(args)\n"
        "sys.exit('jax' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("jaxdenoise: ") == 2


def test_the_architecture_page_names_every_room():
    page = (PACKAGE / "README.md").read_text("utf-8")
    for rooms in ORDER:
        for room in rooms:
            assert room.split(".")[-1] in page, room

"""Files of checkpoints: what has changed on disk is seen, named and not trained on."""

import gc
import io
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdenoise.arrays import TrainState
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import override
from jaxdenoise.training.checkpoint import Checkpoints, set_damaged_aside
from jaxdenoise.training.manifest import NAME, fault, write_manifest
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory
from jaxdenoise.training.setup import build

QUIET = Console(quiet=True)
FLIPS = 40  # of every file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 1, 2 and 3."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(directory)
    for step in (1, 2, 3):
        checkpoints.save(state(step), step, {"of": step})
    checkpoints.close()
    return directory


def state(step: int) -> TrainState:
    noise = jax.random.normal(jax.random.key(step), (700,))
    return TrainState(step=jnp.int32(step), params={"w": noise}, opt_state=())


def test_every_checkpoint_has_a_manifest_of_all_its_files(saved):
    for step in (1, 2, 3):
        folder = saved / str(step)
        manifest = json.loads((folder / NAME).read_text())
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert files - {NAME} == manifest["files"].keys()
        assert len(files) > 4
        assert fault(folder) is None


def test_a_flipped_bit_anywhere_is_seen_and_its_file_named(saved, tmp_path):
    folder, rng, flips = tmp_path / "3", random.Random(0), 0
    shutil.copytree(saved / "3", folder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME):
        content = path.read_bytes()
        for place in rng.sample(range(8 * len(content)), min(FLIPS, 8 * len(content))):
            changed = bytearray(content)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            assert fault(folder) == f"{path.relative_to(folder)} is not what was saved"
            flips += 1
        path.write_bytes(content[:-1])
        if content:
            assert fault(folder) == f"{path.relative_to(folder)} is not what was saved"
        path.unlink()
        assert fault(folder) == f"{path.relative_to(folder)} is missing"
        path.write_bytes(content)
    assert fault(folder) is None
    assert flips > 5 * FLIPS


def test_a_flipped_bit_of_the_manifest_lets_nothing_pass_that_has_changed(saved, tmp_path):
    """It is seen itself, or (in a name that is not looked at) leaves all digests as they are."""
    folder, rng = tmp_path / "3", random.Random(1)
    shutil.copytree(saved / "3", folder)
    content = (folder / NAME).read_bytes()
    victim = max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    for place in rng.sample(range(8 * len(content)), 300):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        (folder / NAME).write_bytes(changed)
        assert fault(folder) is not None


def test_where_no_checkpoint_is_intact_nothing_is_moved_and_no_run_begins_anew(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    for step in "123":
        (tmp_path / "checkpoints" / step / "about" / "metadata").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .*3: about/metadata is missing; 2: "):
        set_damaged_aside(tmp_path / "checkpoints", tmp_path / "damaged", QUIET)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"1", "2", "3"}
    assert not (tmp_path / "damaged").exists()
    set_damaged_aside(tmp_path / "not there", tmp_path / "damaged", QUIET)


NONE = [b"", b"[]", b"{}", b'{"files": 3}', b"\xff", b"[" * 9999, b'{"files": [[1, 2]]}']
ELSEWHERE = [
    b'{"files": {"../x": {}}}',
    b'{"files": {"/etc/passwd": {}}}',
    b'{"files": {"a/../../x": 1}}',
]


@pytest.mark.parametrize("content", [*NONE, *ELSEWHERE])
def test_a_manifest_that_is_none_is_a_fault(tmp_path, content):
    (tmp_path / "file").write_bytes(b"1")
    write_manifest(tmp_path)
    assert fault(tmp_path) is None
    (tmp_path / NAME).write_bytes(content)
    assert fault(tmp_path) == f"{NAME} cannot be read"


@pytest.mark.parametrize("name", ["[/b]", "\0", "a" * 999, "\ud800"])
def test_a_strange_name_in_a_manifest_is_a_fault_too(tmp_path, name):
    folder = tmp_path / "checkpoints" / "2"
    shutil.copytree(_manifest_of(tmp_path / "checkpoints" / "1").parent, folder)
    (folder / NAME).write_text(json.dumps({"files": {name: {}}}))
    assert fault(folder) is not None
    set_damaged_aside(tmp_path / "checkpoints", tmp_path / "damaged", Console(file=io.StringIO()))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


def _manifest_of(folder):
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"1")
    write_manifest(folder)
    return folder / NAME


def test_damaged_checkpoints_go_aside_down_to_the_newest_that_is_intact(saved, tmp_path):
    directory, aside, out = tmp_path / "checkpoints", tmp_path / "damaged", io.StringIO()
    console = Console(file=out, width=300)
    for _ in range(2):  # a second time beside what is there
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(saved, directory)
        shutil.copytree(saved / "3", directory / "4")
        (directory / "4" / NAME).unlink()  # killed before it was complete
        (directory / "3" / "about" / "metadata").unlink()
        (directory / "2" / "_CHECKPOINT_METADATA").write_bytes(b"{")
        set_damaged_aside(directory, aside, console)
        assert [p.name for p in directory.iterdir()] == ["1"]
    assert sorted(p.name for p in aside.iterdir()) == ["2", "2-1", "3", "3-1", "4", "4-1"]
    assert "4 is damaged: it has no manifest; it is in" in out.getvalue()
    assert "3 is damaged: about/metadata is missing; it is in" in out.getvalue()
    assert "2 is damaged: _CHECKPOINT_METADATA is not what was saved" in out.getvalue()
    checkpoints = Checkpoints(directory)
    assert checkpoints.latest() == 1
    restored = checkpoints.restore(state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))
    checkpoints.save(state(2), 2, {})  # its name is free again
    checkpoints.close()
    assert fault(directory / "2") is None


def test_a_whole_checkpoint_without_manifest_is_told_by_its_sum(saved, tmp_path):
    """Where no other has one: of an older version."""
    shutil.copytree(saved, tmp_path / "checkpoints")
    for step in "123":
        (tmp_path / "checkpoints" / step / NAME).unlink()
    set_damaged_aside(tmp_path / "checkpoints", tmp_path / "damaged", QUIET)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == 3
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(state(0)), state(3))
    checkpoints.close()


@pytest.mark.slow
def test_a_run_goes_on_from_the_newest_intact_checkpoint_and_ends_as_it_would_have(tiny, tmp_path):
    setup = build(override(tiny, {"training.checkpoint_every": 3}))
    run = RunDirectory(tmp_path / "run")
    train(setup, "tiny", run, QUIET)
    rows = read_metrics(run.metrics)
    checkpoints = Checkpoints(run.checkpoints)
    assert checkpoints.steps() == [6, 9, 12]
    whole = checkpoints.restore(setup.layout())
    checkpoints.close()
    for step in (9, 12):
        victim = max((run.checkpoints / str(step)).rglob("d/*"), key=lambda p: p.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    run.results.unlink()
    out = io.StringIO()
    train(setup, "tiny", run, Console(file=out, width=300))
    assert "checkpoints/12 is damaged: state/" in out.getvalue()
    assert "continuing" in out.getvalue() and "from step 6" in out.getvalue()
    assert sorted(p.name for p in run.damaged.iterdir()) == ["12", "9"]
    checkpoints = Checkpoints(run.checkpoints)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(setup.layout()), whole)
    checkpoints.close()
    times = ("tokens_per_second", "data_wait")
    plain = [
        [{k: v for k, v in r.items() if k not in times} for r in rs]
        for rs in (rows, read_metrics(run.metrics))
    ]
    assert plain[0] == plain[1]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own
@pytest.mark.parametrize(
    ("item", "damage"),
    [
        ("state", flip),
        ("state", lambda content: content[: len(content) // 2]),
        ("state", lambda content: None),
        ("about", lambda content: content[: len(content) // 2]),
        ("about", lambda content: content.replace(b'"sum"', b'"sun"')),
        ("about", lambda content: None),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, item, damage):
    noise = jax.random.normal(jax.random.key(0), (5000,))  # nothing that would be compressed
    state = TrainState(step=jnp.zeros((), jnp.int32), params={"w": noise}, opt_state=())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, 1, {})
    checkpoints.close()
    folder = tmp_path / "checkpoints/1" / item
    pattern = {"state": "d/*", "about": "metadata"}[item]  # the data, not the notes about them
    file = max(folder.rglob(pattern), key=lambda file: file.stat().st_size)
    damaged = damage(file.read_bytes())
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    again = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoints/1 is damaged: \S+ is .*; delete it"):
        again.restore(state)
    again.close()
    gc.collect()  # Orbax leaves a coroutine that complains when it goes

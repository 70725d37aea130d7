"""Processes that cannot come together say why, in one line, and end."""

import json
import socket
import subprocess
import sys
import time

import pytest

from jaxdenoise.cli import main
from jaxdenoise.errors import UserError
from jaxdenoise.training import processes
from jaxdenoise.training.processes import Membership

FIELDS = ["--training.steps", "2", "--model.width", "16"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(*args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdenoise", "train", "quickstart", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def spoken(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and what was said, but for JAX's own connection log."""
    out, err = process.communicate(timeout=120)
    lines = [line for line in (out + err).splitlines() if not line.startswith("[Gloo]")]
    return process.returncode, "\n".join(lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("none", None, None, None), "--processes is 'none'; it must be a whole number"),
        (("2", None, None, None), "--processes 2 needs --process I, 0 to 1, and --coordinator"),
        (("2", "2", "localhost:1", None), "--process is 2; with 2 processes it ends at 1"),
        (("2", "0", "localhost", None), "--coordinator is 'localhost'; give HOST:PORT"),
        (("2", "0", "localhost:99999", None), "give HOST:PORT"),
        (("auto", "0", None, None), "leave --process and --coordinator out"),
        (("auto", None, None, "soon"), "--patience is 'soon'; it must be a whole number"),
    ],
)
def test_a_membership_that_makes_no_sense_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        Membership.of(*flags)


def test_a_membership_from_flags():
    assert Membership.of("auto", None, None, None) == Membership()
    expected = Membership(number=4, index=3, coordinator="host:8476", patience=60)
    assert Membership.of("4", "3", "host:8476", "60") == expected


def test_a_process_alone_is_first_and_waits_for_nobody():
    assert processes.first()
    assert not processes.joined()
    processes.agree({"seed": 1})
    assert processes.as_first_says(True)
    assert processes.first_before_others(lambda: 3) == 3


def test_other_flags_of_a_membership_need_the_first(capsys):
    assert main(["train", "quickstart", "--process", "1"]) == 2
    assert "--process need --processes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(tmp_path):
    place = f"localhost:{free_port()}"
    begin = time.monotonic()
    args = ("--processes", "3", "--process", "0", "--coordinator", place, "--patience", "6")
    status, said = spoken(start(*args, "--run-dir", str(tmp_path / "run"), *FIELDS))
    assert (status, said) == (
        2,
        f"jaxdenoise: process 1, 2 of 3 did not come to {place} within 6 seconds (--patience); "
        "start it, or give other --processes",
    )
    assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_of_those_that_have_come_the_first_alone_says_who_has_not(tmp_path):
    place = f"localhost:{free_port()}"
    common = ("--processes", "3", "--coordinator", place, "--run-dir", str(tmp_path / "run"))
    waiting = {0: "15", 1: "12"}  # the first one, which counts the marks, is the last to give up
    members = [
        start(*common, "--process", str(index), "--patience", patience, *FIELDS)
        for index, patience in waiting.items()
    ]
    (status, said), (other_status, other_said) = map(spoken, members)
    assert (status, other_status, other_said) == (2, 2, "")
    assert said.startswith(f"jaxdenoise: process 2 of 3 did not come to {place} within 15 seconds")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mark_that_another_launch_has_left_keeps_nobody_quiet(tmp_path):
    (tmp_path / "run.arrived").mkdir()
    (tmp_path / "run.arrived" / "0").touch()
    place = f"localhost:{free_port()}"
    args = ("--processes", "2", "--process", "1", "--coordinator", place, "--patience", "8")
    status, said = spoken(start(*args, "--run-dir", str(tmp_path / "run"), *FIELDS))
    assert status == 2
    assert said.startswith(f"jaxdenoise: process 1 of 2: the others did not come to {place}")


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        place = f"localhost:{taken.getsockname()[1]}"
        args = ("--processes", "1", "--process", "0", "--coordinator", place)
        status, said = spoken(start(*args, "--run-dir", str(tmp_path / "run"), *FIELDS))
    assert status == 2
    assert said.splitlines()[-1] == (
        f"jaxdenoise: the port of --coordinator {place} is in use; give another one"
    )


@pytest.mark.slow
def test_processes_that_disagree_name_the_field(tmp_path):
    place = f"localhost:{free_port()}"
    members = [
        start(
            *("--processes", "2", "--process", str(index), "--coordinator", place),
            *("--run-dir", str(tmp_path / "run"), "--training.backend", "pmap", *FIELDS),
            *("--optimizer.learning-rate", str(rate)),
        )
        for index, rate in enumerate((0.01, 0.02))
    ]
    (status, said), (other_status, other_said) = map(spoken, members)
    assert (status, other_status) == (2, 2)
    assert said == (
        "jaxdenoise: the processes disagree: optimizer.learning_rate is 0.01 in process 0 and "
        "0.02 in process 1; start all with the same command, where they see the same files"
    )
    assert other_said == ""
    assert not (tmp_path / "run").exists()


def test_texts_of_all_processes_are_json(monkeypatch):
    monkeypatch.setattr(processes, "joined", lambda: True)
    monkeypatch.setattr(processes, "_of_all", lambda text: [text, json.dumps({"seed": 2})])
    monkeypatch.setattr(processes, "first", lambda: True)
    with pytest.raises(UserError, match="seed is 1 in process 0 and 2 in process 1"):
        processes.agree({"seed": 1})
    with pytest.raises(UserError, match="seed is 1 in process 0"):  # and the folder follows from it
        processes.agree({"seed": 1, "run_dir": "runs/x-1"})
    monkeypatch.setattr(processes, "first", lambda: False)
    with pytest.raises(SystemExit):
        processes.agree({"seed": 1})

"""Processes of one run start, are stopped and end together; the first cause is what is said."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.launch import together
from jaxdenoise.launch.places import Local
from jaxdenoise.launch.together import check_port, free_port, on_this_machine, run_together

# Children by what they do; `ready` and its number is a file that says that one has begun.
CHILD = """
import os, pathlib, signal, sys, time

def stop(number, frame):
    print("saved", flush=True)
    sys.exit(130)

does, number, *rest = sys.argv[1:]
if does == "saves":
    signal.signal(signal.SIGTERM, stop)
if does == "is deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("output of", number, flush=True)
pathlib.Path("ready" + number).write_text(str(os.getpid()))
if does == "fails":
    time.sleep(0.2)
    print("jaxdenoise: the cause in", number, file=sys.stderr)
    sys.exit(int(rest[0]))
if does == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0 if does == "ends" else 60)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, in which logs are kept too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def commands(*children: str) -> list[list[str]]:
    parted = [child.split(":") for child in children]
    return [
        [sys.executable, "-c", CHILD, does, str(number), *rest]
        for number, (does, *rest) in enumerate(parted)
    ]


def run(*children: str) -> int:
    begin = time.monotonic()
    status = run_together(commands(*children), os.environ, patience=0.3)
    assert time.monotonic() - begin < 20  # of the 60 that most would take
    for number in range(len(children)):
        pid = Path(f"ready{number}")
        if pid.exists():
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid.read_text()), 0)
    return status


def logs() -> list[str]:
    return sorted(path.name for path in Path.cwd().glob("jaxdenoise-*/*"))


def test_all_end_well_and_only_the_first_is_heard(capfd):
    assert run("ends", "ends", "ends") == 0
    assert capfd.readouterr() == ("output of 0\n", "")
    assert logs() == []


@pytest.mark.parametrize("others", ["sleeps", "is deaf"])
def test_when_one_fails_the_others_are_ended_and_it_is_shown(others, capfd):
    assert run(others, "fails:7", others) == 7
    out, err = capfd.readouterr()
    assert out == "output of 0\n"
    shown = err.splitlines()
    assert shown[:2] == ["[1] output of 1", "[1] jaxdenoise: the cause in 1"]
    assert shown[2].startswith("jaxdenoise: process 1 of 3 failed first, with status 7")
    assert shown[2].endswith(f"all logs: {next(Path.cwd().glob('jaxdenoise-*'))}")
    assert len(shown) == 3
    assert logs() == ["process-1.log", "process-2.log"]


def test_a_process_that_is_killed_has_the_status_of_a_shell(capfd):
    assert run("sleeps", "dies") == 128 + signal.SIGKILL
    assert "process 1 of 2 failed first, with status 137" in capfd.readouterr().err


def test_what_the_first_has_said_is_not_said_again(capfd):
    assert run("fails:3", "sleeps") == 3
    err = capfd.readouterr().err.splitlines()
    assert err[0] == "jaxdenoise: the cause in 0"
    assert err[1].startswith("jaxdenoise: process 0 of 2 failed first, with status 3")
    assert len(err) == 2


@pytest.mark.parametrize(
    ("children", "line"),
    [
        (("fails:2", "fails:2"), "jaxdenoise: the cause in 0\n"),  # all found the same mistake
        (("fails:2", "sleeps"), "jaxdenoise: the cause in 0\n"),
        (("sleeps", "fails:2"), "jaxdenoise: the cause in 1\n"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(children, line, capfd):
    assert run(*children) == 2
    assert capfd.readouterr().err == line
    assert logs() == []


RUN = """
import os, sys, tempfile
from jaxdenoise.launch.together import run_together
tempfile.tempdir = "."
commands = eval(sys.argv[1])
try:
    sys.exit(run_together(commands, os.environ))
except KeyboardInterrupt:  # as the command line does
    print("interrupted")
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("children", "signals", "status", "output"),
    [
        (("saves", "saves"), [signal.SIGINT], 130, "output of 0\nsaved\n"),
        (("saves", "saves"), [signal.SIGTERM], 130, "output of 0\nsaved\n"),
        (("sleeps", "sleeps"), [signal.SIGTERM], 143, "output of 0\n"),
        (("sleeps", "sleeps"), [signal.SIGINT], 130, "output of 0\ninterrupted\n"),
        (("is deaf", "is deaf"), [signal.SIGTERM, signal.SIGTERM], 137, "output of 0\n"),
    ],
)
def test_a_signal_goes_to_all_once_and_a_second_one_kills(children, signals, status, output):
    root = Path(together.__file__).parents[2]
    launcher = subprocess.Popen(
        [sys.executable, "-c", RUN, repr(commands(*children))],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for number in range(len(children)):
        while not Path(f"ready{number}").exists() or not Path(f"ready{number}").read_text():
            assert launcher.poll() is None
            time.sleep(0.02)
    for one in signals:
        launcher.send_signal(one)
        time.sleep(0.3)
    assert launcher.communicate(timeout=20) == (output, "")
    assert launcher.returncode == status
    assert logs() == []


def test_every_process_is_told_its_number_and_sees_its_devices(monkeypatch):
    ran = []
    monkeypatch.setattr(together, "run_together", lambda *args: ran.append(args) or 5)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("KEPT", "yes")
    port = free_port()
    place = Local(processes=2, devices_per_process=3, port=port)
    assert on_this_machine(["train", "quickstart", "--seed", "1"], place) == 5
    [(started, environment)] = ran
    begin = [sys.executable, "-m", "jaxdenoise", "train", "quickstart", "--seed", "1"]
    common = [*begin, "--processes", "2", "--coordinator", f"localhost:{port}"]
    assert started == [[*common, "--process", "0"], [*common, "--process", "1"]]
    wanted = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "3", "KEPT": "yes"}
    assert wanted.items() <= environment.items()


def test_accelerators_are_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="JAX_PLATFORMS is cuda; .* leave it out"):
        on_this_machine(["train", "quickstart"], Local())


def test_a_port_in_use_is_refused_and_one_that_was_is_not():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
        server.bind(("localhost", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port is {port}, .*give another --port, or none"):
            check_port(port)
        client = socket.create_connection(("localhost", port))
        server.accept()[0].close()  # leaves the port in TIME_WAIT
        client.close()
    check_port(port)
    check_port(free_port())

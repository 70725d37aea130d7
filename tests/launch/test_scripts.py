"""Scripts say what they should, are shell, and do it, with programs that only pretend."""

import dataclasses
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.launch.places import Gke, Slurm, Tpu, accelerator
from jaxdenoise.launch.scripts import Job, gke_script, slurm_script, tpu_script

FLAGS = ("--data.files", "gs://c4/*.jsonl", "gs://b/it's.jsonl", "--training.backend", "mesh")
TRAIN = ["train", "t5_base", *FLAGS, "--processes", "auto", "--run-dir"]
JOB = Job(experiment="t5_base", flags=FLAGS, run_dir="gs://b/runs/t5", name="t5_base-1a2b")
SLURM = """#!/bin/bash
#SBATCH --job-name=t5_base-1a2b
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=6
#SBATCH --time=12:00:00
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --qos=high
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=t5_base-1a2b-%j.log
"""
LAST_LINES = """trap : TERM
. venv/bin/activate
export CACHE='/a b'
srun --cpus-per-task=6 jaxdenoise train t5_base \\
  --seed 1 \\
  --processes auto \\
  --run-dir runs/t5
status=$?
if [ "$status" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 7 ]; then
  echo "ended with status $status: queued again, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A function that puts a program of shell into an otherwise ordinary PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def put(name: str, shell: str) -> None:
        path = tmp_path / name if "/" in name else programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{shell}\n")
        path.chmod(0o755)

    return put


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """What it did; a loop without an end is an error."""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)


def lines(name: str) -> list[str]:
    return Path(name).read_text().splitlines() if Path(name).exists() else []


@pytest.mark.parametrize(
    "script",
    [
        slurm_script(JOB, Slurm()),
        slurm_script(JOB, Slurm(env=("A=b c",), setup="module load cuda; . v/bin/activate")),
        tpu_script(JOB, Tpu(topology="v5e:4x4", zone="us-west4-a")),
        tpu_script(JOB, Tpu(topology="v4:2x2x2", zone="z", spot=True, project="p", env=("A=b c",))),
        gke_script(JOB, Gke(cluster="c", topology="v6e:16x16", zone="z")),
        gke_script(JOB, Gke(cluster="c", topology="v5p:4x4x4", zone="z", image="gcr.io/p/i:1")),
    ],
)
def test_scripts_are_shell(script):
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "{{" not in script and "{%" not in script
    assert all(line == line.rstrip() for line in script.splitlines())


def test_the_script_for_slurm():
    job = Job(experiment="t5_base", flags=("--seed", "1"), run_dir="runs/t5", name="t5_base-1a2b")
    place = Slurm(
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=6,
        time="12:00:00",
        partition="gpu",
        account="lab",
        sbatch=("qos=high", "exclusive"),
        grace_seconds=120,
        max_restarts=7,
        env=("CACHE=/a b",),
        setup=". venv/bin/activate",
    )
    script = slurm_script(job, place)
    assert script.startswith(SLURM)
    assert script.endswith(LAST_LINES)


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, 0, False), (1, 0, False), (2, 0, False), (130, 0, True), (134, 4, True), (130, 5, False)],
)
def test_slurm_queues_again_what_was_stopped(status, restarts, again, pretend, monkeypatch):
    pretend("srun", f'printf "%s\\n" "$@" > srun; exit {status}')
    pretend("scontrol", 'echo "$*" > scontrol')
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    ran = shell(slurm_script(JOB, Slurm(max_restarts=5)))
    assert ran.returncode == status
    assert lines("scontrol") == (["requeue 42"] if again else [])
    assert lines("srun") == ["jaxdenoise", *TRAIN, "gs://b/runs/t5"]


# Each call of gcloud is the next line of the play: what is called, its status, what it prints.
GCLOUD = """
read -r verb status output < <(sed -n 1p play)
sed -i 1d play
echo "$3 $4 $*" >> calls
[ "$4" = "$verb" ] || { echo "$4 instead of $verb" >> wrong; exit 99; }
[ -z "$output" ] || echo "$output"
exit "$status"
"""
READY = "describe 0 ACTIVE\nscp 0\nssh 0\n"
NONE_YET = "describe 1\ncreate 0\ndescribe 0 WAITING_FOR_RESOURCES\n"


@pytest.mark.parametrize(
    ("play", "status"),
    [
        (NONE_YET + READY + "ssh 0\ndelete 0", 0),
        ("describe 0 ACTIVE\n" + READY + "ssh 0\ndelete 0", 0),  # from a script that was stopped
        # Preempted: created again, and trained on.
        (
            NONE_YET + READY + "ssh 255\ndescribe 0 SUSPENDING\ndescribe 0 SUSPENDED\ndelete 0\n"
            "create 1\ncreate 0\n" + READY + "ssh 0\ndelete 0",
            0,
        ),
        # Stopped, on machines that are still there.
        (NONE_YET + READY + "ssh 130\n" + READY + "ssh 0\ndelete 0", 0),
        (
            NONE_YET + READY + "ssh 134\n" + READY + "ssh 134\n" + READY + "ssh 134\ndelete 0",
            134,
        ),
        # Failed: not tried again, and nothing is left that costs.
        (NONE_YET + READY + "ssh 2\ndescribe 0 ACTIVE\ndelete 0", 2),
        (NONE_YET + "describe 0 ACTIVE\nscp 0\nssh 1\ndescribe 0 ACTIVE\ndelete 0", 1),
        ("describe 1\ncreate 1", 1),
    ],
)
def test_a_slice_is_created_again_until_the_run_has_ended(play, status, pretend):
    pretend("gcloud", GCLOUD)
    pretend("sleep", "")
    pretend("dist/a.whl", "")
    Path("play").write_text(play + "\n")
    place = Tpu(topology="v5e:4x8", zone="z", package=("dist/a.whl",), max_restarts=2, spot=True)
    ran = shell(tpu_script(JOB, place))
    assert lines("wrong") == []
    assert lines("play") == []
    assert ran.returncode == status


def test_a_missing_wheel_is_found_before_there_is_a_slice(pretend):
    pretend("gcloud", "echo called > called")
    assert shell(tpu_script(JOB, Tpu(topology="v5e:4x8", zone="z"))).returncode == 1
    assert lines("called") == []


def test_the_commands_for_a_slice_reach_its_workers_as_they_are(pretend, tmp_path):
    pretend(
        "gcloud", 'case "$*" in *command=*) for a; do echo "$a"; done >> calls; esac\necho ACTIVE'
    )
    pretend("dist/jaxdenoise-0.1.0-py3-none-any.whl", "")
    place = Tpu(topology="v5e:4x8", zone="z", env=("A=b c",), project="p")
    assert shell(tpu_script(JOB, place)).returncode == 0
    install, train = (c.partition("=")[2] for c in lines("calls") if c.startswith("--command="))
    assert "--worker=all" in lines("calls") and "--project=p" in lines("calls")
    # What a worker would do.
    pretend("python3", 'printf "%s " "$@" >> installed; echo >> installed')
    pretend(".jaxdenoise/bin/jaxdenoise", 'printf "%s\\n" "$A" "$@" > trained')
    assert shell(install).returncode == 0
    assert lines("installed")[2].endswith(
        "--python .jaxdenoise/bin/python ./jaxdenoise-0.1.0-py3-none-any.whl[gcs,hf,tpu] "
    )
    assert shell(train).returncode == 0
    assert lines("trained") == ["b c", *TRAIN, "gs://b/runs/t5"]


def test_what_a_logger_needs_is_installed():
    job = dataclasses.replace(JOB, flags=("--log", "tensorboard"))
    assert "whl[gcs,hf,tpu,log]" in tpu_script(job, Tpu(topology="v5e:4x4", zone="z"))
    assert "whl[gcs,hf,tpu,log]" in gke_script(job, Gke(cluster="c", topology="v5e:4x4", zone="z"))


def test_the_commands_of_a_slice_have_its_names():
    place = Tpu(topology="v5p:8x8x8", zone="us-east5-a", project="lab", spot=True)
    script = tpu_script(JOB, place)
    assert "name=t5-base-1a2b\nwhere=(--zone=us-east5-a --project=lab --quiet)\n" in script
    assert "--accelerator-type=v5p-1024 --runtime-version=v2-alpha-tpuv5 --spot\n" in script
    plain = tpu_script(
        JOB, Tpu(topology="v4:2x2x1", zone="z", runtime_version="mine", name="My_Tpu")
    )
    assert "name=my-tpu\nwhere=(--zone=z --quiet)\n" in plain
    assert "--accelerator-type=v4-8 --runtime-version=mine\n" in plain


XPK = """python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >> calls"""


def test_the_workload_is_submitted_as_it_is(pretend):
    pretend("xpk", XPK)
    pretend("dist/jaxdenoise-0.1.0-py3-none-any.whl", "")
    place = Gke(
        cluster="pod",
        topology="v5e:16x16",
        zone="us-west4-a",
        slices=2,
        create_cluster=True,
        spot=True,
        env=("A=b c", "D=e"),
        max_restarts=9,
    )
    assert shell(gke_script(JOB, place)).returncode == 0
    created, submitted, waited = map(json.loads, lines("calls"))
    where = ["--cluster=pod", "--zone=us-west4-a"]
    slices = ["--tpu-type=v5litepod-256", "--num-slices=2"]
    assert created == ["cluster", "create", *where, *slices, "--spot"]
    command = submitted.pop().removeprefix("--command=")
    assert submitted == [
        *("workload", "create", *where, "--workload=t5-base-1a2b", *slices),
        *("--max-restarts=9", "--termination-grace-period-seconds=90"),
        *("--env=A=b c", "--env=D=e", "--base-docker-image=python:3.12", "--script-dir=dist"),
    ]
    assert waited == ["workload", "list", *where, "--wait-for-job-completion=t5-base-1a2b"]
    # What a container would do, as XPK writes it: signals reach the command alone. (New shells need
    # no exec for that.)
    assert "&& exec jaxdenoise train" in command
    pretend("pip", 'printf "%s\\n" "$@" > installed')
    pretend("jaxdenoise", 'printf "%s\\n" "$$" "$@" > trained')
    ran = shell(f"({command}) & echo $!; wait $!")
    assert lines("installed")[-1] == "./jaxdenoise-0.1.0-py3-none-any.whl[gcs,hf,tpu]"
    assert lines("trained") == [ran.stdout.strip(), *TRAIN, "gs://b/runs/t5"]


def test_an_image_has_everything_and_the_cluster_is_not_touched():
    place = Gke(cluster="c", topology="v5e:4x4", zone="z", image="gcr.io/p/i:1")
    script = gke_script(JOB, place)
    assert "# xpk cluster create" in script and "\nxpk cluster create" not in script
    assert "  --docker-image=gcr.io/p/i:1 \\\n" in script
    assert "script-dir" not in script and "pip" not in script


@pytest.mark.parametrize(
    ("topology", "name"),
    # As XPK knows them.
    [
        ("v5e:16x16", "v5litepod-256"),
        ("v5e:4x4", "v5litepod-16"),
        ("v6e:16x16", "v6e-256"),
        ("v5p:8x8x8", "v5p-1024"),
        ("v5p:2x2x1", "v5p-8"),
        ("v4:4x8x8", "v4-512"),
    ],
)
def test_topologies_have_googles_names(topology, name):
    assert accelerator(topology)[0] == name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slurm(nodes=0), "nodes is 0; it must be at least 1"),
        (lambda: Slurm(gpus_per_node=-1), "gpus_per_node is -1"),
        (lambda: Slurm(time="a day"), "time is 'a day'"),
        (lambda: Slurm(partition="a b"), "partition is 'a b'; it must be one word"),
        (lambda: Slurm(sbatch=("--qos=high",)), "without its dashes"),
        (lambda: Slurm(env=("A",)), "env is 'A'; it must be NAME=VALUE"),
        (lambda: Slurm(max_restarts=-1), "max_restarts is -1"),
        (lambda: Tpu(topology="v7:2x2"), "unknown TPU 'v7'"),
        (lambda: Tpu(topology="v5e"), "slices of v5e are v5e:1x1"),
        (lambda: Gke(topology="v5p:16x16"), "'v5p:16x16' does not exist"),
        (lambda: Tpu(zone="$(id)"), "zone is"),
        (lambda: Tpu(package=("a.tar.gz",)), "it must be a wheel"),
        (lambda: Gke(package=("a/x.whl", "b/y.whl")), "in 2 folders"),
        (lambda: Gke(slices=0), "slices is 0"),
        (lambda: tpu_script(JOB, Tpu(zone="z")), "--topology is missing"),
        (lambda: gke_script(JOB, Gke(topology="v5e:4x4", zone="z")), "--cluster is missing"),
        (
            lambda: tpu_script(JOB, Tpu(topology="v5e:4x4", zone="z", name="1" * 41)),
            "it must begin with a letter",
        ),
        (
            lambda: tpu_script(
                Job(experiment="e", run_dir="runs/e", name="e"), Tpu(topology="v5e:4x4", zone="z")
            ),
            "give --run-dir gs://BUCKET/e",
        ),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_quoting_holds_for_every_flag():
    flags = ("--data.field", "a\"b'c$d`e\\f!g h")
    script = slurm_script(Job(experiment="e", flags=flags, run_dir="r", name="e"), Slurm())
    srun = script[script.index("srun ") : script.index("status=")]
    assert shlex.split(srun.replace("\\\n", ""))[4:6] == list(flags)

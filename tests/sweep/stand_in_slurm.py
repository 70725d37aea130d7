"""A SLURM of one machine, as much of it as a sweep uses; the name of the link says which program.

Jobs are directories in $SLURM_STAND_IN, by number, with the process that runs each in `pid`.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

JOBS = Path(os.environ.get("SLURM_STAND_IN", "."))  # collecting tests imports this too


def sbatch(script: str) -> None:
    """Starts every member of an array at once, as a group of processes of its own."""
    text = Path(script).read_text("utf-8")
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    number = sum(1 for _ in JOBS.glob("sbatch-*")) + 1
    (JOBS / f"sbatch-{number}").touch()
    for member in range(int(array[1]) + 1) if array else (None,):
        name = f"{number}" if member is None else f"{number}_{member}"
        told = {"SLURM_JOB_ID": str(number * 100 + (member or 0)), "SLURM_STAND_IN_NAME": name}
        if member is not None:
            told |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(member)}
        job = subprocess.Popen(
            ["bash", script],
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (JOBS / name).write_text(str(job.pid), "utf-8")
    print(f"Submitted batch job {number}")


def srun(*args: str) -> None:
    """Runs the command behind its own options, its output where they say."""
    command = list(args[[arg.startswith("/") and "%" not in arg for arg in args].index(True) :])
    log = (JOBS / f"log-{os.environ['SLURM_STAND_IN_NAME']}").open("ab")
    sys.exit(subprocess.run(command, stdout=log, stderr=log, check=False).returncode)


def squeue(*_: str) -> None:
    """The numbers of those whose process is there."""
    print("\n".join(path.name for path in JOBS.glob("[0-9]*") if _runs(path)))


def scancel(*numbers: str) -> None:
    """SIGTERM to all of a job."""
    for number in numbers:
        if _runs(JOBS / number):
            os.killpg(int((JOBS / number).read_text("utf-8")), signal.SIGTERM)


def _runs(path: Path) -> bool:
    """Whether the process lives; one that nobody waits for any more does not."""
    stat = Path("/proc", path.read_text("utf-8"), "stat")
    return stat.exists() and stat.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])

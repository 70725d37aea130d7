"""`jaxdenoise launch` as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdenoise.cli import main
from jaxdenoise.experiment import experiment, experiments, load_experiments
from jaxdenoise.launch import together

MESH = ["--training.backend", "mesh"]
TPU = [*MESH, "--on", "tpu", "--topology", "v5e:4x4", "--zone", "z", "--run-dir", "gs://b/r"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["t5_base"], "--on is missing; give one of local, slurm, tpu, gke"),
        (["t5_base", "--on", "slrm"], "unknown place 'slrm': did you mean 'slurm'?"),
        (["t5_bse", "--on", "slurm"], "did you mean 't5_base'?"),
        (["t5_base", "--on", "slurm", "--training.stps", "3"], "did you mean 'training.steps'?"),
        (["t5_base", "--on", "slurm", "--seed", "-1"], "seed is -1"),
        (["t5_base", "--on", "slurm", "--partiton", "x"], "did you mean 'partition'?"),
        (["t5_base", "--on", "slurm", "--zone", "x"], "unknown option of launch --on slurm 'zone'"),
        (["t5_base", "--on", "slurm", "--nodes", "two"], "nodes is 'two'; it must be a whole"),
        (["quickstart", "--on", "slurm"], "backend is single, but there are several processes"),
        (
            ["t5_base", *TPU, "--training.batch-size", "24"],
            "batch_size is 24, which training.mesh.data 16 × fsdp 1 do not divide; give 16 or 32",
        ),
        (
            ["t5_base", "--on", "local", "--processes", "3", *MESH, "--training.mesh.fsdp", "2"],
            "fsdp 2 × tensor 1, which does not divide the 3 devices",
        ),
        (
            ["t5_base", "--on", "slurm", "--run", *MESH],
            "sbatch is not on this machine; leave out --run",
        ),
        (["t5_base", "--on", "slurm", "--run-dir", "full"], "full is not empty and is no run"),
        (["t5_base", "--on", "local", "--processes", "0"], "processes is 0; it must be at least 1"),
        (["t5_base", "--on", "local", "--port", "70000"], "port is 70000"),
        (["t5_base", "--on", "local", "--optimizer.b1", "2"], "optimizer.b1 is 2.0"),
        (["t5_base", *TPU, "--data.files", "c4/*.jsonl"], "'c4/*.jsonl' is a file of this machine"),
        (
            ["t5_base", *TPU, "--data.mixture", "pydocs", "1", "hf:a/b", "1", "a.txt", "1"],
            "'a.txt' is a file of this machine",
        ),
        (["t5_base", *TPU, "--log", "tensorbord"], "did you mean 'tensorboard'?"),
        (["t5_base", *TPU, "--log", "wandb"], "'gs://b/r' is an address; set WANDB_MODE=online"),
        (["mine", *TPU], "give it with --package dist/jaxdenoise-0.1.0-py3-none-any.whl YOURS.whl"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line_and_nothing_starts(args, message, capsys, elsewhere, monkeypatch):
    def started(*args):
        raise AssertionError

    def mine():
        return experiments["quickstart"]()

    monkeypatch.setattr(together, "run_together", started)
    (elsewhere / "full").mkdir()
    (elsewhere / "full/file").touch()
    load_experiments()
    with experiments.scope():
        experiment(mine)
        assert main(["launch", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxdenoise: ") and err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["full"]


def test_help_shows_the_places_and_the_options_of_one(capsys):
    assert main(["launch", "--help"]) == 0
    assert "usage: jaxdenoise launch" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["launch", "t5_base", "--on", "slurm", "--help"])
    assert "--gpus-per-node" in capsys.readouterr().out


def test_a_script_is_printed_or_written_or_run(capsys, elsewhere, monkeypatch):
    args = ["launch", "t5_base", "--on", "slurm", "--nodes", "2", *MESH]
    assert main(args) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --nodes=2\n" in script
    assert "jaxdenoise train t5_base \\\n  --training.backend mesh \\\n" in script
    assert "--run-dir runs/t5_base-" in script
    assert main([*args, "--write", "job.sh"]) == 0
    assert capsys.readouterr().out == "written: job.sh\n"
    assert (elsewhere / "job.sh").read_text() == script
    assert os.access("job.sh", os.X_OK)
    sbatch = elsewhere / "sbatch"
    sbatch.write_text("#!/bin/bash\ncat > submitted\nexit 3\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{elsewhere}:/usr/bin:/bin")
    assert main([*args, "--run"]) == 3
    assert (elsewhere / "submitted").read_text() == script
    gcloud = elsewhere / "gcloud"
    gcloud.write_text("#!/bin/bash\nexit 5\n")
    gcloud.chmod(0o755)
    assert main(["launch", "t5_base", *TPU, "--run", "--package", "sbatch.whl"]) == 1
    assert capsys.readouterr().out == ""


def test_what_train_is_given_is_what_was_typed(monkeypatch):
    ran = []
    monkeypatch.setattr(together, "run_together", lambda commands, env: ran.extend(commands) or 0)
    args = [*MESH, "--seed", "3", "--data.files", "a.txt", "b.txt", "--profile", "10:15"]
    args += ["--log", "wandb", "tensorboard"]
    again = [*args[:-1], "--log", "tensorboard"]
    assert main(["launch", "quickstart", "--on", "local", "--processes", "4", *again]) == 0
    assert len(ran) == 4
    assert ran[2][3:5] == ["train", "quickstart"]
    assert ran[2][5:17] == args
    assert ran[2][17] == "--run-dir" and ran[2][18].startswith("runs/quickstart-")
    assert ran[2][-2:] == ["--process", "2"]


def test_a_script_needs_no_jax():
    code = (
        "import sys, jaxdenoise.cli\n"
        f"status = jaxdenoise.cli.main(['launch', 't5_base', *{TPU}])\n"
        "sys.exit(status or 'jax' in sys.modules)"
    )
    root = str(Path(together.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)

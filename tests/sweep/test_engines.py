"""Engines: their options, what each job gets of a machine, and when a job counts as ended."""

import dataclasses
import pickle
import signal
import sys

import pytest

from jaxdenoise.cli import main
from jaxdenoise.errors import UserError
from jaxdenoise.sweep import on_processes, on_slurm
from jaxdenoise.sweep.jobs import Job, fail
from jaxdenoise.sweep.on_processes import Local
from jaxdenoise.sweep.on_ray import Ray
from jaxdenoise.sweep.on_slurm import Slurm
from jaxdenoise.sweep.worker import do_task, make_tasks, settle, thread_limits
from jaxdenoise.training import loop
from jaxdenoise.training.run_directory import write_json

CONFIG = "t5_table6_corruption_rate"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep's file in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/x/sweep.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def make_job(name: str) -> Job:
    return Job(name=name, arm=name, experiment={}, path=f"runs/x/{name}", objectives={})


def finish(job: Job) -> None:
    job.run.path.mkdir(parents=True)
    write_json(job.measures, {})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["here", "--parallel", "2"], "option of sweep --engine here 'parallel': Known: none"),
        (["ray", "--cpu-per-job", "2"], "mean 'cpus_per_job'? Known: cpus_per_job, gpus_per_job"),
        (["local", "--cpus-per-job", "0"], "cpus_per_job is 0; it must be at least 1"),
        (["local", "--parallel", "two"], "parallel is 'two'; it must be a whole number"),
        (["local", "--gpus-per-job", "3", "--parallel", "2"], "are 6, this machine has 4; give"),
        (["slurm", "--time", "soon"], "time is 'soon'; it must be as SLURM has it"),
        (["slurm", "--time", "2:30"], "time is '2:30'; it must be at least 5 minutes"),
        (["slurm", "--sbatch", "--qos"], "--sbatch has no value"),
        (["ray"], "needs ray (import of ray halted; None in sys.modules); pip install 'jaxden"),
        (["slurm"], "pip install 'jaxdenoise[slurm]'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_engine_cannot_do_is_a_line_before_anything(
    args, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    for package in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["sweep", CONFIG, "--engine", *args]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert list(tmp_path.iterdir()) == []


def test_slurm_is_wanted_where_the_command_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch and srun and squeue and scancel are not on this"):
        Slurm().begin()


def test_on_one_machine_every_job_has_its_own_gpus_and_an_equal_share_of_cores():
    eight = [str(index) for index in range(8)]
    found = Local().environments(eight, 64)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == eight
    assert {each["NPROC"] for each in found} == {"8"}
    found = Local(gpus_per_job=2, cpus_per_job=3).environments(eight[:5], 64)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0,1", "2,3"]
    assert {each["NPROC"] for each in found} == {"3"}
    assert Local().environments([], 6) == [thread_limits(6)]
    assert Local(parallel=3).environments([], 2) == [thread_limits(1)] * 3
    on_cpu = {**thread_limits(16), "JAX_PLATFORMS": "cpu"}
    assert Local(parallel=4, gpus_per_job=0).environments(eight, 64) == [on_cpu] * 4


def test_gpus_are_counted_without_touching_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-1f")
    assert on_processes.visible_gpus() == ["2", "GPU-1f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert on_processes.visible_gpus() == []


def test_in_a_ray_cluster_a_job_has_a_gpu_and_its_share_or_a_machine():
    gpus, cpus = {"CPU": 64.0, "GPU": 8.0, "memory": 1e12}, {"CPU": 16.0}
    assert Ray().share([gpus, cpus]) == (8, 1)
    assert Ray(gpus_per_job=4).share([gpus, cpus]) == (32, 4)
    assert Ray(gpus_per_job=0).share([gpus, cpus]) == (16, 0)
    assert Ray().share([cpus, {"CPU": 4.0}]) == (4, 0)
    assert Ray(cpus_per_job=8).share([cpus, {"CPU": 4.0}]) == (8, 0)
    with pytest.raises(UserError, match="has 1 CPUs and 16 GPUs for a job, they have 16 CPUs and"):
        Ray(gpus_per_job=16).share([gpus, cpus])
    with pytest.raises(UserError, match="they have nothing"):
        Ray().share([])


def test_a_ray_worker_is_told_about_jax_and_where_data_are_kept(monkeypatch):
    monkeypatch.setenv("JAXDENOISE_CACHE", "/shared/cache")
    monkeypatch.setenv("SECRET", "x")
    told = Ray(gpus_per_job=0).environment(4)
    assert told["JAXDENOISE_CACHE"] == "/shared/cache" and "SECRET" not in told
    assert told["NPROC"] == "4" and told["JAX_PLATFORMS"] == "cpu"


def test_what_submitit_is_told():
    found = Slurm().parameters("x")
    assert found == {
        "job_name": "x",
        "time": 1440,
        "setup": [],
        "additional_parameters": {"requeue": True},
        "gres": "gpu:1",
    }
    found = Slurm(
        partition="long",
        account="us",
        time="2:00:00",
        cpus_per_job=4,
        gpus_per_job=0,
        parallel=8,
        sbatch=("qos=high", "exclusive"),
        setup=". venv/bin/activate",
    ).parameters("x")
    assert found["additional_parameters"] == {"requeue": True, "qos": "high", "exclusive": True}
    assert found["setup"][0] == ". venv/bin/activate"
    assert {"export NPROC=4", "export JAX_PLATFORMS=cpu"} < set(found["setup"])
    assert found["srun_args"] == ["--cpus-per-task=4"] and found["cpus_per_task"] == 4
    assert (found["partition"], found["account"], found["time"]) == ("long", "us", 120)
    assert found["array_parallelism"] == 8 and "gres" not in found


def test_jobs_that_slurm_has_are_waited_for_and_only_others_submitted(sweep, monkeypatch):
    jobs = [make_job(name) for name in "abcd"]
    tasks = make_tasks(jobs, sweep)
    (sweep.parent / "slurm").mkdir()
    submitted, cancelled = [], []
    looks = iter([{"1_1"}, {"1_1", "2_0"}, None, {"1_1"}, {"1_1"}, {"1_1"}])

    def submit(engine, fresh, folder):
        submitted.append([task.job.name for task in fresh])
        return {"a": "2_0", "c": "2_1", "d": "2_2"}

    monkeypatch.setattr(Slurm, "_submit", submit)
    monkeypatch.setattr(on_slurm, "queued_jobs", lambda: next(looks))
    monkeypatch.setattr(on_slurm, "POLL", 0)
    monkeypatch.setattr(on_slurm.subprocess, "run", lambda command, **_: cancelled.extend(command))
    write_json(sweep.parent / "slurm/submitted.json", {"b": "1_1", "a": "1_0"})
    finish(jobs[2])
    ended = Slurm()(tasks)
    assert next(ended).name == "c"  # by its own word
    assert submitted == [["a", "c", "d"]]
    # The look that saw nothing says nothing; missed by two others on end, they have ended.
    assert [next(ended).name for _ in range(2)] == ["a", "d"]
    assert "SLURM has ended its job 2_2" in jobs[3].reason()
    assert jobs[1].state() == "waiting"
    ended.close()
    assert cancelled == ["scancel", "1_1"]


def test_jobs_are_left_to_slurm(sweep, monkeypatch):
    monkeypatch.setattr(Slurm, "_submit", lambda *_: {"a": "1"})
    (sweep.parent / "slurm").mkdir()
    assert list(Slurm(submit_only=True)(make_tasks([make_job("a")], sweep))) == []
    assert (sweep.parent / "slurm/submitted.json").exists()


def stop_in_a_step(queued):
    signal.raise_signal(signal.SIGUSR2)
    assert queued == ["again"]  # no step was under way: there is nothing to save
    with loop._signals() as stop:
        signal.raise_signal(signal.SIGUSR2)
    assert stop.requested and queued == ["again"]
    raise loop.Interrupted(3)


def test_when_its_time_is_up_a_job_saves_first_and_is_queued_again():
    queued = []
    before = signal.signal(signal.SIGUSR2, lambda *_: queued.append("again"))
    try:
        with pytest.raises(SystemExit), on_slurm.saved_before_queued_again():
            stop_in_a_step(queued)
        assert queued == ["again"] * 2
        with pytest.raises(SystemExit), on_slurm.saved_before_queued_again():
            raise loop.Interrupted(3)  # cancelled: SLURM alone says whether it is queued again
        assert queued == ["again"] * 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_worker_that_does_not_see_the_same_folder_says_so(sweep, tmp_path):
    [task] = make_tasks([make_job("a")], sweep)
    task = pickle.loads(pickle.dumps(task))
    sweep.write_text('{"of": "another"}')
    assert f"does not see '{sweep.parent}' as it is here; give a --dir" in do_task(task)
    other = dataclasses.replace(task, folder="/nowhere", sweep="runs/y/sweep.json")
    assert "does not see 'runs/y'" in do_task(other)
    assert task.job.state() == "waiting"


def test_a_module_that_workers_lack_is_why_a_job_fails_for_now(sweep, tiny):
    [task] = make_tasks([make_job("a")], sweep, ["nowhere_at_all"])
    assert do_task(task) == ""
    assert task.job.reason().startswith("--module nowhere_at_all cannot be imported")
    task.job.run.check(tiny)  # nothing else is there: the directory is as free as before


def test_a_worker_that_ended_without_a_word_has_failed(sweep, monkeypatch):
    monkeypatch.setattr("jaxdenoise.sweep.worker.LAG", 0)
    silent, failed, done = map(make_job, "abc")
    fail(failed, ValueError("of its own"))
    finish(done)
    assert settle(silent, "killed").reason() == "killed"
    assert settle(failed, "killed").reason() == "ValueError: of its own"
    assert settle(done, "killed").state() == "done"


class FakeRay:
    """Ray, as much of it as an engine uses: workers give the words that they are told to give."""

    class exceptions:  # noqa: N801
        RayError = RuntimeError

    def __init__(self, *words):
        self.words, self.sent, self.cancelled, self.options_given = words, [], [], {}
        self.was_shut_down = False

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 8, "GPU": 2}}, {"Alive": False}]

    def remote(self, argument, *_):
        if callable(argument):
            return self
        self.sent.append(argument)
        return len(self.sent) - 1

    def options(self, **given):
        self.options_given = given
        return self

    def wait(self, references, num_returns=1, timeout=None):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        if isinstance(self.words[reference], Exception):
            raise self.words[reference]
        return self.words[reference]

    def cancel(self, reference, recursive):
        self.cancelled.append(reference)

    def shutdown(self):
        self.was_shut_down = True


def test_a_ray_cluster_where_nobody_listens_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster at 127.0.0.1:1 \(.*refused\); set RAY_"):
        Ray().begin()


def test_a_machine_that_does_not_see_the_folder_stops_a_sweep_on_ray(sweep, monkeypatch):
    died = RuntimeError("a worker\ndied")
    ray = FakeRay(died, "", "node7 does not see it; give a --dir", "")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("jaxdenoise.sweep.worker.LAG", 0)
    jobs = [make_job(name) for name in "abcd"]
    finish(jobs[1])
    ended = Ray()(make_tasks(jobs, sweep))
    assert next(ended).reason() == "its worker ended: RuntimeError, died"
    assert next(ended).state() == "done"
    with pytest.raises(UserError, match="node7 does not see it; give a --dir"):
        next(ended)
    assert ray.cancelled == [3] and ray.was_shut_down
    given = ray.options_given
    assert (given["num_cpus"], given["num_gpus"], given["max_retries"]) == (4, 1, 1)

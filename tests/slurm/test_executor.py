"""Functions as jobs of a real Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import add
from pathlib import Path
from typing import Any

import pytest
import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import Checkpointable, DelayedSubmission

import hpc_dl
from hpc_dl.executor.job import FunctionJob
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.node.attempts import PREEMPTED, REQUEUE, events
from hpc_dl.submission.handle import cancel
from tests.unit.fakes.processes import eventually


@pytest.fixture(scope="module")
def cluster(slurm: None) -> Iterator[MiniCluster]:
    """Two nodes, and a partition whose jobs drive out those of the other, with a time of grace."""
    config = ClusterConfig(
        groups=(NodeGroup(count=2, cpus=64),),
        extra=(
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "PartitionName=high Nodes=ALL PriorityTier=10",
            "PartitionName=dev Nodes=ALL PriorityTier=1 GraceTime=30",
        ),
    )
    root = Path(tempfile.mkdtemp(prefix="hd"))
    try:
        with MiniCluster(root, config) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Bench:
    """A working folder with an executor whose jobs run on the cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.executor = hpc_dl.Executor("logs", site="minicluster")
        self.jobs: list[FunctionJob[Any]] = []

    def submit(self, function: Any, *args: Any, **parameters: Any) -> FunctionJob[Any]:
        if parameters:
            self.executor.update_parameters(**parameters)
        return self.keep(self.executor.submit(function, *args))

    def keep(self, job: submitit.Job[Any]) -> FunctionJob[Any]:
        assert isinstance(job, FunctionJob)
        self.jobs.append(job)
        return job


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "it's 50% of $(touch x)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = Bench(folder)
    yield one
    cancel(one.jobs)
    eventually(lambda: all(job.done() for job in one.jobs), 60)
    assert not list(tmp_path.rglob("x"))


def _then(job: FunctionJob[Any]) -> list[str]:
    """Return what followed on each attempt's end."""
    return [event.then for event in events(job.run) if event.event == "ended"]


def test_the_first_example_of_submitits_readme(bench: Bench) -> None:
    executor = hpc_dl.Executor(folder="log_test", slurm_max_num_timeout=1)
    executor.update_parameters(timeout_min=1, slurm_partition="dev")
    job = bench.keep(executor.submit(add, 5, 7))
    assert job.job_id.isdigit()
    assert job.result() == 12
    assert job.paths.folder.parent == bench.folder / "log_test"
    eventually(lambda: job.state == "COMPLETED")
    text = job.paths.submission_file.read_text()
    assert "#SBATCH --cpus-per-task=1\n" in text
    assert "--gres" not in text


def test_tasks_on_several_nodes(bench: Bench) -> None:
    def work() -> tuple[int, int, int, str, str]:
        env = submitit.JobEnvironment()
        return env.global_rank, env.local_rank, env.node, os.environ["SLURM_PROCID"], os.environ["SLURMD_NODENAME"]

    job = bench.submit(work, nodes=2, tasks_per_node=2, cpus_per_task=3)
    assert job.results() == [
        (0, 0, 0, "0", "mini1"),
        (1, 1, 0, "1", "mini1"),
        (2, 0, 1, "2", "mini2"),
        (3, 1, 1, "3", "mini2"),
    ]
    assert "#SBATCH --cpus-per-task=6\n" in job.paths.submission_file.read_text()


class Steps(Checkpointable):
    """Counts until a file says that it is enough, and remembers where it was."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self.last = last

    def __call__(self, folder: Path) -> int:
        (folder / f"runs-{self.count}").touch()
        while self.count < self.last:
            time.sleep(0.05)
        return self.count

    def checkpoint(self, *args: Any, **kwargs: Any) -> DelayedSubmission:
        self.count += 1
        return DelayedSubmission(self, *args, **kwargs)


def _warn(job: FunctionJob[Any]) -> None:
    """Send what Slurm sends ahead of a time limit."""
    subprocess.run(["scancel", "--batch", "--signal=USR1", job.job_id], check=True, timeout=30)


def test_a_checkpoint_decides_what_a_job_does_after_its_time_limit(bench: Bench, tmp_path: Path) -> None:
    job = bench.submit(Steps(2), tmp_path, requeues=3)
    for count in range(2):
        eventually((tmp_path / f"runs-{count}").exists, 60)
        _warn(job)
    assert job.result(timeout=60) == 2
    assert _then(job) == [REQUEUE, REQUEUE, ""]
    function = job.submission().function
    assert isinstance(function, Steps)
    assert (function.count, job.paths.submitted_pickle.name) == (2, "2.pkl")


def test_a_function_without_a_checkpoint_is_not_run_again_at_its_time_limit(bench: Bench, tmp_path: Path) -> None:
    def wait(folder: Path) -> None:
        (folder / "runs").touch()
        time.sleep(60)

    job = bench.submit(wait, tmp_path)
    eventually((tmp_path / "runs").exists, 60)
    _warn(job)
    with pytest.raises(UncompletedJobError, match="ended FAILED"):
        job.result(timeout=60)
    assert _then(job) == [""]


def test_a_preempted_job_returns_its_functions_result_once(bench: Bench, tmp_path: Path) -> None:
    def work(folder: Path) -> int:
        attempt = int(os.environ["HPC_DL_ATTEMPT"])
        (folder / f"runs-{attempt}").touch()
        while not attempt:
            time.sleep(0.05)
        return attempt

    job = bench.submit(work, tmp_path, slurm_partition="dev")
    eventually((tmp_path / "runs-0").exists, 60)
    urgent = ["sbatch", "--parsable", "-N2", "--exclusive", "-p", "high", "-o", "/dev/null", "--wrap", "sleep 2"]
    subprocess.run(urgent, check=True, capture_output=True, timeout=30)
    assert job.result(timeout=90) == 1
    assert _then(job) == [PREEMPTED, ""]
    assert [path.name for path in (job.run.path / "results").rglob("*.pkl")] == ["worker-0.pkl"]


def test_fifty_threads_submit_at_once(bench: Bench) -> None:
    before = dict(os.environ)
    bench.executor.update_parameters(slurm_partition="dev")
    with ThreadPoolExecutor(50) as pool:
        jobs = list(pool.map(lambda number: bench.keep(bench.executor.submit(add, number, 1)), range(50)))
    assert [job.result(timeout=250) for job in jobs] == list(range(1, 51))
    assert len({job.job_id for job in jobs}) == 50
    assert dict(os.environ) == before


def test_an_array_is_one_sbatch_and_one_question(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(command: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(command[0])
        return popen(command, *args, **kwargs)

    bench.executor.update_parameters(slurm_array_parallelism=3, slurm_partition="dev")
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", counted)
    jobs = [bench.keep(job) for job in bench.executor.map_array(lambda x: (x, os.environ["HPC_DL_RUN"]), range(5))]
    assert asked.count("sbatch") == 1
    asked.clear()
    assert {job.state for job in jobs} <= {"PENDING", "RUNNING", "CONFIGURING"}
    assert asked in (["squeue"], ["squeue", "sacct"])
    array = jobs[0].job_id.partition("_")[0]
    assert [job.job_id for job in jobs] == [f"{array}_{index}" for index in range(5)]
    assert [job.result() for job in jobs] == [(index, str(job.run.path)) for index, job in enumerate(jobs)]
    assert "#SBATCH --array=0-4%3\n" in jobs[4].run.script.read_text()
    assert "COMPLETED" in jobs[3].run.log.read_text()


def test_an_element_is_cancelled_and_requeued_alone(bench: Bench, tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(3)]
    with bench.executor.batch():
        jobs = [bench.executor.submit(Steps(1), folder) for folder in folders if not folder.mkdir()]  # type: ignore[func-returns-value]
    first, second, last = (bench.keep(job) for job in jobs)
    for folder in folders:
        eventually((folder / "runs-0").exists, 60)
    first.cancel()
    # Slurm has given it the number of the array too.
    _warn(last)
    assert last.result(timeout=90) == 1
    assert _then(last) == [REQUEUE, ""]
    assert first.exception() is not None
    assert first.state == "CANCELLED"
    assert not second.done()
    assert _then(second) == []


def test_scripts_that_differ_in_their_arguments_are_an_array(bench: Bench) -> None:
    (bench.folder / "own.py").write_text(
        "import json, os, sys\n"
        "json.dump({'args': sys.argv[1:]}, open(os.environ['HPC_DL_RUN'] + '/result.json', 'w'))\n"
    )
    array = [{"args": [word]} for word in ("a", "$(touch x)", "c d")]
    jobs = hpc_dl.map(array, site="minicluster", script="own.py", mode="single", gpus=1, name="own", parallel=2)
    assert [job.result() for job in jobs] == array
    numbers = {job.job_id.partition("_")[0] for job in jobs}
    assert len(numbers) == 1
    listed = subprocess.run(
        [sys.executable, "-m", "hpc_dl", "status", numbers.pop()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert listed.count(" COMPLETED") == 3


def test_a_thousand_elements_are_submitted_and_cancelled_at_once(bench: Bench) -> None:
    bench.executor.update_parameters(slurm_partition="dev", slurm_begin="now+1hour")
    jobs = bench.executor.map_array(abs, range(1000))
    assert {job.state for job in jobs} == {"PENDING"}
    handles = [bench.keep(job) for job in jobs]
    # Slurm forgets at once an element that waits and is cancelled alone.
    handles[7].cancel()
    assert [state.state for state in hpc_dl.states(handles[6:9])] == ["PENDING", "CANCELLED", "PENDING"]
    cancel(handles)
    eventually(lambda: {state.state for state in hpc_dl.states(handles)} == {"CANCELLED"}, 60)


def test_a_job_that_waits_can_be_cancelled(bench: Bench) -> None:
    job = bench.submit(add, 1, 2, nodes=2, slurm_begin="now+1hour")
    assert job.state == "PENDING"
    eventually(lambda: job.get_info()["Reason"] == "BeginTime")
    job.cancel()
    with pytest.raises(UncompletedJobError, match="ended CANCELLED"):
        job.result(timeout=60)

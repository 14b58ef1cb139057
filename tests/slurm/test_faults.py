"""What Slurm and its nodes do to a job, and how the job goes on: with a script that trains nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.network import in_namespaces
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.node.attempts import PREEMPTED, REQUEUE, RESTART, events
from hpc_dl.shipped_files import share
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import eventually

_HANG = 8  # seconds after which a process of these tests hangs

# Each life of a process says that it has begun, and "saves" when it is told to end; it ends well once it may.
LIFE = """
import json, os, pathlib, signal, sys, time

task = json.loads(os.environ["TF_CONFIG"])["task"]
run, life = pathlib.Path(os.environ["HPC_DL_RUN"]), f"{task['index']}-{os.environ['HPC_DL_ATTEMPT']}"

def end(number, frame):
    time.sleep(2)
    (run / f"saved-{life}").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
(run / f"new-{life}").write_text(str(os.getpid()))
(run / f"new-{life}").rename(run / f"alive-{life}")
while not (run / f"go-{os.environ['HPC_DL_ATTEMPT']}").exists():
    time.sleep(0.05)
    if "talk" in sys.argv:
        print(".", flush=True)
(run / f"ended-{life}").touch()
"""


@pytest.fixture(scope="module")
def cluster(slurm: None) -> Iterator[MiniCluster]:
    """Four nodes, and a partition whose jobs drive out those of the other, with a time of grace."""
    config = ClusterConfig(
        groups=(NodeGroup(count=4),),
        extra=(
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "KillWait=10",
            "SlurmdTimeout=5",
            "PartitionName=high Nodes=ALL PriorityTier=10",
        ),
    )
    root = Path(tempfile.mkdtemp(prefix="hd"))
    try:
        with MiniCluster(root, config) as running:
            grace = ["scontrol", "update", "partitionname=main", "GraceTime=30"]
            subprocess.run(grace, env=running.env(), check=True, timeout=120)
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from lives(cluster, tmp_path, monkeypatch)


def lives(cluster: MiniCluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Yield a bench in the folder, which is the current one and has the script ``life.py``."""
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    (folder / "life.py").write_text(LIFE)
    one = Bench(cluster, folder)
    yield one
    one.clean()


def start(bench: Bench, **settings: Any) -> Job:
    """Submit a job of two workers on two nodes, and wait until both are there."""
    usual: dict[str, Any] = {
        "script": "life.py",
        "mode": "multiworker",
        "nodes": 2,
        "gpus": 1,
        "cores": 4,
        "restarts": 1,
        "requeues": 1,
    }
    job = bench.submit(**{**usual, **settings})
    alive(job, 0)
    return job


def alive(job: Job, attempt: int, seconds: float = 60) -> None:
    """Wait until both workers of an attempt are there."""
    there = [job.run.path / f"alive-{index}-{attempt}" for index in range(2)]
    eventually(lambda: all(path.exists() for path in there), seconds, f"attempt {attempt}; {job.stdout()}")


def pid(job: Job, index: int, attempt: int) -> int:
    return int((job.run.path / f"alive-{index}-{attempt}").read_text())


def saved(job: Job, attempt: int) -> list[bool]:
    return [(job.run.path / f"saved-{index}-{attempt}").exists() for index in range(2)]


def go_on(job: Job, attempt: int) -> None:
    """Let an attempt end well, and the job with it."""
    (job.run.path / f"go-{attempt}").touch()
    job.wait(timeout=120)
    assert job.state == "COMPLETED", job.stdout()
    assert all((job.run.path / f"ended-{index}-{attempt}").exists() for index in range(2))
    summary = job.summary()
    assert summary is not None
    assert (summary.exit_code, summary.attempts) == (0, attempt + 1)


def then(job: Job) -> list[str]:
    return [event.then for event in events(job.run) if event.event == "ended"]


def test_after_the_death_of_one_all_start_again_up_to_a_limit(bench: Bench) -> None:
    job = start(bench)
    os.kill(pid(job, 1, 0), signal.SIGKILL)
    alive(job, 1)
    os.kill(pid(job, 0, 1), signal.SIGKILL)
    job.wait(timeout=120)
    assert job.state == "FAILED"
    assert then(job) == [RESTART, ""]
    summary = job.summary()
    assert summary is not None
    assert summary.failure is not None
    assert (summary.exit_code, summary.attempts, summary.failure.process) == (137, 2, "worker:0")
    assert "all processes start again from the last checkpoint (attempt 1): worker:1 on node " in job.stdout()


def test_a_worker_of_a_ps_mode_starts_again_alone(bench: Bench) -> None:
    job = start(bench, mode="async")
    first = pid(job, 1, 0)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: pid(job, 1, 0) != first, what="the worker's second life")
    go_on(job, 0)
    assert "worker:1 started again, 1 of 1 times" in job.stdout()


@pytest.mark.parametrize("what", ["worker:1", "launcher"])
def test_after_the_hang_of_one_all_start_again(bench: Bench, what: str) -> None:
    job = start(bench, args=["talk"], hang_timeout=_HANG)
    hangs = pid(job, 1, 0)
    if what == "launcher":
        hangs = int(Path(f"/proc/{hangs}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(hangs, signal.SIGSTOP)
    alive(job, 1)
    go_on(job, 1)
    assert then(job)[0] == RESTART
    cause = f"(attempt 1): {what} on node mini2 hung, and was killed: no sign of life for {_HANG} s"
    assert cause in job.stdout()
    assert not Path(f"/proc/{hangs}").exists()


def test_a_job_that_is_suspended_and_resumed_goes_on(bench: Bench) -> None:
    job = start(bench, args=["talk"], hang_timeout=_HANG)
    subprocess.run(["scontrol", "suspend", job.job_id], check=True, timeout=120)
    stopped = pid(job, 1, 0)
    eventually(lambda: Path(f"/proc/{stopped}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    time.sleep(_HANG + 3)  # for so long the processes would not have had to be hung
    subprocess.run(["scontrol", "resume", job.job_id], check=True, timeout=120)
    size = job.logs()["worker:1"].stat().st_size
    eventually(lambda: job.logs()["worker:1"].stat().st_size > size)
    go_on(job, 0)


def test_ahead_of_its_time_limit_a_job_saves_and_is_requeued_as_often_as_it_may(bench: Bench) -> None:
    job = start(bench)
    assert "#SBATCH --signal=B:USR1@60" in job.run.script.read_text()
    for attempt in range(2):
        alive(job, attempt)
        # What Slurm sends then.
        subprocess.run(["scancel", "--batch", "--signal=USR1", job.job_id], check=True, timeout=120)
        eventually(lambda attempt=attempt: saved(job, attempt) == [True, True], what="both have saved")  # type: ignore[misc]
    job.wait(timeout=120)
    assert then(job) == [REQUEUE, ""]
    assert bench.field(job, "ExitCode") == "143:0"
    assert "hpc-dl: time limit: requeued, to go on from the last checkpoint" in job.stdout()
    assert as_slurm_says(job) == "FAILED"


def as_slurm_says(job: Job) -> str:
    """Return how a job has ended in Slurm's words, which are those of its summary too."""
    summary = job.summary()
    assert summary is not None
    assert summary.state == job.query().state
    return summary.state


def test_a_job_whose_processes_alone_were_told_to_end_has_ended_as_slurm_says(bench: Bench) -> None:
    job = start(bench, requeues=0, restarts=0)
    subprocess.run(["scancel", "--signal=TERM", job.job_id], check=True, timeout=120)
    job.wait(timeout=120)
    assert as_slurm_says(job) == "FAILED"
    assert saved(job, 0) == [True, True]


def test_a_job_that_only_sigterm_tells_of_its_time_limit_saves_and_is_requeued(bench: Bench) -> None:
    site = bench.folder / "silent.toml"
    site.write_text((share() / "env" / "sites" / "minicluster.toml").read_text() + "\nnotice = 0\n")
    job = start(bench, site=str(site))
    assert "--signal" not in job.run.script.read_text()
    subprocess.run(["scontrol", "update", f"jobid={job.job_id}", "endtime=now"], check=True, timeout=120)
    alive(job, 1)
    assert saved(job, 0) == [True, True]
    assert then(job) == [REQUEUE]
    go_on(job, 1)


def test_a_preempted_job_saves_in_its_time_of_grace_and_is_requeued(bench: Bench) -> None:
    job = start(bench, nodes=2)
    command = ["sbatch", "--parsable", "-N4", "--exclusive", "-p", "high", "-o", "/dev/null", "--wrap", "sleep 2"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    alive(job, 1)
    assert saved(job, 0) == [True, True]
    assert then(job) == [PREEMPTED]
    go_on(job, 1)


def test_a_job_whose_node_goes_down_goes_on_elsewhere(bench: Bench) -> None:
    job = start(bench)
    # It comes back by itself: ReturnToService.
    subprocess.run(["scontrol", "update", "nodename=mini2", "state=DOWN", "reason=test"], check=True, timeout=120)
    alive(job, 1)
    go_on(job, 1)


def test_a_network_that_is_cut_and_a_disk_that_is_read_only(slurm: None, namespaces: None) -> None:
    """The tests are in `in_network.py`, which runs in namespaces of its own."""
    inside = Path(__file__).with_name("in_network.py")
    command = in_namespaces([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(inside)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout

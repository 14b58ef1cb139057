"""The all-reduce modes from end to end: real processes, real images, real MPI."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.errors import LOST
from hpc_dl.submission.handle import Job
from tests.train.conftest import Processes

Make = Callable[..., Processes]
Submit = Callable[..., Job]


@pytest.fixture
def submit(horovod: None, tmp_path: Path, data_dir: Path) -> Iterator[Submit]:
    """Return a function that submits a job of this machine; jobs that still run end with the test."""
    (tmp_path / "data").symlink_to(data_dir)
    jobs: list[Job] = []

    def start(**settings: Any) -> Job:
        jobs.append(hpc_dl.submit("train", site="local", workdir=str(tmp_path), gpus=0, **settings))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()


def metrics(job: Job, worker: int = 0) -> list[dict[str, Any]]:
    path = job.run.metrics / f"worker-{worker}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if "step" in line]


def losses(run: Processes) -> list[float]:
    return [line["loss"] for line in run.lines("worker-0") if "step" in line]


def test_multiworker_learns_and_modes_go_on_where_others_ended(processes: Make) -> None:
    first = processes().start("--steps", "150", "--log-every", "50", ps=1, workers=1)
    assert set(first.wait().values()) == {0}
    before = first.result()

    second = processes().start("--steps", "350", "--log-every", "50", mode="multiworker", workers=2)
    assert second.wait() == {"worker-0": 0, "worker-1": 0}
    result = second.result()
    assert (result["start_step"], result["steps"], result["workers"], result["ps"]) == (150, 350, 2, 0)
    assert result["images"] == 200 * 32 * 2
    assert result["test_accuracy"] > 0.9
    # The first batch finds the network as it was left: untrained it would be at ln 10 = 2.3.
    first_line = next(line for line in second.lines("worker-1") if "step" in line)
    assert first_line["step"] == 151
    assert first_line["loss"] < before["test_loss"] + 0.5

    third = processes().start("--steps", "360", "--log-every", "5")
    assert third.wait() == {"worker-0": 0}
    assert third.result()["start_step"] == 350
    assert third.result()["test_accuracy"] > 0.9


def test_multiworker_with_one_worker_equals_single(processes: Make) -> None:
    arguments = ("--steps", "40", "--log-every", "10")
    runs = [processes("single").start(*arguments), processes("multi").start(*arguments, mode="multiworker")]
    for run in runs:
        assert run.wait() == {"worker-0": 0}
    assert losses(runs[0]) == losses(runs[1])


@pytest.mark.parametrize(("compression", "share"), [("none", 1), ("fp16", 1 / 2)])
def test_a_ring_sends_what_its_method_needs(processes: Make, heavy: str, compression: str, share: float) -> None:
    arguments = ("--steps", "40", "--model", heavy, "--compression", compression)
    run = processes().start(*arguments, mode="multiworker", workers=3)
    assert set(run.wait().values()) == {0}
    for worker in range(3):
        for way in ("sent", "received"):
            assert run.sent(f"worker-{worker}", way) == pytest.approx(share * 2 * (3 - 1) / 3, rel=0.1)


def test_a_killed_worker_ends_the_others(processes: Make) -> None:
    run = processes().start("--steps", "1000000", "--log-every", "20", mode="multiworker", workers=3)
    run.wait_for(lambda: all(run.step(f"worker-{index}") > 0 for index in range(3)))
    run.by_task["worker-1"].kill()
    assert run.wait() == {"worker-0": LOST, "worker-1": -signal.SIGKILL, "worker-2": LOST}
    for task in ("worker-0", "worker-2"):
        # TensorFlow's own error comes first, or the look at the other workers.
        said = run.log(task).splitlines()[-1]
        assert re.search(r"contact with another worker was lost|worker [12] \(.*\) has not answered for", said), said


def test_sigterm_to_one_worker_ends_all_after_the_same_step(processes: Make) -> None:
    run = processes().with_time_to_save()
    run.start("--steps", "1000000", "--log-every", "20", mode="multiworker", workers=2)
    run.wait_for(lambda: run.step("worker-0") > 0 and run.step("worker-1") > 0)
    run.by_task["worker-1"].terminate()
    assert set(run.wait().values()) == {128 + signal.SIGTERM}
    assert run.step("worker-0") == run.step("worker-1")
    assert f"ended by SIGTERM at step {run.step('worker-0')}, which is saved" in run.log("worker-0")


def test_horovod_learns_with_fp16_and_small_pieces(submit: Submit) -> None:
    job = submit(mode="horovod", nodes=2, steps=250, compression="fp16", fusion_mb=0.1, cycle_ms=2)
    result = job.result(200)
    assert result["test_accuracy"] > 0.9
    assert (result["workers"], result["ps"], result["images"]) == (2, 0, 250 * 32 * 2)
    assert (result["spread"], len(result["nodes"])) == (0, 2)
    assert sorted(job.logs()) == ["worker:0", "worker:1"]


def test_a_run_goes_from_async_to_horovod_and_back(submit: Submit, processes: Make) -> None:
    common = ("--steps", "150", "--log-every", "50", "--learning-rate", "0.05")
    first = processes().start(*common, ps=1, workers=1)
    assert set(first.wait().values()) == {0}
    before = first.result()
    run_dir = f"--run-dir={first.run_dir}"

    second = submit(mode="horovod", nodes=2, steps=200, args=[run_dir])
    second.wait(200)
    assert second.exception() is None, second.stdout()
    between = first.result()
    assert (between["mode"], between["start_step"], between["steps"]) == ("horovod", 150, 200)
    # Each rank's first batch finds the network as it was left: untrained it would be at ln 10 = 2.3.
    firsts = [next(line for line in first.lines(task) if line.get("step") == 151) for task in ("worker-0", "worker-1")]
    assert max(line["loss"] for line in firsts) < before["test_loss"] + 0.5

    third = processes().start("--steps", "210", "--log-every", "5", ps=1, workers=1)
    assert set(third.wait().values()) == {0}
    assert third.result()["start_step"] == 200
    first_line = next(line for line in third.lines("worker-0") if line.get("step") == 201)
    assert first_line["loss"] < between["test_loss"] + 0.5
    assert third.result()["test_accuracy"] > 0.9


def test_one_rank_equals_single_each_time_and_the_seed_matters(submit: Submit) -> None:
    runs = [("single", 0), ("horovod", 0), ("horovod", 0), ("horovod", 1)]
    jobs = [submit(mode=mode, seed=seed, steps=40, log_every=10) for mode, seed in runs]
    for job in jobs:
        job.result(200)
    single, first, second, other = ([line["loss"] for line in metrics(job)] for job in jobs)
    assert single == first == second != other


def test_a_killed_rank_fails_the_job_and_is_named(submit: Submit) -> None:
    job = submit(mode="horovod", nodes=2, steps=1_000_000, restarts=0)
    deadline = time.monotonic() + 200
    while not (metrics(job, 0) and metrics(job, 1)):
        assert time.monotonic() < deadline, job.stdout()
        time.sleep(0.2)
    killed = _rank_process(job, 1)
    os.kill(killed, signal.SIGKILL)
    job.wait(200)
    summary = job.summary()
    assert summary is not None
    assert summary.failure is not None
    assert (summary.failure.process, summary.failure.signal) == ("worker:1", signal.SIGKILL)
    assert (job.state, summary.exit_code) == ("FAILED", 128 + signal.SIGKILL)


def _rank_process(job: Job, rank: int) -> int:
    """Return the process that trains as `rank`: found by its command and the rank in its environment."""
    run_dir, variable = f"--run-dir={job.run.path}".encode(), f"OMPI_COMM_WORLD_RANK={rank}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hpc_dl.train" in words[1:4] and run_dir in words and variable in variables:
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not there: {job.stdout()}")

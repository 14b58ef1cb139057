"""Functions that run as local jobs, with submitit's names for everything."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import add, truediv
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.helpers import Checkpointable, CommandFunction, DelayedSubmission, FunctionSequence

import hpc_dl
from hpc_dl.executor.job import FunctionJob
from tests.unit.fakes.processes import eventually


class Bench:
    """A working folder with an executor whose jobs run here."""

    def __init__(self) -> None:
        self.executor = hpc_dl.Executor("logs", cluster="local")
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
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    folder = tmp_path / "it's 50% of $(touch x)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = Bench()
    yield one
    for job in one.jobs:
        if job.run.path.exists():
            job.cancel(check=False)
            eventually(job.done)
    assert not list(tmp_path.rglob("x"))


def test_the_first_example_of_submitits_readme(bench: Bench) -> None:
    assert isinstance(bench.executor, submitit.Executor)
    bench.executor.update_parameters(timeout_min=1, slurm_partition="dev")
    job = bench.executor.submit(add, 5, 7)
    assert isinstance(job, submitit.Job)
    assert job.job_id == "L1"
    assert job.result() == 12
    assert job.results() == [12]
    assert job.exception() is None
    assert job.done()
    assert job.state == "COMPLETED"
    assert job.num_tasks == 1
    assert job.task(0) is job
    assert job.get_info()["State"] == "COMPLETED"
    assert job.submission().args == (5, 7)


@pytest.mark.filterwarnings("ignore:no Slurm answers here")
def test_the_executor_is_a_plugin_of_submitit(bench: Bench) -> None:
    executor = submitit.AutoExecutor("logs", cluster="hpc_dl", slurm_max_num_timeout=1)
    executor.update_parameters(timeout_min=1, slurm_partition="dev")
    job = bench.keep(executor.submit(lambda: os.environ["SUBMITIT_EXECUTOR"]))
    assert job.result() == "hpc_dl"


def test_an_exception_comes_back_with_the_traceback_of_the_node(bench: Bench) -> None:
    job = bench.submit(truediv, 1, 0)
    with pytest.raises(FailedJobError, match=r"(?s)the function failed in worker:0.*ZeroDivisionError") as raised:
        job.result()
    assert isinstance(raised.value, hpc_dl.JobError)
    assert "hpc_dl" not in str(raised.value).partition("Its log")[0]
    assert "ZeroDivisionError" in (job.stderr() or "")
    assert job.state == "FAILED"


def test_each_task_has_a_result_a_log_and_an_environment(bench: Bench) -> None:
    def work() -> tuple[int, int, int]:
        env = submitit.JobEnvironment()
        print("hello from", env.global_rank)
        print("bye from", env.local_rank, file=sys.stderr)
        return env.global_rank, env.num_tasks, env.num_nodes

    job = bench.submit(work, nodes=2, tasks_per_node=2)
    assert job.results() == [(rank, 4, 2) for rank in range(4)]
    assert job.result() == (0, 4, 2)
    assert (job.num_tasks, job.task_id, job.task(3).task_id) == (4, None, 3)
    assert job.task(2).result() == (2, 4, 2)
    assert job.task(2).results() == [(2, 4, 2)]
    assert (job.stdout() or "").count("hello from") == (job.stderr() or "").count("bye from") == 4
    assert job.task(1).stdout() == "hello from 1\nbye from 1\n"
    assert job.task(1).paths.stdout.read_text() == job.task(1).stdout()
    assert job.paths.result_pickle.exists()
    assert job.paths.submitted_pickle.exists()
    with pytest.raises(ValueError, match="must be between 0 and 3"):
        job.task(4)


def test_of_several_tasks_the_one_that_raised_is_named(bench: Bench) -> None:
    def flaky() -> None:
        if submitit.JobEnvironment().global_rank == 1:
            raise RuntimeError("no luck")
        time.sleep(60)

    job = bench.submit(flaky, tasks_per_node=2)
    error = job.exception()
    assert isinstance(error, FailedJobError)
    assert "worker:1 (task 1)" in str(error)
    assert "no luck" in str(error)
    alone = job.task(0).exception()
    assert isinstance(alone, UncompletedJobError)
    assert not isinstance(alone, FailedJobError)


def test_closures_classes_and_helpers_of_the_caller_go_along(bench: Bench) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    def double(point: Point) -> Point:
        return Point(2 * point.x)

    jobs = [bench.submit(lambda x: double(Point(x)), x) for x in (1, 2)]
    assert [job.result().x for job in jobs] == [2, 4]
    assert bench.submit(CommandFunction(["echo", "a b"])).result() == "a b"
    sequence = FunctionSequence()
    sequence.add(add, 1, 2)
    assert bench.submit(sequence).result() == [3]


def test_shell_lines_run_before_the_function(bench: Bench) -> None:
    job = bench.submit(lambda: os.environ.get("WORD"), slurm_setup=["export WORD='a b'"])
    assert job.result() == "a b"


def test_a_batch_is_submitted_when_it_is_left(bench: Bench) -> None:
    with bench.executor.batch():
        jobs = [bench.executor.submit(add, number, 1) for number in range(2)]
        with pytest.raises(AttributeError):
            _ = jobs[0].job_id
        with pytest.raises(RuntimeError, match="batch"):
            bench.executor.update_parameters(nodes=2)
    assert [bench.keep(job).result() for job in jobs] == [1, 2]


def test_map_array_and_as_completed(bench: Bench) -> None:
    jobs = bench.executor.map_array(lambda x, y: x * y, [1, 2], [10, 20])
    assert [bench.keep(job).result() for job in jobs] == [10, 40]
    assert set(submitit.helpers.as_completed(jobs, poll_frequency=0.1)) == set(jobs)
    with pytest.warns(UserWarning, match="empty job array"):
        assert bench.executor.map_array(add, [], []) == []


def test_a_job_can_be_awaited(bench: Bench) -> None:
    job = bench.submit(add, 1, 2, tasks_per_node=2)

    async def wait() -> Any:
        return await job.awaitable().result(0.1), [await one for one in job.awaitable().results_as_completed(0.1)]

    result, results = asyncio.run(wait())
    assert (result, set(results)) == (3, {3})


def test_a_job_is_cancelled_once_it_is_not_needed(bench: Bench) -> None:
    job = bench.submit(time.sleep, 60)
    other: FunctionJob[Any] = FunctionJob(job.run)
    assert other == job
    assert pickle.loads(pickle.dumps(job)) == job  # noqa: S301 - it is ours
    assert other.cancel_at_deletion() is other
    del other
    eventually(job.done)
    assert job.state == "CANCELLED"
    with pytest.raises(UncompletedJobError, match="CANCELLED"):
        job.result()


def test_another_program_finds_the_job(bench: Bench) -> None:
    job = bench.submit(add, 1, 2)
    job.wait()
    found = hpc_dl.load(job.job_id, "logs")
    assert isinstance(found, FunctionJob)
    assert found.result() == 3


def test_functions_of_modules_beside_the_program_are_found(bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / "project"
    place.mkdir()
    (place / "helper.py").write_text("def work(x):\n    return x + 1\n")
    (place / "random.py").write_text("raise SystemExit('this is not the random of Python')\n")
    (place / "main.py").write_text(
        "import helper, hpc_dl\n"
        "class Box:\n    def __init__(self, x): self.x = x\n"
        "executor = hpc_dl.Executor('logs', site='local')\n"
        "print(executor.submit(lambda x: Box(helper.work(x)), 1).result().x)\n"
    )
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.append({str(place)!r}); import runpy; "]
    command[-1] += f"runpy.run_path({str(place / 'main.py')!r}, run_name='__main__')"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


def test_a_result_that_can_not_be_pickled_is_the_error(bench: Bench) -> None:
    job = bench.submit(threading.Lock)
    with pytest.raises(FailedJobError, match=r"the result of '\w+' can't be pickled: TypeError: cannot pickle"):
        job.result()


def test_a_function_that_ends_its_process_leaves_no_result(bench: Bench) -> None:
    with pytest.raises(UncompletedJobError, match="worker:0 left no result"):
        bench.submit(sys.exit, 0).result()
    with pytest.raises(UncompletedJobError, match="ended with exit code 7"):
        bench.submit(os._exit, 7).result()


def test_a_job_whose_folder_is_gone_says_so(bench: Bench) -> None:
    job = bench.submit(add, 1, 2)
    job.wait()
    shutil.rmtree(job.run.path)
    with pytest.raises(UncompletedJobError, match=r"its run folder .* is gone"):
        job.result()


def test_what_can_not_be_submitted_leaves_no_folder(bench: Bench) -> None:
    lock = threading.Lock()
    with pytest.raises(hpc_dl.UserError, match="the function '<lambda>' can't be pickled"):
        bench.executor.submit(lambda: lock)
    bench.executor.max_pickle_size_gb = 1e-7
    with pytest.raises(hpc_dl.UserError, match="max_pickle_size_gb is 1e-07: write large data to a file"):
        bench.executor.submit(add, "x" * 1000, "y")
    with pytest.raises(hpc_dl.UserError, match=r"update_parameters: nodes: nodes = 0"):
        bench.executor.update_parameters(nodes=0)
    assert not Path("logs").exists()


def test_arguments_of_the_executor_are_checked() -> None:
    with pytest.raises(hpc_dl.UserError, match="cluster = 'debug': allowed: 'slurm', 'local'"):
        hpc_dl.Executor("logs", cluster="debug")
    with pytest.raises(hpc_dl.UserError, match="cluster = 'slurm': no Slurm answers here"):
        hpc_dl.Executor("logs", site="local", cluster="slurm").submit(abs, 1)
    with pytest.raises(hpc_dl.UserError, match="unknown argument 'max_num_timeouts'"):
        hpc_dl.Executor("logs", max_num_timeouts=2)
    assert hpc_dl.Executor("logs", slurm_max_num_timeout=1, local_max_num_timeout=5).max_num_timeout == 1


def test_threads_submit_at_once_and_change_nothing_of_the_process(bench: Bench) -> None:
    before, umask = dict(os.environ), os.umask(0o022)
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda number: bench.keep(bench.executor.submit(add, number, 1)), range(8)))
        results = list(pool.map(lambda job: job.result(), jobs))
    assert results == list(range(1, 9))
    assert len({job.job_id for job in jobs}) == 8
    assert dict(os.environ) == before
    assert os.umask(umask) == 0o022


class _Counter(Checkpointable):
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        print("ready", flush=True)
        while not self.count:
            time.sleep(0.05)
        return self.count

    def checkpoint(self, *args: Any, **kwargs: Any) -> DelayedSubmission:
        self.count += 1
        return DelayedSubmission(self, *args, **kwargs)


def test_a_cancelled_job_is_resumed_from_its_checkpoint(bench: Bench) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    job = bench.submit(_Counter())
    eventually(lambda: "ready" in (job.stdout() or ""))
    job.cancel()
    eventually(job.done)
    with pytest.raises(hpc_dl.UserError, match=r"job L1 runs a function: from the start"):
        job.resume(site="local", from_start=True)
    again = bench.keep(job.resume(site="local"))
    assert again.result() == 1
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

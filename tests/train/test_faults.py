"""Faults: processes that are killed and started again, an attempt that another has taken over, a full disk."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_dl.errors import DISK, LOST
from tests.train.conftest import Processes

Make = Callable[..., Processes]
_TERMINATED = 128 + signal.SIGTERM


def lives(run: Processes, task: str) -> list[list[int]]:
    """Return the steps that a process reported, by each of its lives."""
    found: list[list[int]] = []
    for line in run.lines(task):
        if line.get("event") == "imported":
            found.append([])
        elif "local_step" in line:
            found[-1].append(int(line["step"]))
    return found


def checkpoints(run: Processes) -> list[str]:
    return sorted(path.stem for path in (run.run_dir / "checkpoints").glob("*.index"))


def tear(run: Processes, checkpoint: str) -> None:
    data = run.run_dir / "checkpoints" / f"{checkpoint}.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_killed_workers_and_chiefs_join_again_at_the_current_step(processes: Make, mode: str) -> None:
    arguments = ("--steps", "1000000", "--log-every", "5", "--checkpoint-every", "20")
    run = processes().as_attempt(0).start(*arguments, ps=1, workers=2, mode=mode)
    run.wait_for(lambda: run.step("worker-0") > 40 and run.step("worker-1") > 40)
    for task, other in (("worker-1", "worker-0"), ("worker-0", "worker-1")):
        run.kill(task)
        before = run.step(other)
        run.restart(task)
        run.wait_for(lambda task=task: len(lives(run, task)) == 2 and len(lives(run, task)[1]) > 1)  # type: ignore[misc]
        first = lives(run, task)[1][0]
        assert first >= before
        run.wait_for(lambda other=other, first=first: run.step(other) > first + 10)  # type: ignore[misc]
    assert [len(lives(run, f"worker-{index}")) for index in (0, 1)] == [2, 2]
    joined = lives(run, "worker-0")[1][0]
    run.wait_for(lambda: any(int(name.split("-")[1]) > joined for name in checkpoints(run)))
    for process in run.by_task.values():
        process.terminate()
    assert set(run.wait().values()) == {_TERMINATED}


def test_what_comes_after_the_end_does_not_wait(processes: Make) -> None:
    arguments = ("--steps", "400", "--log-every", "20", "--staleness", "20")
    run = processes().as_attempt(0).start(*arguments, ps=2, workers=2)
    run.wait_for(lambda: run.step("worker-1") > 20)
    run.kill("worker-1")
    run.mark("lost", "worker-1")
    assert run.wait() == {"ps-0": 0, "ps-1": 0, "worker-0": 0, "worker-1": -signal.SIGKILL}
    result = run.result()
    assert (result["lost_workers"], result["steps"] >= 400) == ([1], True)

    # A chief that is killed after it has released the ps: it was there, and so were they.
    run.restart("worker-0")
    assert run.wait()["worker-0"] == LOST
    assert "ps 0" in run.log("worker-0").splitlines()[-2]
    run.mark("done", "worker-0")
    run.restart("worker-1")
    assert run.wait()["worker-1"] == 0
    assert run.log("worker-1").splitlines()[-1] == "the chief has ended the training"


def test_an_attempt_that_another_has_taken_over_writes_nothing(processes: Make) -> None:
    arguments = ("--log-every", "1000", "--checkpoint-every", "20")
    run = processes().as_attempt(1).start("--steps", "1000000", *arguments)
    run.wait_for(lambda: len(checkpoints(run)) == 3)
    zombie = run.environment
    run.as_attempt(2)
    assert run.wait() == {"worker-0": LOST}
    assert "attempt 2 has taken over" in run.log("worker-0").splitlines()[-1]
    before = sorted(checkpoints(run), key=lambda name: int(name.split("-")[1]))
    assert all(name.endswith("-1") for name in before)
    new, run.environment = run.environment, zombie
    run.restart("worker-0")
    assert run.wait() == {"worker-0": LOST}
    assert len(lives(run, "worker-0")) == 1
    run.environment = new

    tear(run, before[-1])
    step = int(before[-2].split("-")[1])
    run.start("--steps", str(step + 10), *arguments)
    assert run.wait() == {"worker-0": 0}
    assert f"{before[-1]} skipped" in run.log("worker-0")
    assert (run.result()["start_step"], run.result()["steps"]) == (step, step + 10)
    assert f"step-{step + 10}-2" in checkpoints(run)

    # A run by hand goes on where the job ended, and what it saves is the newest.
    run.environment = {}
    run.start("--steps", str(step + 15), *arguments)
    assert run.wait() == {"worker-0": 0}
    assert run.result()["start_step"] == step + 10
    assert f"step-{step + 15}-2" in checkpoints(run)


def test_a_disk_that_is_full_for_a_while_ends_nothing(processes: Make) -> None:
    """A limit on the size of files stands for the disk: the system says no in the same places, and needs no root."""
    run = processes().start("--steps", "1000000", "--log-every", "10", "--checkpoint-every", "50")
    run.wait_for(lambda: bool(checkpoints(run)))
    training = run.by_task["worker-0"].pid
    free = resource.prlimit(training, resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.prlimit(training, resource.RLIMIT_FSIZE, (size, free[1]))

    def seconds() -> float:
        fields = Path(f"/proc/{training}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def not_saved() -> int:
        return sum(line.get("event") == "not_saved" for line in run.lines("worker-0"))

    limit(200_000)  # less than a checkpoint
    run.wait_for(lambda: not_saved() > 1)
    kept = checkpoints(run)
    limit(1)  # nothing at all can be written, the log neither
    begin = seconds()
    run.wait_for(lambda: seconds() > begin + 1)
    assert checkpoints(run) == kept
    assert not list((run.run_dir / "checkpoints").glob(".*"))
    resource.prlimit(training, resource.RLIMIT_FSIZE, free)
    run.wait_for(lambda: checkpoints(run) != kept)
    lost = [line["lines"] for line in run.lines("worker-0") if line.get("event") == "lost"]
    assert lost
    assert lost[0] > 0
    assert "lines of metrics are lost" in run.log("worker-0")

    limit(200_000)
    before = not_saved()
    run.wait_for(lambda: not_saved() > before)  # the last checkpoint is not one that is there already
    run.by_task["worker-0"].terminate()
    assert run.wait() == {"worker-0": DISK}
    assert "can't be written: File too large" in run.log("worker-0").splitlines()[-1]
    assert not list((run.run_dir / "checkpoints").glob(".*"))

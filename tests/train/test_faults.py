"""Faults: processes that are killed and started again, zombies, full disks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from hpc_dl.errors import LOST
from tests.train.conftest import Processes

Make = Callable[..., Processes]


def lives(run: Processes, task: str) -> list[list[int]]:
    """Return the steps that a process reported, by each of its lives."""
    found: list[list[int]] = []
    for line in run.lines(task):
        if line.get("event") == "imported":
            found.append([])
        elif "local_step" in line:
            found[-1].append(int(line["step"]))
    return found


@pytest.mark.parametrize(("mode", "killed"), [("async", 1), ("async", 0), ("sync", 1), ("sync", 0)])
def test_a_killed_worker_joins_again_at_the_current_step(processes: Make, mode: str, killed: int) -> None:
    task, other = f"worker-{killed}", f"worker-{1 - killed}"
    arguments = ("--steps", "1000000", "--log-every", "10", "--checkpoint-every", "50")
    run = processes().as_attempt(0).start(*arguments, ps=1, workers=2, mode=mode)
    run.wait_for(lambda: run.step(task) > 100 and run.step(other) > 100)
    run.kill(task)
    at = run.step(other)
    run.restart(task)
    run.wait_for(lambda: len(lives(run, task)) == 2 and len(lives(run, task)[1]) > 2)
    now = lives(run, task)[1]
    run.wait_for(lambda: run.step(other) > now[0] + 50)
    for process in run.by_task.values():
        process.terminate()
    assert set(run.wait(20).values()) == {128 + signal.SIGTERM}
    assert now[0] >= at
    assert len(lives(run, other)) == 1

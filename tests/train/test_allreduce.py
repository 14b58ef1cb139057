"""The all-reduce modes from end to end: real processes, real images, real MPI."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.train.conftest import Processes

Make = Callable[..., Processes]


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
    assert result["images"] == 350 * 32 * 2
    assert result["test_accuracy"] > 0.9
    # The first batch finds the network as it was left: untrained it would be at ln 10 = 2.3.
    first_line = next(line for line in second.lines("worker-1") if "step" in line)
    assert (first_line["step"], first_line["together"]) == (151, True)
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


def test_a_killed_worker_ends_the_others(processes: Make) -> None:
    run = processes().start("--steps", "1000000", "--log-every", "20", mode="multiworker", workers=3)
    run.wait_for(lambda: all(run.step(f"worker-{index}") > 0 for index in range(3)))
    run.by_task["worker-1"].kill()
    assert run.wait(20) == {"worker-0": 1, "worker-1": -signal.SIGKILL, "worker-2": 1}
    for task in ("worker-0", "worker-2"):
        assert "contact with another worker was lost" in run.log(task).splitlines()[-1]


def test_sigterm_to_one_worker_ends_all_after_the_same_step(processes: Make) -> None:
    run = processes().start("--steps", "1000000", "--log-every", "20", mode="multiworker", workers=2)
    run.wait_for(lambda: run.step("worker-0") > 0 and run.step("worker-1") > 0)
    run.by_task["worker-1"].terminate()
    assert set(run.wait(20).values()) == {128 + signal.SIGTERM}
    assert run.step("worker-0") == run.step("worker-1")
    assert f"ended by SIGTERM at step {run.step('worker-0')}, which is saved" in run.log("worker-0")

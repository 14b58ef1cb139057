"""Training from end to end, as the launcher starts it: real processes, real images."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest

from hpc_dl.errors import LOST
from tests.train.conftest import Processes, _free_addresses

Make = Callable[..., Processes]
_KEYS = {
    "mode", "model", "data", "steps", "images", "workers", "ps", "seconds", "steps_per_s", "images_per_s",
    "train_loss", "test_loss", "test_accuracy", "test_images", "parameters",
}  # fmt: skip
_EVENTS = ["imported", "session", "first_step", "trained", "evaluating", "done"]


def test_single_learns_continues_and_repeats(processes: Make) -> None:
    first = processes("first").start("--steps", "400", "--log-every", "100", "--checkpoint-every", "150")
    assert first.wait() == {"worker-0": 0}
    result = first.result()
    assert result.keys() >= _KEYS
    assert result["test_accuracy"] > 0.9
    assert result["test_images"] == 297
    assert (result["steps"], result["images"]) == (400, 400 * 32)
    lines = first.lines("worker-0")
    assert [line["event"] for line in lines if "event" in line] == _EVENTS
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps] == [1, 100, 200, 300, 400]
    assert list((first.run_dir / "tensorboard" / "worker-0").glob("events*"))
    saved = {path.name for path in (first.run_dir / "checkpoints").glob("*.index")}
    assert saved == {"step-150.index", "step-300.index", "step-400.index"}

    # The newest checkpoint is torn, as after a full disk: the one before it counts.
    torn = first.run_dir / "checkpoints" / "step-400.data-00000-of-00001"
    torn.write_bytes(torn.read_bytes()[:1000])
    again = processes("first").start("--steps", "350", "--log-every", "100")
    assert again.wait() == {"worker-0": 0}
    assert "step-400 skipped" in again.log("worker-0")
    assert (again.result()["start_step"], again.result()["steps"]) == (300, 350)

    same = processes("same").start("--steps", "200", "--log-every", "100")
    assert same.wait() == {"worker-0": 0}
    losses = [line["loss"] for line in same.lines("worker-0") if "step" in line]
    assert losses == [line["loss"] for line in steps[:3]]


def test_async_learns_and_continues(processes: Make) -> None:
    first = processes().start("--steps", "600", "--log-every", "100", ps=1, workers=2)
    assert first.wait() == {"ps-0": 0, "worker-0": 0, "worker-1": 0}
    result = first.result()
    assert result.keys() >= _KEYS
    assert result["test_accuracy"] > 0.9
    assert result["test_images"] == 297
    assert 600 <= result["steps"] <= 601
    assert (result["workers"], result["ps"], result["lost_workers"]) == (2, 1, [])
    local_steps = [max(line.get("local_step", 0) for line in first.lines(f"worker-{index}")) for index in (0, 1)]
    assert sum(local_steps) == result["steps"]  # nobody's step is lost or counted twice

    again = processes().start("--steps", "650", "--log-every", "100", ps=2, workers=2)
    assert again.wait() == {"ps-0": 0, "ps-1": 0, "worker-0": 0, "worker-1": 0}
    assert again.result()["start_step"] == result["steps"]
    assert again.result()["test_accuracy"] > 0.9
    assert 650 <= again.result()["steps"] <= 651


def test_async_with_one_worker_equals_single_each_time(processes: Make) -> None:
    arguments = ("--steps", "60", "--log-every", "20", "--lr-boundaries", "30", "--learning-rate", "0.1")
    runs = [processes("single").start(*arguments)]
    runs += [processes(name).start(*arguments, ps=1, workers=1) for name in ("async", "again")]
    losses = []
    for run in runs:
        assert set(run.wait().values()) == {0}
        losses.append([line["loss"] for line in run.lines("worker-0") if "step" in line])
    assert losses[0] == losses[1] == losses[2]
    assert runs[1].result()["steps"] == 60


def test_others_go_on_when_a_worker_is_killed(processes: Make) -> None:
    run = processes().start("--steps", "1000", "--log-every", "50", ps=1, workers=2)
    run.wait_for(lambda: run.step("worker-1") > 0)
    run.by_task["worker-1"].kill()
    assert run.wait() == {"ps-0": 0, "worker-0": 0, "worker-1": -signal.SIGKILL}
    assert run.result()["lost_workers"] == [1]
    assert run.result()["steps"] >= 1000


def test_workers_end_when_the_ps_is_killed(processes: Make) -> None:
    arguments = ("--steps", "1000000", "--log-every", "50", "--restart-timeout", "3")
    run = processes().start(*arguments, ps=2, workers=2)
    run.wait_for(lambda: run.step("worker-0") > 0 and run.step("worker-1") > 0)
    run.by_task["ps-1"].kill()
    assert run.wait() == {"ps-0": LOST, "ps-1": -signal.SIGKILL, "worker-0": LOST, "worker-1": LOST}
    for task in ("worker-0", "worker-1"):
        assert run.log(task).splitlines()[-1].startswith("error: "), run.log(task)


def test_the_ps_ends_when_the_workers_are_killed(processes: Make) -> None:
    run = processes().start("--steps", "1000000", "--log-every", "50", "--restart-timeout", "5", ps=1, workers=1)
    run.wait_for(lambda: run.step("worker-0") > 300)
    run.by_task["worker-0"].kill()
    assert run.wait()["ps-0"] == LOST
    assert run.log("ps-0").splitlines()[-1].startswith("error: ps 0: no worker answers")


@pytest.mark.parametrize("ps", [0, 1])
def test_sigterm_saves_and_ends(processes: Make, ps: int) -> None:
    run = processes().with_time_to_save().start("--steps", "1000000", "--log-every", "50", ps=ps, workers=2)
    run.wait_for(lambda: run.step("worker-0") > 20)
    for process in run.by_task.values():
        process.terminate()
    assert set(run.wait().values()) == {128 + signal.SIGTERM}
    assert "ended by SIGTERM at step" in run.log("worker-0")
    assert list((run.run_dir / "checkpoints").glob("step-*.index"))
    assert not (run.run_dir / "result.json").exists()


def test_a_worker_whose_ps_has_no_such_name_ends_with_the_cause(processes: Make) -> None:
    ps, worker = _free_addresses(2)
    ps = ps.replace("127.0.0.1", "node1-ib.invalid")
    run = processes().start("--steps", "1", "--start-timeout", "12", ps=1, workers=1, addresses=(ps, worker))
    run.wait_for(lambda: run.by_task["worker-0"].poll() is not None)
    assert run.by_task["worker-0"].returncode == LOST
    said = rf"ps 0 \({ps}\) has not answered for \d+ s: Name or service not known"
    assert re.search(f"^waiting: {said}$", run.log("worker-0"), re.MULTILINE)
    assert re.fullmatch(f"error: {said}", run.log("worker-0").splitlines()[-1])

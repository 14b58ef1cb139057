"""A run goes on from the checkpoint of another run, with other processes and in another mode."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

from tests.train.conftest import Processes

Make = Callable[..., Processes]


def last_saved(run: Processes) -> int:
    return max(int(path.stem.split("-")[1]) for path in (run.run_dir / "checkpoints").glob("step-*.index"))


def test_a_run_goes_on_from_another_in_other_modes_with_other_workers(processes: Make) -> None:
    common = ("--log-every", "10", "--learning-rate", "0.05")
    first = processes("first").with_time_to_save()
    first.start("--steps", "1000000", *common, "--eval-every", "50", ps=1, workers=1)
    first.wait_for(lambda: first.step("worker-0") > 200)
    for process in first.by_task.values():
        process.send_signal(signal.SIGTERM)
    first.wait()
    step = last_saved(first)
    assert f"ended by SIGTERM at step {step}, which is saved" in first.log("worker-0")
    files = {path.name: path.stat().st_mtime_ns for path in (first.run_dir / "checkpoints").iterdir()}

    start = ("--start-from", str(first.run_dir), *common)
    sync = processes("second").start(
        "--steps", str(step + 20), *start, "--eval-every", "10", ps=1, workers=2, mode="sync"
    )
    assert set(sync.wait().values()) == {0}, sync.log("worker-0")
    assert sync.result()["start_step"] == step
    # Untrained it would be at ln 10 = 2.3.
    assert all(loss < 1.0 for loss in losses(sync))
    # The first run's checkpoints and its best one are as they were; the second has a best one of its own.
    assert {path.name: path.stat().st_mtime_ns for path in (first.run_dir / "checkpoints").iterdir()} == files
    assert json.loads((sync.run_dir / "checkpoints/best.json").read_text())["step"] > step

    # What a run has itself counts more than where it started.
    again = processes("second").start("--steps", str(step + 30), *start, mode="multiworker", workers=1)
    assert again.wait() == {"worker-0": 0}, again.log("worker-0")
    assert again.result()["start_step"] == step + 20
    assert all(loss < 1.0 for loss in losses(again))

    other = processes("other").start("--steps", "20", "--model", "resnet8", *start)
    assert other.wait() == {"worker-0": 2}
    assert f"error: checkpoint {first.run_dir}/checkpoints/step-{step} is of another network: " in other.log("worker-0")


def losses(run: Processes) -> list[float]:
    return [line["loss"] for line in run.lines("worker-0") if "step" in line and "loss" in line]

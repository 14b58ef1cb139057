"""The modes with parameter servers beside async, from end to end."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_dl.errors import LOST
from tests.train.conftest import Processes

Make = Callable[..., Processes]

# A network like `small` that is slow in one worker's training.
_NETWORKS = """
import json, os, time
import tensorflow as tf
from hpc_dl.models.keras import keras
from hpc_dl.models.small import small

task = json.loads(os.environ["TF_CONFIG"])["task"]

def wait(features):
    time.sleep(1)
    return features

def slow(shape, classes):
    network = small(shape, classes)
    if task != {"type": "worker", "index": int(os.environ["SLOW_WORKER"])}:
        return network
    images = keras.Input(shape)
    waited = keras.layers.Lambda(lambda x: tf.ensure_shape(tf.compat.v1.py_func(wait, [x], x.dtype), x.shape))
    return keras.Model(images, network(waited(images)), name="slow")
"""


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks.py").write_text(_NETWORKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def local_steps(run: Processes, task: str) -> int:
    """Return how many steps a worker made itself."""
    return max(int(line["local_step"]) for line in run.lines(task) if "step" in line)


def test_sync_learns(processes: Make) -> None:
    run = processes().start("--steps", "200", "--log-every", "50", ps=1, workers=2, mode="sync")
    assert run.wait() == {"ps-0": 0, "worker-0": 0, "worker-1": 0}
    result = run.result()
    assert result["test_accuracy"] > 0.9
    assert (result["steps"], result["images"], result["dropped_gradients"]) == (200, 200 * 2 * 32, 0)
    assert [local_steps(run, f"worker-{index}") for index in (0, 1)] == [200, 200]


def test_sync_does_not_wait_for_a_backup_worker(processes: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_WORKER", "2")
    arguments = ("--log-every", "10", "--model", "networks:slow")
    held = processes("held").start("--steps", "8", *arguments, ps=1, workers=3, mode="sync")
    assert set(held.wait().values()) == {0}
    assert [local_steps(held, f"worker-{index}") for index in range(3)] == [8, 8, 8]
    assert held.result()["dropped_gradients"] == 0

    run = processes().start("--steps", "150", "--backup-workers", "1", *arguments, ps=1, workers=3, mode="sync")
    assert set(run.wait().values()) == {0}
    result = run.result()
    assert result["steps_per_s"] > 3 * held.result()["steps_per_s"]
    assert (result["steps"], result["images"]) == (150, 150 * 2 * 32)
    assert result["test_accuracy"] > 0.9
    steps = [local_steps(run, f"worker-{index}") for index in range(3)]
    assert steps[0] > 100
    assert steps[1] > 100
    assert steps[2] < 75
    assert 0 < result["dropped_gradients"] <= steps[2] + 5


def test_a_run_goes_on_in_another_mode(processes: Make) -> None:
    arguments = ("--log-every", "50", "--learning-rate", "0.05")
    parts = [("async", 200, ()), ("sync", 300, ()), ("mixed", 400, ("--towers", "2"))]
    step = 0
    for mode, steps, more in parts:
        run = processes().start("--steps", str(steps), *arguments, *more, ps=1, workers=2, mode=mode)
        assert set(run.wait().values()) == {0}, mode
        result = run.result()
        assert (result["mode"], result["start_step"]) == (mode, step)
        step = result["steps"]
        assert steps <= step <= steps + 1
    assert result["images"] == (step - result["start_step"]) * 2 * 32
    assert result["test_accuracy"] > 0.9
    run = processes().start("--steps", str(step + 50), *arguments, "--towers", "2")
    assert run.wait() == {"worker-0": 0}
    assert run.result()["start_step"] == step
    first_loss = next(line["loss"] for line in run.lines("worker-0") if line.get("step", 0) > step)
    assert first_loss < 0.5
    assert run.result()["test_accuracy"] > 0.9


def test_the_job_ends_when_sync_has_too_few_workers_left(processes: Make) -> None:
    arguments = ("--steps", "1000000", "--log-every", "10")
    run = processes().as_attempt(0).start(*arguments, ps=1, workers=2, mode="sync")
    run.wait_for(lambda: run.step("worker-0") > 200)
    run.kill("worker-1")
    run.mark("lost", "worker-1")
    run.wait_for(lambda: run.by_task["worker-0"].poll() is not None)
    run.mark("lost", "worker-0")
    assert run.wait(50) == {"ps-0": LOST, "worker-0": LOST, "worker-1": -signal.SIGKILL}
    assert re.match(r"error: worker 1 \(.*\) was given up", run.log("worker-0").splitlines()[-1])


def test_sync_saves_and_ends_on_sigterm(processes: Make) -> None:
    run = processes().with_time_to_save()
    run.start("--steps", "1000000", "--log-every", "10", ps=1, workers=2, mode="sync")
    run.wait_for(lambda: run.step("worker-0") > 10)
    for process in run.by_task.values():
        process.terminate()
    assert set(run.wait().values()) == {128 + signal.SIGTERM}
    assert "ended by SIGTERM at step" in run.log("worker-0")
    assert list((run.run_dir / "checkpoints").glob("step-*.index"))


def test_no_worker_is_further_ahead_than_the_stale_synchronous_bound(
    processes: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_WORKER", "1")
    arguments = ("--log-every", "1", "--model", "networks:slow")
    lead = {}
    for name, own in {"bound": ("--steps", "12", "--staleness", "2"), "free": ("--steps", "100")}.items():
        run = processes(name).start(*own, *arguments, ps=1, workers=2)
        assert set(run.wait().values()) == {0}
        lead[name] = local_steps(run, "worker-0") - local_steps(run, "worker-1")
    assert 0 <= lead["bound"] <= 3
    assert lead["free"] > 10


@pytest.mark.parametrize(
    ("mode", "saver", "share"),
    [
        ("async", "--compression=fp16", 1 / 2),
        ("async", "--compression=1bit", 1 / 16),
        ("async", "--n-push=5 --n-fetch=5", 1 / 5),
        ("sync", "--compression=fp16", 1 / 2),
        ("sync", "--compression=1bit", 1 / 16),
    ],
)
def test_a_saver_sends_few_bytes_and_trains_as_well(
    processes: Make, heavy: str, mode: str, saver: str, share: float
) -> None:
    steps = 700 if "fetch" in saver else 300 if mode == "async" else 150
    arguments = ("--steps", str(steps), "--model", heavy, "--learning-rate", "0.02")
    run = processes().start(*arguments, *saver.split(), ps=1, workers=2, mode=mode)
    assert set(run.wait().values()) == {0}
    assert run.result()["test_accuracy"] > 0.9
    for worker in ("worker-0", "worker-1"):
        sent, received = run.sent(worker), run.sent(worker, "received")
        if "1bit" in saver:
            assert share / 2 < sent < share, "a bit is 1/32 of a number"
        else:
            assert sent == pytest.approx(share, rel=0.1)
        # The way back carries whole parameters, as often as they are fetched.
        assert received == pytest.approx(share if "fetch" in saver else 1, rel=0.1)
    # What the workers send is what the ps gets.
    both = run.sent("worker-0") + run.sent("worker-1")
    assert run.sent("ps-0", "received") == pytest.approx(both / 2, rel=0.1)

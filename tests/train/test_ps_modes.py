"""The modes with parameter servers beside async, from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.conftest import Processes

Make = Callable[..., Processes]

# A network that is slow in one worker's training.
_SLOW = """
import json, os, time
import tensorflow as tf
from hpc_dl.models.keras import keras
from hpc_dl.models.small import small

task = json.loads(os.environ["TF_CONFIG"])["task"]

def wait(features):
    time.sleep(0.3)
    return features

def model(shape, classes):
    network = small(shape, classes)
    if task != {"type": "worker", "index": 2}:
        return network
    images = keras.Input(shape)
    waited = keras.layers.Lambda(lambda x: tf.ensure_shape(tf.compat.v1.py_func(wait, [x], x.dtype), x.shape))
    return keras.Model(images, network(waited(images)), name="slow")
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a network that needs 0.3 s more per step in worker 2."""
    (tmp_path / "slow.py").write_text(_SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "slow:model"


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


def test_sync_does_not_wait_for_a_backup_worker(processes: Make, slow: str) -> None:
    arguments = ("--steps", "150", "--log-every", "10", "--model", slow, "--backup-workers", "1")
    run = processes().start(*arguments, ps=1, workers=3, mode="sync")
    assert set(run.wait().values()) == {0}
    result = run.result()
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
    assert result["images"] == step * 2 * 32
    assert result["test_accuracy"] > 0.9
    run = processes().start("--steps", str(step + 50), *arguments, "--towers", "2")
    assert run.wait() == {"worker-0": 0}
    assert run.result()["start_step"] == step
    first_loss = next(line["loss"] for line in run.lines("worker-0") if line.get("step", 0) > step)
    assert first_loss < 0.5
    assert run.result()["test_accuracy"] > 0.9

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

# Networks like `small`, one slow in one worker's training, one that writes how many bytes its process has sent.
_NETWORKS = """
import json, os, pathlib, socket, struct, threading, time
import tensorflow as tf
from hpc_dl.models.keras import keras
from hpc_dl.models.small import small

task = json.loads(os.environ["TF_CONFIG"])["task"]

def wait(features):
    time.sleep(0.3)
    return features

def slow(shape, classes):
    network = small(shape, classes)
    if task != {"type": "worker", "index": int(os.environ["SLOW_WORKER"])}:
        return network
    images = keras.Input(shape)
    waited = keras.layers.Lambda(lambda x: tf.ensure_shape(tf.compat.v1.py_func(wait, [x], x.dtype), x.shape))
    return keras.Model(images, network(waited(images)), name="slow")

def sent():
    total = 0
    for link in pathlib.Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(link).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as one:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            continue
        total += struct.unpack_from("Q", info, 120)[0]  # tcpi_bytes_acked
    return total

def write(path):
    most = 0  # connections are closed at the end
    while True:
        most = max(most, sent())
        path.with_suffix(".new").write_text(str(most))
        path.with_suffix(".new").replace(path)
        time.sleep(0.05)

if task["type"] == "worker":
    threading.Thread(target=write, args=(pathlib.Path(os.environ["SENT"]),), daemon=True).start()
"""


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks.py").write_text(_NETWORKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SENT", str(tmp_path / "sent"))


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
    arguments = ("--steps", "150", "--log-every", "10", "--model", "networks:slow", "--backup-workers", "1")
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
    assert run.wait(30) == {"ps-0": LOST, "worker-0": LOST, "worker-1": -signal.SIGKILL}
    assert re.match(r"error: worker 1 \(.*\) was given up", run.log("worker-0").splitlines()[-1])


def test_sync_saves_and_ends_on_sigterm(processes: Make) -> None:
    run = processes().start("--steps", "1000000", "--log-every", "10", ps=1, workers=2, mode="sync")
    run.wait_for(lambda: run.step("worker-0") > 10)
    for process in run.by_task.values():
        process.terminate()
    assert set(run.wait(20).values()) == {128 + signal.SIGTERM}
    assert "ended by SIGTERM at step" in run.log("worker-0")
    assert list((run.run_dir / "checkpoints").glob("step-*.index"))


def test_no_worker_is_further_ahead_than_the_stale_synchronous_bound(
    processes: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_WORKER", "1")
    arguments = ("--steps", "24", "--log-every", "1", "--model", "networks:slow", "--staleness", "2")
    run = processes().start(*arguments, ps=1, workers=2)
    assert set(run.wait().values()) == {0}
    fast, slow = (local_steps(run, f"worker-{index}") for index in (0, 1))
    assert 0 <= fast - slow <= 3


@pytest.mark.parametrize(
    ("saver", "share"),
    [("--compression=fp16", 0.5), ("--compression=1bit", 1 / 16), ("--n-push=5 --n-fetch=5", 1 / 5)],
)
def test_a_saver_sends_few_bytes_and_trains_as_well(processes: Make, tmp_path: Path, saver: str, share: float) -> None:
    arguments = ("--steps", "300", "--model", "networks:small", "--learning-rate", "0.05")
    run = processes().start(*arguments, *saver.split(), ps=1, workers=1)
    assert set(run.wait().values()) == {0}
    result = run.result()
    assert result["test_accuracy"] > 0.9
    per_step = int((tmp_path / "sent").read_text()) / result["steps"]
    own_messages = 12_000  # what a step sends anyway: batch norm averages, requests
    assert share * 4 * result["parameters"] / 2 < per_step < share * 4 * result["parameters"] + own_messages

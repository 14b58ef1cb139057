"""Real training processes on this machine, ended with the test however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.runfolder.metrics import figures, per_step

_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

# Parameters by the million, and next to nothing to compute: the traffic is that of the parameters.
_HEAVY = """
from hpc_dl.models.keras import keras

def heavy(shape, classes):
    images = keras.Input(shape)
    features = keras.layers.Conv2D(8, 3, 4, "same", name="conv1")(images)
    features = keras.layers.BatchNormalization(name="bn1")(features)
    features = keras.layers.Dense(4096, activation="relu", name="fc1")(keras.layers.Flatten()(features))
    return keras.Model(images, keras.layers.Dense(classes, name="fc2")(features), name="heavy")
"""


class Processes:
    """The processes of one run, by task name."""

    def __init__(self, run_dir: Path, data_dir: Path) -> None:
        self.run_dir, self.data_dir = run_dir, data_dir
        self.by_task: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, str] = {}
        self._lines: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {}
        run_dir.mkdir(exist_ok=True)

    def start(
        self, *arguments: str, ps: int = 0, workers: int = 1, mode: str = "", addresses: Sequence[str] = ()
    ) -> Processes:
        """Start a whole run: `ps` and `workers`, or one process where no mode and no ps are given.

        They are at `addresses`, those of the ps first; where none are named, on free ports of this machine.
        """
        if not ps and not mode:
            self._start("worker-0", {}, "--mode", "single", *arguments)
            return self
        addresses = addresses or _free_addresses(ps + workers)
        cluster = {"ps": addresses[:ps], "worker": addresses[ps:]} if ps else {"worker": addresses}
        for task_type, members in cluster.items():
            for index in range(len(members)):
                config = json.dumps({"cluster": cluster, "task": {"type": task_type, "index": index}})
                self._start(f"{task_type}-{index}", {"TF_CONFIG": config}, "--mode", mode or "async", *arguments)
        return self

    def _start(self, task: str, environment: dict[str, str], *arguments: str) -> None:
        self._lines[task] = environment, arguments
        command = [sys.executable, "-m", "hpc_dl.train", "--run-dir", str(self.run_dir)]
        command += ["--data-dir", str(self.data_dir), "--batch", "32", *arguments]
        with (self.run_dir / f"{task}.log").open("ab") as log:
            self.by_task[task] = subprocess.Popen(
                command, env={**os.environ, **_ENVIRONMENT, **self.environment, **environment}, stdout=log, stderr=log
            )

    def with_time_to_save(self) -> Processes:
        """Let the processes that are started from now on have more time than usual to save what they have."""
        self.environment = {"HPC_DL_GRACE": "70"}
        return self

    def as_attempt(self, number: int) -> Processes:
        """Let the processes that are started from now on be those of a launcher, in an attempt that begins now."""
        (self.run_dir / "attempt").write_text(f"{number}\n")
        self.environment = {"HPC_DL_RUN": str(self.run_dir), "HPC_DL_ATTEMPT": str(number)}
        return self

    def mark(self, kind: str, task: str) -> None:
        """Say what a launcher says of a process: ``done`` or ``lost``."""
        folder = self.run_dir / "state" / self.environment["HPC_DL_ATTEMPT"] / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / task).touch()

    def kill(self, task: str) -> None:
        """Kill a process and wait until it is gone."""
        self.by_task[task].kill()
        self.by_task[task].wait()

    def restart(self, task: str) -> None:
        """Start a process again, as a launcher does."""
        environment, arguments = self._lines[task]
        self._start(task, environment, *arguments)

    def wait(self, seconds: float = 150) -> dict[str, int]:
        """Return the exit code of each process; those that have not ended in time fail the test."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            codes = {task: process.poll() for task, process in self.by_task.items()}
            if None not in codes.values():
                return {task: code for task, code in codes.items() if code is not None}
            time.sleep(0.05)
        running = [task for task, process in self.by_task.items() if process.poll() is None]
        logs = "\n".join(self.log(task) for task in running)
        return pytest.fail(f"{', '.join(running)} still run after {seconds} s:\n{logs}")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "\n".join(f"{task}:\n{self.log(task)}" for task in self.by_task)
            time.sleep(0.1)

    def log(self, task: str) -> str:
        return (self.run_dir / f"{task}.log").read_text()

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run_dir / "result.json").read_text())
        return result

    def lines(self, task: str) -> list[dict[str, Any]]:
        """Return the metrics of a process, events included."""
        path = self.run_dir / "metrics" / f"{task}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def step(self, task: str) -> int:
        """Return the last global step that a process reported, 0 before the first."""
        return max((line["step"] for line in self.lines(task) if "step" in line), default=0)

    def sent(self, task: str, way: str = "sent") -> float:
        """Return what a process sent, or received, per step of a worker, in sizes of the model."""
        moved = per_step(figures(self.run_dir / "metrics"))
        return moved[task][f"bytes_{way}"] / float(4 * self.result()["parameters"])

    def end(self) -> None:
        for process in self.by_task.values():
            process.kill()
        for process in self.by_task.values():
            process.wait()


def _free_addresses(count: int) -> list[str]:
    """Return addresses that nobody uses, below the ports that the kernel gives to whoever asks for any."""
    found: list[str] = []
    while len(found) < count:
        address = f"127.0.0.1:{random.randint(10_000, 19_999)}"
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            found.append(address)
    return list(dict.fromkeys(found)) if len(set(found)) == count else _free_addresses(count)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards of digits."""
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, "-m", "hpc_dl.data", "prepare", "digits", "--data-dir", folder], check=True)
    return folder


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a network with 2.1 million parameters."""
    (tmp_path / "heavy_network.py").write_text(_HEAVY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "heavy_network:heavy"


@pytest.fixture
def processes(tmp_path: Path, data_dir: Path) -> Iterator[Callable[[str], Processes]]:
    """Return a function that makes the processes of the run with a name; the same name is the same run folder."""
    made = []

    def make(name: str = "run") -> Processes:
        made.append(Processes(tmp_path / name, data_dir))
        return made[-1]

    yield make
    for one in made:
        one.end()

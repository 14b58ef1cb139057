"""A slurmctld of a private cluster that is away for a while. Running jobs go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from hpc_dl.minicluster import MiniCluster
from hpc_dl.minicluster.root import supervisor_pid

_PATIENCE = 20.0  # seconds


def pause(cluster: MiniCluster) -> None:
    """End slurmctld. `resume` starts it again with its saved state."""
    controller = Path("/proc", (cluster.root / "state" / "slurmctld.pid").read_text().strip())
    _signal(cluster, signal.SIGUSR1)
    _wait(lambda: not controller.exists(), "slurmctld did not end")


def resume(cluster: MiniCluster) -> None:
    """Start slurmctld again after `pause`; return when it answers."""
    _signal(cluster, signal.SIGUSR2)
    _wait(lambda: bool((found := cluster.status()) and found.nodes), "slurmctld did not start")


def _signal(cluster: MiniCluster, number: signal.Signals) -> None:
    """Send a signal that the cluster's supervisor waits for."""
    pid = supervisor_pid(cluster.root)
    assert pid, f"no cluster runs in {cluster.root}"
    os.kill(pid, number)


def _wait(happened: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(problem)
        time.sleep(0.01)

"""A node that is cut off, a run folder that is read-only. `test_faults.py` runs this in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.network import Network
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.node.attempts import RESTART, events
from hpc_dl.spec.nodelist import expand
from tests.slurm.helpers import Bench
from tests.slurm.test_faults import alive, go_on, lives, pid, start, then
from tests.unit.fakes.processes import eventually

CONFIG = ClusterConfig(groups=(NodeGroup(count=4),), extra=("KillWait=10", "SlurmdTimeout=5"))


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(CONFIG.names, tmp_path) as made:
        yield made


@pytest.fixture
def bench(network: Network, short_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with MiniCluster(short_root, CONFIG, controller=network.head, hosts=network.hosts) as cluster:
        yield from lives(cluster, tmp_path, monkeypatch)


@pytest.mark.parametrize("cut", [0, 1])
def test_its_processes_end_when_others_have_taken_over(bench: Bench, network: Network, cut: int) -> None:
    job = start(bench)
    node = expand(job.query().nodelist)[cut]
    zombie = Path(f"/proc/{pid(job, cut, 0)}")
    network.cut(node)
    alive(job, 1, 90)
    assert node not in expand(job.query().nodelist)
    eventually(lambda: not zombie.exists(), what="the process of the first attempt ends")
    second = max(event.time for event in events(job.run) if event.event == "started")
    # It has saved what it had before, or not at all.
    assert all(path.stat().st_mtime < second for path in job.run.path.glob("*-0"))
    go_on(job, 1)


def test_a_death_while_the_run_folder_is_read_only_is_told_when_it_can_be_written_again(bench: Bench) -> None:
    job = start(bench)
    with read_only(job.run.path):
        os.kill(pid(job, 1, 0), signal.SIGKILL)
        # Longer than launchers take to tell each other.
        time.sleep(4)
        assert Path(f"/proc/{pid(job, 0, 0)}").exists()
        assert job.run.read_failure() is None
    alive(job, 1)
    assert then(job) == [RESTART]
    go_on(job, 1)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only; files that are open stay so, as on a file server."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            (folder / "written").touch()
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)

"""The private cluster of the fault table: nodes on a network, a separate disk, and a partition that preempts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.network import Network
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup, Partition
from hpc_dl.shipped_files import share

CONFIG = ClusterConfig(
    groups=(NodeGroup(count=14),),  # so that a job of three nodes goes on after ten were cut off
    partitions=(Partition("main"), Partition("high")),
    extra=("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "KillWait=20"),
)
_PATIENCE = 60.0  # seconds in which all nodes must come back


def slurm(*command: str) -> str:
    """Run a command of Slurm and return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@dataclass
class Bench:
    """The running cluster."""

    cluster: MiniCluster
    network: Network
    site: str
    """The site file of the cluster."""

    def heal(self) -> None:
        """Bring back the nodes that are away."""
        for node in self.cluster.names:
            self.network.mend(node)
        deadline = time.monotonic() + _PATIENCE
        while away := [line for line in _states() if not line.endswith(("idle", "mixed", "allocated", "completing"))]:
            if time.monotonic() > deadline:
                raise SystemExit(f"nodes do not come back: {', '.join(away)}")
            for line in away:
                if line.endswith(("down", "drained")):
                    slurm("scontrol", "update", f"nodename={line.split()[0]}", "state=RESUME")
            time.sleep(0.5)


def _states() -> list[str]:
    return slurm("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Start the cluster, go to a folder on a separate disk, and let jobs of `high` preempt jobs of `main`.

    The disk and the network lie in namespaces of this process: `benchmarks.faults.network.enter_namespaces`.
    """
    # An exception ends the program, so that the cluster and its folder are removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as top:
        root, disk = Path(top, "root"), Path(top, "disk")
        with (
            _own_disk(disk),
            Network(CONFIG.names, Path(top)) as network,
            MiniCluster(root, CONFIG, controller=network.head, hosts=network.hosts) as cluster,
        ):
            os.environ.update(cluster.env())
            os.chdir(disk)
            slurm("scontrol", "update", "partitionname=high", "PriorityTier=10")
            slurm("scontrol", "update", "partitionname=main", "PriorityTier=1", "GraceTime=20")
            # The nodes have their own addresses.
            lines = (share() / "env" / "sites" / "minicluster.toml").read_text().splitlines(keepends=True)
            site = disk / "networked.toml"
            site.write_text("".join(line for line in lines if not line.startswith("address")))
            yield Bench(cluster, network, str(site))


@contextlib.contextmanager
def _own_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)

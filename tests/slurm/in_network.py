"""What happens to a job of which a node is cut off. `test_faults.py` runs this among namespaces of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.launch.attempts import events
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.minicluster.network import Network
from hpc_dl.nodelist import expand
from tests.slurm.helpers import Bench
from tests.slurm.test_faults import LIFE, alive, go_on, pid, start
from tests.unit.fakes.processes import eventually

CONFIG = ClusterConfig(groups=(NodeGroup(count=4),), extra=("KillWait=10", "SlurmdTimeout=5"))


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(CONFIG.names, tmp_path) as made:
        yield made


@pytest.fixture
def bench(network: Network, short_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with MiniCluster(short_root, CONFIG, network=network) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "life.py").write_text(LIFE)
        one = Bench(cluster, tmp_path)
        yield one
        one.clean()


@pytest.mark.parametrize("cut", [0, 1])
def test_its_processes_end_when_others_have_taken_over(bench: Bench, network: Network, cut: int) -> None:
    job = start(bench)
    node = expand(job.query().nodelist)[cut]
    zombie = Path(f"/proc/{pid(job, cut, 0)}")
    network.cut(node)
    alive(job, 1, 90)
    assert node not in expand(job.query().nodelist)
    eventually(lambda: not zombie.exists(), 15, "the process of the first attempt ends")
    second = max(event.time for event in events(job.run) if event.event == "started")
    # It has saved what it had before, or not at all.
    assert all(path.stat().st_mtime < second for path in job.run.path.glob("*-0"))
    go_on(job, 1)

"""Nodes with a network of their own, and how processes reach them. `test_environment.py` runs this in namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.network import Network
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench

_SITE = 'cores = 16\ngpus = 4\ngpu_type = "k80"\nfake_gpus = true\npartition = "main"\nsrun = []\n'


@pytest.fixture(params=["", "cluster.test"])
def domain(request: pytest.FixtureRequest) -> str:
    """The domain in Slurm's names of the nodes."""
    return str(request.param)


@pytest.fixture
def bench(domain: str, short_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    config = ClusterConfig((NodeGroup(domain=domain),))
    with (
        Network(config.names, tmp_path) as network,
        MiniCluster(short_root, config, controller=network.head, hosts=network.hosts) as cluster,
    ):
        # The file is mounted as /etc/hosts. Each node has a name with a domain, and one on a second network.
        lines = ["127.0.0.1 localhost", "10.77.0.1 head"]
        lines += [f"10.77.0.{9 + i} mini{i}.cluster.test mini{i} mini{i}-ib0.cluster.test mini{i}-ib0" for i in (1, 2)]
        (tmp_path / "hosts").write_text("\n".join([*lines, ""]))
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        one = Bench(cluster, tmp_path)
        yield one
        one.clean()


def run(bench: Bench, keys: str) -> Job:
    (bench.folder / "my.toml").write_text(_SITE + keys)
    job = bench.submit(site="./my.toml", mode="multiworker", nodes=2, gpus=1, cores=2)
    job.wait(timeout=120)
    return job


@pytest.mark.parametrize(
    ("keys", "hosts"),
    [
        ("full_names = true\n", ["mini1.cluster.test", "mini2.cluster.test"]),
        ('interface = "eth0"\n', ["10.77.0.10", "10.77.0.11"]),
        ('interconnect_suffix = "-ib0"\n', ["mini1-ib0", "mini2-ib0"]),
    ],
)
def test_processes_listen_where_the_site_says(bench: Bench, domain: str, keys: str, hosts: list[str]) -> None:
    job = run(bench, keys)
    assert job.state == "COMPLETED", job.stdout()
    if domain and "suffix" in keys:
        hosts = [f"{host}.{domain}" for host in hosts]
    told = bench.told(job)
    addresses = told["worker:0"]["config"]["cluster"]["worker"]
    assert [address.rpartition(":")[0] for address in addresses] == hosts
    assert [told[f"worker:{i}"]["node"] for i in (0, 1)] == list(bench.cluster.names)
    assert "error" not in bench.run(
        "check", "--site=./my.toml", "--script=own.py", "--nodes=2", "--gpus=1", "--on-node"
    )


def test_an_interface_that_the_nodes_lack_is_the_jobs_failure(bench: Bench) -> None:
    job = run(bench, 'interface = "ib0"\n')
    assert job.state == "FAILED"
    wanted = "has no IPv4 address on an interface of this name; it has lo (127.0.0.1), eth0 (10.77.0.1"
    assert wanted in job.stdout()
    assert wanted in str(job.run.read_failure())

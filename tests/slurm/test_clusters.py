"""Two clusters behind one login: all of Slurm's commands ask the one that the site names."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import eventually

# The first worker tells where it is, by a step and by a question of its own, and waits until it may end.
SCRIPT = """
import json, os, pathlib, subprocess, sys, time

def said(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip()

run = pathlib.Path(os.environ["HPC_DL_RUN"])
step = said("srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "printenv", "SLURMD_NODENAME")
asked = said("scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]).split()[0]
(run / "told.json").write_text(json.dumps([os.environ["SLURM_CLUSTER_NAME"], step, asked]))
while "wait" in sys.argv and not (run / "go").exists():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def clusters(slurm: None) -> Iterator[tuple[MiniCluster, MiniCluster]]:
    """Two clusters with one slurmdbd, through which commands find the other one."""
    roots = [Path(tempfile.mkdtemp(prefix="hd")) for _ in range(2)]
    try:
        first = MiniCluster(roots[0], ClusterConfig((NodeGroup("alpha"),), name="alpha", accounting=True))
        with first:
            lines = first.slurm_conf.read_text().splitlines()
            shared = tuple(line for line in lines if line.startswith(("AccountingStorage", "AuthInfo")))
            with MiniCluster(roots[1], ClusterConfig((NodeGroup("beta"),), name="beta", extra=shared)) as second:
                eventually(lambda: _registered(first) >= {"alpha", "beta"}, 30, "slurmdbd knows both")
                yield first, second
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def _registered(cluster: MiniCluster) -> set[str]:
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "clusters", "format=cluster,controlhost"]
    said = subprocess.run(command, env=cluster.env(), capture_output=True, text=True, check=False, timeout=120).stdout
    return {name for name, _, host in (line.partition("|") for line in said.splitlines()) if host}


@pytest.fixture
def bench(
    clusters: tuple[MiniCluster, MiniCluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A folder in the environment of the first cluster."""
    for name, value in clusters[0].env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "where.py").write_text(SCRIPT)
    for name, keys in {
        "alpha": "",
        "beta": 'clusters = "beta"\n',
        "conf": f'slurm_conf = "{clusters[1].slurm_conf}"\n',
    }.items():
        text = f'base = "minicluster"\nnodes = "{"alpha" if name == "alpha" else "beta"}[1-2]"\n{keys}'
        (tmp_path / f"{name}.toml").write_text(text)
    one = Bench(clusters[0], tmp_path)
    yield one
    for job in one.jobs:
        job.cancel()
    eventually(one.marker.gone, 30, "processes are left")


def submit(bench: Bench, site: str, *words: str) -> Job:
    settings = {"script": "where.py", "mode": "single", "nodes": 1, "gpus": 0, "cores": 1}
    return bench.submit(*words, site=f"./{site}.toml", name=site, **settings)


@pytest.mark.parametrize("site", ["beta", "conf"])
def test_a_job_is_on_the_cluster_of_its_site(bench: Bench, site: str) -> None:
    job = submit(bench, site)
    job.wait(timeout=120)
    assert job.state == "COMPLETED", job.stdout()
    told = (job.run.path / "told.json").read_text()
    assert told == f'["beta", "beta1", "JobId={job.job_id}"]'
    assert job.query().nodelist == "beta1"


def test_jobs_of_one_number_on_two_clusters_are_told_apart(bench: Bench) -> None:
    here = submit(bench, "alpha", "wait")
    there = submit(bench, "beta", "wait")
    while int(there.job_id) < int(here.job_id):
        there.cancel()
        there = submit(bench, "beta", "wait")
    while int(here.job_id) < int(there.job_id):
        here.cancel()
        here = submit(bench, "alpha", "wait")
    for job in (here, there):
        eventually((job.run.path / "told.json").exists, 60, "it runs")
    assert [here.query().nodelist, there.query().nodelist] == ["alpha1", "beta1"]
    there.cancel()
    there.wait(timeout=120)
    assert (there.state, here.state) == ("CANCELLED", "RUNNING")
    assert f"{here.job_id}" in bench.run("list")


def test_what_a_cluster_has_is_that_of_the_site(bench: Bench) -> None:
    said = bench.run("check", "--site=./beta.toml", "--script=where.py", "--mode=multiworker", "--nodes=3", code=2)
    assert "of 2 nodes in partition 'main' 2 have" in said
    assert "beta" in said


def test_a_cluster_that_nobody_knows_is_an_error(bench: Bench) -> None:
    (bench.folder / "none.toml").write_text('base = "minicluster"\nclusters = "gamma"\n')
    said = bench.run("submit", "--site=./none.toml", "--script=where.py", "--mode=single", code=2)
    assert "gamma" in said

"""Cancelling: what trains has the site's grace time to save, and nothing is left."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.minicluster import ClusterConfig, MiniCluster
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import eventually

# Told to end, worker 0 takes 5 seconds to save, as a large network does; the others have nothing to save.
SLOW = """
import json, os, pathlib, signal, sys, time

task = json.loads(os.environ["TF_CONFIG"])["task"]
run = pathlib.Path(os.environ["HPC_DL_RUN"])

def end(number, frame):
    if task["index"] == 0:
        time.sleep(5)
        (run / "saved").touch()
    sys.exit(143)

if "HPC_DL_START_FROM" in os.environ and task["type"] == "worker":
    if task["index"] == 0:
        (run / "result.json").write_text(json.dumps({"from": os.environ["HPC_DL_START_FROM"]}))
    sys.exit()
signal.signal(signal.SIGTERM, end)
(run / f"ready-{task['index']}").touch()
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def bench(slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A folder whose jobs run on a cluster that waits between SIGTERM and SIGKILL as long as Slurm usually does."""
    root = Path(tempfile.mkdtemp(prefix="hd"))
    with MiniCluster(root, ClusterConfig(extra=("KillWait=30",))) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        one = Bench(cluster, tmp_path)
        (tmp_path / "slow.py").write_text(SLOW)
        yield one
        one.clean()
    shutil.rmtree(root, ignore_errors=True)


def ready(job: Job) -> bool:
    return len(list(job.run.path.glob("ready-*"))) == 2


def test_jobs_of_all_kinds_are_cancelled_at_once_have_saved_and_go_on(bench: Bench) -> None:
    if shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None:
        assert os.environ.get("CI") != "true", "mpirun is not there: make setup-horovod"
        pytest.skip("mpirun is not there: make setup-horovod")
    settings: dict[str, Any] = {"script": "slow.py", "nodes": 2, "gpus": 1, "cores": 4}
    jobs = [bench.submit(mode=mode, **settings) for mode in ("horovod", "async")]
    waiting = bench.submit(slurm={"begin": "now+1hour"}, **settings)
    for job in jobs:
        eventually(functools.partial(ready, job), 60, f"job {job.job_id} is ready")
    with pytest.raises(hpc_dl.UserError, match=f"job {jobs[1].job_id} is RUNNING: only a job that has ended"):
        jobs[1].resume()
    told = bench.run("cancel", *(job.job_id for job in (*jobs, waiting)))
    assert told.splitlines() == [f"Job {job.job_id} is told to end" for job in (*jobs, waiting)]
    for job in (*jobs, waiting):
        job.wait(120)
        assert job.state == "CANCELLED"
    for job in jobs:
        assert (job.run.path / "saved").exists(), job.stdout()
        summary = job.summary()
        assert summary is not None
        assert (summary.state, summary.exit_code, summary.failure) == ("CANCELLED", 143, None)
    eventually(bench.marker.gone)

    # What was cancelled goes on, with other nodes and in another mode.
    said = bench.run("resume", jobs[1].job_id, "--mode=sync", "--nodes=1", "--gpus=2")
    assert f"Starts from {jobs[1].run.path}" in said
    # Not simply the next number: sbatch --test-only of Slurm 20.11 uses up one.
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found is not None
    resumed = hpc_dl.load(found[1])
    bench.jobs.append(resumed)
    assert resumed.result() == {"from": str(jobs[1].run.path)}
    spec = resumed.run.read_job()
    assert (spec.mode, spec.nodes, spec.gpus, spec.cores) == ("sync", 1, 2, 4)
    assert spec.args == jobs[1].run.read_job().args

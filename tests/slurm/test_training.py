"""The main job on a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.job import Job
from hpc_dl.minicluster import MiniCluster


@pytest.fixture
def job(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """One ps and two workers on two nodes; this machine has too few cores for more."""
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    one = hpc_dl.submit("train", site="minicluster", nodes=2, gpus=1, mode="async", steps=500)
    yield one
    one.cancel()
    one.wait(timeout=60)


@pytest.mark.timeout(240)
def test_the_main_job_trains_on_slurm(job: Job) -> None:
    result = job.result(timeout=200)
    assert result["test_accuracy"] > 0.9
    assert (result["workers"], result["ps"]) == (2, 1)
    assert job.state == "COMPLETED"
    tasks = job.run.tasks.read_text()
    assert (tasks.count("CUDA_VISIBLE_DEVICES='' "), tasks.count("CUDA_VISIBLE_DEVICES=0 ")) == (1, 2)

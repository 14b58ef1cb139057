"""The main job on a real Slurm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.minicluster import MiniCluster
from hpc_dl.monitor.reading import read_node
from hpc_dl.submission.handle import Job


@pytest.fixture
def submit(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    """Return a function that submits a job of two workers on two nodes; this machine has too few cores for more."""
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for name in ("random", "select", "signal", "subprocess"):  # as a user's file may be called
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')\n")
    jobs: list[Job] = []

    def start(**settings: Any) -> Job:
        jobs.append(hpc_dl.submit("train", site="minicluster", nodes=2, gpus=1, **settings))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()
        job.wait(timeout=120)


@pytest.mark.timeout(240)
def test_the_main_job_trains_on_slurm(submit: Callable[..., Job]) -> None:
    job = submit(mode="async", steps=500)
    result = job.result(timeout=200)
    assert result["test_accuracy"] > 0.9
    assert (result["workers"], result["ps"]) == (2, 1)
    assert job.state == "COMPLETED"
    tasks = job.run.tasks.read_text()
    assert (tasks.count("CUDA_VISIBLE_DEVICES='' "), tasks.count("CUDA_VISIBLE_DEVICES=0 ")) == (1, 2)


@pytest.mark.timeout(240)
def test_ranks_train_on_two_nodes(horovod: None, submit: Callable[..., Job]) -> None:
    job = submit(mode="horovod", steps=200, stage=True)
    result = job.result(timeout=200)
    assert result["test_accuracy"] > 0.9
    assert job.state == "COMPLETED"
    assert (result["workers"], result["ps"], result["spread"]) == (2, 0, 0)
    assert result["nodes"] == ["mini1", "mini2"]
    assert sorted(job.logs()) == ["worker:0", "worker:1"]
    measured = {path.stem: sorted(read_node(path).cores) for path in job.run.monitor.iterdir()}
    assert measured == {"mini1": ["worker:0"], "mini2": ["worker:1"]}
    # 2 (N-1)/N sizes of the model.
    for worker in ("worker-0", "worker-1"):
        sent = result["bytes_per_step"][worker]["bytes_sent"]
        assert sent / (4 * result["parameters"]) == pytest.approx(1, rel=0.1)

"""The main job, whole, on this machine: from `submit` to a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.monitor.reading import read_node
from hpc_dl.report.measured import measure
from hpc_dl.report.one_job import report_of
from hpc_dl.report.page import html
from hpc_dl.submission.handle import Job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """The main job on two "nodes", with fewer steps."""
    monkeypatch.chdir(tmp_path)
    one = hpc_dl.submit("train", site="local", nodes=2, mode="async", steps=500)
    yield one
    one.cancel()
    one.wait(timeout=100)


@pytest.mark.timeout(180)
def test_the_main_job_trains_a_network_on_real_images(job: Job, tmp_path: Path) -> None:
    result = job.result(timeout=170)
    assert result["test_accuracy"] > 0.9
    assert result["test_images"] == 297
    assert (result["mode"], result["data"], result["workers"], result["ps"]) == ("async", "digits", 2, 1)
    assert 500 <= result["steps"] <= 501
    assert job.state == "COMPLETED"
    assert list(job.logs()) == ["ps:0", "worker:0", "worker:1"]
    assert {path.name for path in job.run.metrics.iterdir()} >= {"worker-0.jsonl", "worker-1.jsonl"}
    assert list(job.run.checkpoints.glob("*.index"))
    measured = {path.stem: sorted(read_node(path).cores) for path in sorted(job.run.monitor.iterdir())}
    assert measured == {"node1": ["ps:0", "worker:0"], "node2": ["worker:1"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "runs"]
    page = html(report_of(measure(job.run), job.state, ""))
    assert "Training loss by step" in page
    assert "CPU of each process" in page

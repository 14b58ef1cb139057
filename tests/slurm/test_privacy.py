"""A secret of the submitting shell reaches the job's processes, and no file; others can read nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.minicluster import MiniCluster
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench

HIDDEN = "s3cr3t-$(touch x)-'é\"\n-value"
SCRIPT = """
import hashlib, os, sys
print(hashlib.sha256(os.environ["MY_API_KEY"].encode()).hexdigest())
open(os.path.join(os.environ["HPC_DL_RUN"], "own"), "w").close()
sys.exit("worker 0 has no luck")
"""


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A folder of a user whose files others may read by default, with a secret in the environment."""
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MY_API_KEY", HIDDEN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.py").write_text(SCRIPT)
    (tmp_path / "templates" / "tasks").mkdir(parents=True)
    (tmp_path / "templates" / "tasks" / "line.j2").write_text('{% extends "hpc_dl/tasks/line.j2" %}')
    before = os.umask(0o022)
    one = Bench(cluster, tmp_path)
    yield one
    one.clean()
    os.umask(before)


def check_private(job: Job) -> None:
    """Look into every file of a run folder, and at who may."""
    paths = [job.run.path, *job.run.path.rglob("*")]
    assert len(paths) > 10
    for path in paths:
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes(), path
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_a_secret_reaches_the_processes_and_no_file(bench: Bench) -> None:
    job = bench.submit(script="secret.py", mode="single", gpus=1, cores=1)
    with pytest.raises(hpc_dl.JobError, match="worker 0 has no luck") as caught:
        job.result(120)
    assert hashlib.sha256(HIDDEN.encode()).hexdigest() in job.logs()["worker:0"].read_text()
    check_private(job)
    said = str(caught.value) + bench.run("render", "--site=minicluster") + bench.run("status", job.job_id)
    assert "s3cr3t" not in said + bench.scontrol(job)


def test_what_training_writes_is_private_too(bench: Bench) -> None:
    job = hpc_dl.submit("train", site="local", mode="single", steps=5, eval_every=5, trace_steps=[2])
    bench.jobs.append(job)
    job.result(120)
    check_private(job)
    assert list(job.run.checkpoints.glob("best-*"))
    assert list(job.run.path.rglob("*tfevents*"))

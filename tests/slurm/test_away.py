"""What people see while slurmctld is away: something true, in less than a minute, and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.faults.controller import pause, resume
from hpc_dl.minicluster import MiniCluster
from hpc_dl.submission.handle import Job
from tests.slurm.helpers import Bench, slurm_version
from tests.unit.fakes.processes import eventually

_SILENT = "hpc-dl: Slurm does not answer: what is shown is what was last known"


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    one = Bench(cluster, tmp_path)
    yield one
    one.clean()


@pytest.fixture
def away(bench: Bench) -> Iterator[MiniCluster]:
    """The cluster; slurmctld is there again at the end in any case."""
    yield bench.cluster
    found = bench.cluster.status()
    if found and not found.nodes:
        resume(bench.cluster)


def test_what_is_said_while_slurmctld_is_away_is_true(
    bench: Bench, away: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, job = bench.submit(), bench.submit("wait")
    first.result(timeout=120)
    bench.ready(job, 5)
    assert job.state == "RUNNING"
    # Slurm's own commands look for it three times as long as this.
    impatient = tmp_path / "slurm.conf"
    impatient.write_text(away.slurm_conf.read_text() + "MessageTimeout=2\n")
    monkeypatch.setenv("SLURM_CONF", str(impatient))
    watching = [
        subprocess.Popen(
            [sys.executable, "-m", "hpc_dl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for words in (["watch", job.job_id], ["logs", "--follow", "--process", "worker:0", job.job_id])
    ]
    waiter = threading.Thread(target=job.wait, args=(200,))
    waiter.start()
    pause(away)

    begin = time.monotonic()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(bench.run, "status", job.job_id)
        refused = pool.submit(bench.run, "cancel", job.job_id, code=2).result()
        said = asked.result()
    assert time.monotonic() - begin < 90
    assert f"Job {job.job_id} UNKNOWN  Slurm does not answer" in said
    assert _SILENT in said
    assert "hpc-dl: error: scancel" in refused
    assert "Traceback" not in refused

    # It ends now. srun of Slurm 26.05 ends only when slurmctld is there again, though its processes have ended.
    bench.go()
    if slurm_version(away) < (26, 5):
        ended_while_it_is_away(bench, first, job)
    else:
        resume(away)
    for process in watching:
        output = process.communicate(timeout=100)[0]
        assert process.returncode == 0
        assert "Traceback" not in output
    waiter.join(100)
    assert not waiter.is_alive()

    if slurm_version(away) < (26, 5):
        resume(away)
    eventually(lambda: not job.query().silent and job.state == "COMPLETED", 60)
    assert bench.field(job, "JobState") == "COMPLETED"
    assert _SILENT not in bench.run("status", job.job_id)


def ended_while_it_is_away(bench: Bench, first: Job, job: Job) -> None:
    """The job's own record says how it has ended, and Slurm is not waited for as long."""
    eventually(job.run.summary.exists, 60)
    begin = time.monotonic()
    commands = (["status", job.job_id], ["list"], ["status", "--json", first.job_id, job.job_id])
    with ThreadPoolExecutor() as pool:
        said, listed, array = pool.map(lambda words: bench.run(*words), commands)
    assert time.monotonic() - begin < 60
    assert f"Job {job.job_id} COMPLETED after " in said
    for one in (first, job):
        assert f"{one.job_id}  COMPLETED" in listed
    assert all(_SILENT in text for text in (said, listed))
    found = [(one["state"], one["exit_code"], one["slurm_answers"]) for one in json.loads(array)]
    assert found == [("COMPLETED", 0, False)] * 2

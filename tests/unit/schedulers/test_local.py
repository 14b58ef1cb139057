"""Local runs: numbers, the process that is remembered."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from hpc_dl.planning.plan import make_plan
from hpc_dl.processes import start_time
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.local import processes
from hpc_dl.schedulers.local.processes import LocalProcess
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.submission.submit import submit_plan
from tests.unit.fakes.processes import names


def test_a_number_that_was_given_out_again_is_not_the_process() -> None:
    mine = LocalProcess(os.getpid(), start_time(os.getpid()))
    assert mine.alive
    assert not msgspec.structs.replace(mine, started="1").alive


def test_a_process_that_ended_before_it_was_looked_at_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not LocalProcess(process.pid, "").alive


def test_cancelling_what_has_ended_signals_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def kill(pid: int, number: int) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(os, "kill", kill)
    run = RunFolder.create(tmp_path / "job-L1")
    processes.cancel(run, LocalProcess(os.getpid(), "1"))
    assert processes.load(run) is None


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "job-L1")
    assert processes.load(run) is None
    processes.save(run, LocalProcess(12, "34"))
    assert processes.load(run) == LocalProcess(12, "34")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The ids of local runs that would start; none does."""
    ids: list[str] = []

    def start(run: RunFolder, job_id: str) -> LocalProcess:
        assert run.job_id == job_id
        ids.append(job_id)
        return LocalProcess(1, "")

    monkeypatch.setattr(processes, "start", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.sh").touch()
    return ids


def submit(name: str) -> None:
    path = site_file("local")
    submit_plan(make_plan(None, load_site(path), path, [Layer({"script": "own.sh", "name": name}, "test")]))


def test_numbers_go_on_whatever_the_jobs_name(started: list[str]) -> None:
    for name in ("a", "b", "a", "x-L9"):
        submit(name)
    assert started == ["L1", "L2", "L3", "L4"]
    assert names(Path("runs")) == ["a-L1", "a-L3", "b-L2", "x-L9-L4"]


def test_a_number_that_another_submission_is_taking_is_not_given_twice(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = RunFolder.rename
    raced: list[str] = []

    def racing(run: RunFolder, name: str) -> None:
        if not raced:  # the other one is faster, between our look at the numbers and our renaming
            raced.append(name)
            submit("other")
        rename(run, name)

    monkeypatch.setattr(RunFolder, "rename", racing)
    submit("mine")
    assert started == ["L1", "L2"]
    assert names(Path("runs")) == ["mine-L2", "other-L1"]


def test_a_number_whose_holder_has_not_finished_is_passed_over(started: list[str]) -> None:
    Path("runs/.L1").mkdir(parents=True)
    Path("runs/.L1/job.toml").touch()
    submit("mine")
    assert started == ["L2"]


def test_a_run_that_does_not_start_leaves_nothing(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_start(run: RunFolder, job_id: str) -> LocalProcess:
        raise FileNotFoundError(2, "No such file or directory", "bash")

    monkeypatch.setattr(processes, "start", no_start)
    with pytest.raises(FileNotFoundError):
        submit("mine")
    assert names(Path("runs")) == []

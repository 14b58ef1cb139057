"""Where jobs are: Slurm's word, then what was written down, then the job's own summary; never an invention."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hpc_dl
from hpc_dl.errors import JobError, UserError
from hpc_dl.runfolder.folder import Failure, RunFolder, Summary, to_toml
from hpc_dl.schedulers.local import processes
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.submission.handle import Job, cancel
from hpc_dl.submission.states import states, status, summary_of
from tests.unit.fakes.slurm import FakeSlurm
from tests.unit.schedulers.slurm.test_states import listed, recorded

_ELSEWHERE = "it was started on login9, and can be seen and ended there alone"
_FAILURE = Failure("worker:1", "nvb1", 23)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm without accounting that knows no job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/dev/null")
    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    forget(fake)
    return fake


def forget(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    slurm.answer("sacct", err="Slurm accounting storage is disabled\n", code=1)


def be_silent(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", err="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder(tmp_path, "7")


def folder(parent: Path, job_id: str, site: str = "minotauro", **settings: Any) -> RunFolder:
    found = RunFolder.create(parent / "runs" / f"train-{job_id}")
    found.job_file.write_text(to_toml(JobSpec(**settings)))
    found.site_file.write_text(to_toml(load_site(site_file(site))))
    return found


def summarise(run: RunFolder, state: str, code: int = 0, failure: Failure | None = None) -> None:
    run.summary.write_bytes(msgspec.json.encode(Summary(state, code, 10.0, 20.0, failure)))


def state_of(run: RunFolder) -> tuple[str, bool]:
    (found,) = states([run])
    return found.state, found.silent


def test_slurm_comes_first(slurm: FakeSlurm, run: RunFolder) -> None:
    summarise(run, "FAILED", 23, _FAILURE)
    slurm.answer("squeue", listed("7", "PENDING", reason="BeginTime"))
    assert state_of(run) == ("PENDING", False)
    # What its first run has said does not count any more.
    found = status(run, states([run])[0])
    assert (found.exit_code, found.failure, found.ended) == (None, None, None)


def test_its_own_summary_tells_what_slurm_has_forgotten(slurm: FakeSlurm, run: RunFolder) -> None:
    assert state_of(run) == ("UNKNOWN", False)
    summarise(run, "FAILED", 23, _FAILURE)
    found = status(run, states([run])[0])
    assert (found.state, found.exit_code, found.failure) == ("FAILED", 23, _FAILURE)
    assert (found.started, found.ended, found.slurm_answers) == (10.0, 20.0, True)


def test_an_end_that_was_seen_is_written_down(slurm: FakeSlurm, run: RunFolder) -> None:
    run.attempt_file.write_text("0")
    slurm.answer("squeue", listed("7", "NODE_FAIL", "nvb1", start="2", end="3"))
    assert state_of(run) == ("NODE_FAIL", False)
    forget(slurm)
    assert state_of(run) == ("NODE_FAIL", False)
    be_silent(slurm)
    assert state_of(run) == ("NODE_FAIL", True)


def test_slurms_word_counts_more_than_the_jobs_own(slurm: FakeSlurm, run: RunFolder) -> None:
    summarise(run, "CANCELLED", 143)
    slurm.answer("squeue", listed("7", "TIMEOUT", "nvb1", start="2", end="3"))
    assert state_of(run) == ("TIMEOUT", False)
    forget(slurm)
    assert state_of(run) == ("TIMEOUT", False)


def test_what_was_written_down_is_void_once_the_job_starts_again(slurm: FakeSlurm, run: RunFolder) -> None:
    run.attempt_file.write_text("0")
    slurm.answer("squeue", listed("7", "FAILED", "nvb1", start="2", end="3"))
    state_of(run)
    run.attempt_file.write_text("1")  # requeued by its owner; then its node fails, and Slurm forgets it
    forget(slurm)
    assert state_of(run) == ("UNKNOWN", False)


def test_a_job_that_goes_on_is_not_written_down(slurm: FakeSlurm, run: RunFolder) -> None:
    slurm.answer("squeue", listed("7", "RUNNING", "nvb1", start="2"))
    state_of(run)
    be_silent(slurm)
    assert state_of(run) == ("UNKNOWN", True)
    assert not run.ended.exists()


def test_a_silent_slurm_takes_nothing_from_what_is_known(slurm: FakeSlurm, run: RunFolder) -> None:
    summarise(run, "COMPLETED")
    be_silent(slurm)
    assert state_of(run) == ("COMPLETED", True)
    # Accounting is the last to know.
    slurm.answer("sacct", recorded("7", "RUNNING", "nvb1"))
    assert state_of(run) == ("COMPLETED", True)
    run.summary.unlink()
    assert state_of(run) == ("RUNNING", True)


def test_what_is_not_whole_is_no_record(slurm: FakeSlurm, run: RunFolder) -> None:
    run.ended.write_text('{"attempt": null, "said": {"sta')
    assert state_of(run) == ("UNKNOWN", False)


def test_a_folder_of_another_user_is_read_only(
    slurm: FakeSlurm, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hpc_dl.submission.states.write_whole", refuse)
    slurm.answer("squeue", listed("7", "COMPLETED", "nvb1", start="2", end="3"))
    assert state_of(run) == ("COMPLETED", False)


def test_a_job_that_is_cancelled_while_it_waits_again_has_no_summary(slurm: FakeSlurm, run: RunFolder) -> None:
    summarise(run, "FAILED", 23, _FAILURE)
    slurm.answer("squeue", listed("7", "CANCELLED", start="3", end="3"))
    (found,) = states([run])
    assert summary_of(run, found) is None
    assert str(Job(run).exception()) == f"job 7 ended CANCELLED: see {run.log}"


def test_many_jobs_take_two_questions(slurm: FakeSlurm, tmp_path: Path) -> None:
    runs = [folder(tmp_path, str(number)) for number in range(100, 140)]
    slurm.answer("squeue", listed("100", "RUNNING", "n1", start="2"))
    slurm.answer("sacct", "".join(recorded(run.job_id, "COMPLETED", "n1") for run in runs[1:]))
    assert [state.state for state in hpc_dl.states(map(Job, runs))] == ["RUNNING"] + 39 * ["COMPLETED"]
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


def test_jobs_of_a_private_cluster_that_is_gone_are_not_asked_of_another(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CONF")
    ours, theirs = folder(tmp_path, "7", "minicluster"), folder(tmp_path, "8")
    slurm.answer("squeue", listed("7", "RUNNING", "n1", start="2") + listed("8", "RUNNING", "n1", start="2"))
    assert [(state.state, state.silent) for state in states([ours, theirs])] == [("UNKNOWN", True), ("RUNNING", False)]
    with pytest.raises(UserError, match="the private cluster does not run here; `make cluster` starts it"):
        cancel([Job(theirs), Job(ours)])
    assert "scancel" not in [call[0] for call in slurm.calls()]
    cancel([Job(theirs)])
    assert slurm.calls()[-1] == ["scancel", "8"]


def test_each_slurm_is_asked_to_end_its_own_jobs(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CONF")
    conf = {**os.environ, "SLURM_CONF": "/private/slurm.conf"}
    monkeypatch.setattr("hpc_dl.schedulers.slurm.which.private_environ", lambda: conf)
    slurm.answer("squeue", "".join(listed(job, "RUNNING", "n1", start="2") for job in "789"))
    cancel([Job(folder(tmp_path, "7", "minicluster")), Job(folder(tmp_path, "8"))])
    assert [call for call in slurm.calls() if call[0] == "scancel"] == [["scancel", "7"], ["scancel", "8"]]
    assert "SLURM_CONF" not in slurm.environment("scancel")  # of the last one
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    cancel([Job(folder(tmp_path, "9", "minicluster"))])
    assert slurm.environment("scancel")["SLURM_CONF"] == "/private/slurm.conf"
    assert "SCANCEL_INTERACTIVE" not in slurm.environment("scancel")


def test_a_job_of_the_same_number_and_another_name_is_not_ours(slurm: FakeSlurm, tmp_path: Path) -> None:
    ours, gone = folder(tmp_path, "7"), folder(tmp_path, "8")
    slurm.answer("squeue", listed("7", "RUNNING", "n1", start="2", name="b") + listed("8", "CANCELLED", name="b"))
    gone.summary.write_bytes(msgspec.json.encode(Summary("COMPLETED", 0, 1.0, 2.0)))
    assert [state.state for state in states([ours, gone])] == ["UNKNOWN", "COMPLETED"]
    assert not gone.ended.exists()
    with pytest.raises(UserError, match="job 7: Slurm knows no such job"):
        cancel([Job(ours)])
    assert cancel([Job(gone)]) == []
    assert "scancel" not in [call[0] for call in slurm.calls()]
    slurm.answer("squeue", listed("7", "RUNNING", "n1", start="2", name=ours.read_job().name))
    assert [state.state for state in states([ours])] == ["RUNNING"]
    renamed = Job(ours.path.rename(tmp_path / "best-7"))
    assert renamed.state == "RUNNING"
    assert cancel([renamed]) == [renamed]


def test_a_job_of_another_machine_is_not_taken_for_dead(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_dl.submission.asking.FORGOTTEN", 0.1)
    slurm.answer("squeue", listed("7", "RUNNING", "n1", start="2"))
    there = folder(tmp_path, "L1", "local")
    processes.save(there, processes.LocalProcess(2**22, "1", "login9"))
    (state,) = states([there])
    assert (state.state, state.reason, state.silent) == ("UNKNOWN", _ELSEWHERE, True)
    with pytest.raises(UserError, match=f"job L1: {_ELSEWHERE}"):
        cancel([Job(folder(tmp_path, "7")), Job(there)])
    assert "scancel" not in [call[0] for call in slurm.calls()]
    with pytest.raises(JobError, match=f"job L1: {_ELSEWHERE}, and it left no summary"):
        Job(there).wait(timeout=60)
    there.local.write_text("")
    assert states([there])[0].state == "UNKNOWN"


def test_waiting_goes_on_while_slurm_is_silent(
    slurm: FakeSlurm, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_dl.submission.asking.FORGOTTEN", 0.1)
    be_silent(slurm)
    with pytest.raises(TimeoutError):
        Job(run).wait(timeout=1)
    forget(slurm)
    with pytest.raises(JobError, match="Slurm no longer knows it, and it left no summary"):
        Job(run).wait(timeout=60)


def test_the_status_has_what_a_program_needs(slurm: FakeSlurm, run: RunFolder) -> None:
    run.attempt_file.write_text("2")
    run.metrics.mkdir()
    (run.metrics / "worker-0.jsonl").write_text('{"time": 9e9, "step": 40}\n')
    slurm.answer("squeue", listed("7", "RUNNING", "nvb[1-2]", start="2000"))
    found = msgspec.to_builtins(status(run, states([run])[0]))
    assert found == {
        "job_id": "7", "name": JobSpec().name, "mode": "async", "nodes": 1, "state": "RUNNING", "reason": "",
        "nodelist": "nvb[1-2]", "exit_code": None, "submitted": 1000.0, "started": 2000.0, "ended": None,
        "estimated_start": None, "attempt": 2, "step": 40, "steps": JobSpec().steps, "last_step": 9e9,
        "failure": None,
        "slurm_answers": True, "run_folder": str(run.path),
    }  # fmt: skip

"""Attempts: their numbers, what is remembered of them, how a job goes on after one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpc_dl.cli.main import main
from hpc_dl.errors import JobError
from hpc_dl.node.attempts import PREEMPTED, REQUEUE, RESTART, Event, begin, events, may_restart, record, requeue
from hpc_dl.node.outcome import finish
from hpc_dl.node.restart_policy import Policy
from hpc_dl.runfolder.folder import Failure, RunFolder, Summary
from hpc_dl.schedulers.slurm.requeue import parse_told_by
from hpc_dl.schedulers.slurm.requeue import requeue as ask_for_requeue
from hpc_dl.spec.job import JobSpec
from tests.unit.fakes.slurm import FakeSlurm

_POLICY = Policy("horovod", 2)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "job-7")


def test_attempts_are_counted_from_0_and_forget_what_was_said_before(run: RunFolder) -> None:
    assert begin(run) == 0
    assert run.state.is_dir()
    run.summary.write_text("{}")
    run.result.write_text("{}")
    run.stop.write_bytes(b"")
    assert begin(run, slurm_restarts=1) == 1
    assert not run.summary.exists()
    assert not run.result.exists()
    assert not run.told_to_end()
    assert [(e.attempt, e.event, e.slurm_restarts) for e in events(run)] == [(0, "started", 0), (1, "started", 1)]


def test_a_job_that_has_completed_is_not_begun_again(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["begin", str(run.path)])
    assert (ended.value.code, capsys.readouterr().out) == (0, "0\n")
    finish(run, Summary("FAILED", 1, 0, 0, None, None, 1))
    with pytest.raises(SystemExit):
        main(["begin", str(run.path)])
    assert capsys.readouterr().out == "1\n"
    finish(run, Summary("COMPLETED", 0, 0, 0, None, {"test_accuracy": 0.5}, 2))
    with pytest.raises(SystemExit) as ended:
        main(["begin", str(run.path)])
    assert (ended.value.code, capsys.readouterr().out) == (0, "")
    # What it had is still there.
    summary = run.read_summary()
    assert summary is not None
    assert summary.state == "COMPLETED"
    assert run.latest_attempt() == 1


def test_one_script_alone_begins_an_attempt(run: RunFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: begin(run), range(8))) == list(range(8))
    assert run.latest_attempt() in range(8)


def test_a_script_that_was_replaced_begins_none(run: RunFolder) -> None:
    begin(run)
    begin(run)  # of the requeued job, while the first one's node can't be reached
    with pytest.raises(JobError, match="attempt 0 of this job is over: a later one has begun"):
        begin(run, after=0)
    assert run.latest_attempt() == 1
    assert begin(run, after=1) == 2


def test_a_line_that_was_cut_off_is_left_out(run: RunFolder) -> None:
    record(run, Event(0, 1.0, "started"))
    with run.attempts.open("ab") as file:
        file.write(b'{"attempt": 1, "ti\n')
    record(run, Event(1, 2.0, "started"))
    with run.attempts.open("ab") as file:
        file.write(b'{"attempt": 1, "ti')
    record(run, Event(2, 3.0, "started"))
    assert [event.attempt for event in events(run)] == [0, 1, 2]


def history(*lines: tuple[str, int]) -> list[Event]:
    """Return started and ended lines: what followed each attempt, in which run of Slurm."""
    found = []
    for number, (then, slurm_restarts) in enumerate(lines):
        found.append(Event(number, 0.0, "started", slurm_restarts))
        if then:
            found.append(Event(number, 1.0, "ended", then=then))
    return found


def ended(code: int, failed: bool = True) -> Summary:
    state = "FAILED" if failed else "CANCELLED" if code == 143 else "COMPLETED" if code == 0 else "FAILED"
    return Summary(state, code, 0.0, 0.0, Failure("worker:1", "n1", code) if failed else None)


def test_all_start_again_up_to_the_limit_in_each_run_of_slurms() -> None:
    assert may_restart(_POLICY, history(("", 0)), ended(137))
    assert may_restart(_POLICY, history((RESTART, 0), ("", 0)), ended(137))
    assert not may_restart(_POLICY, history((RESTART, 0), (RESTART, 0), ("", 0)), ended(137))
    assert may_restart(_POLICY, history((RESTART, 0), (RESTART, 0), (REQUEUE, 0), ("", 1)), ended(137))


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_a_new_start_would_not_cure_ends_the_job(code: int) -> None:
    assert not may_restart(_POLICY, history(("", 0)), ended(code))


def test_processes_that_slurm_or_mpi_could_not_start_are_started_again() -> None:
    assert may_restart(_POLICY, history(("", 0)), ended(1, failed=False))
    assert not may_restart(_POLICY, history(("", 0)), ended(2, failed=False))


def test_who_was_told_to_end_does_not_start_again_but_who_was_killed_by_sigterm_alone_does() -> None:
    assert not may_restart(_POLICY, history(("", 0)), ended(143, failed=False))
    assert may_restart(_POLICY, history(("", 0)), ended(143))


def test_a_job_is_requeued_at_its_time_limit_as_often_as_it_may() -> None:
    job = JobSpec(requeues=2)
    assert requeue(job, history(("", 0)), "time limit") == REQUEUE
    assert requeue(job, history((REQUEUE, 0), (REQUEUE, 1), ("", 2)), "time limit") == ""
    assert requeue(job, history((REQUEUE, 0), (PREEMPTED, 1), ("", 2)), "time limit") == REQUEUE
    assert requeue(job, history((REQUEUE, 0), (REQUEUE, 1), ("", 2)), "preemption") == PREEMPTED
    assert requeue(job, history(("", 0)), "") == ""
    assert requeue(JobSpec(), history(("", 0)), "preemption") == ""


def test_a_controller_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = FakeSlurm(tmp_path / "fake", monkeypatch)
    slurm.answer("scontrol", err="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    monkeypatch.setattr("hpc_dl.schedulers.slurm.requeue.time.sleep", lambda _: slurm.answer("scontrol"))
    ask_for_requeue("7")
    assert slurm.calls() == 2 * [["scontrol", "requeue", "7"]]
    slurm.answer("scontrol", err="Requested operation is presently disabled for job 7\n", code=1)
    with pytest.raises(JobError, match="scontrol requeue 7: Requested operation is presently disabled"):
        ask_for_requeue("7")


# What Slurm 22.05 says of a job in its GraceTime, of one at its limit, of one that scancel ends, of one that runs.
@pytest.mark.parametrize(
    ("text", "why", "state"),
    [
        (
            "JobId=1 JobState=RUNNING Reason=None Restarts=0 PreemptTime=2026-11-21T14:14:13 TimeMin=N/A",
            "preemption",
            "FAILED",
        ),
        ("JobId=1 JobState=COMPLETING Reason=TimeLimit Restarts=0 PreemptTime=None", "time limit", "TIMEOUT"),
        ("JobId=1 JobState=COMPLETING Reason=None Restarts=0 PreemptTime=None", "", ""),
        ("JobId=1 JobState=COMPLETING Reason=None Restarts=0 PreemptTime=2026-11-21T14:14:13", "", ""),
        ("JobId=1 JobState=RUNNING Reason=None Restarts=1", "", "FAILED"),
        ("slurm_load_jobs error: Unable to contact slurm controller", "", ""),
        ("", "", ""),
    ],
)
def test_why_slurm_has_told_a_job_to_end_and_how_it_will_have_ended(text: str, why: str, state: str) -> None:
    assert parse_told_by(text) == (why, state)

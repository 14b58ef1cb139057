"""The state of Slurm jobs: squeue, then scontrol, then sacct, then UNKNOWN."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_dl.slurm import state
from hpc_dl.slurm.state import SlurmState, query
from tests.unit.fakes.slurm import FakeSlurm

_NO_ACCOUNTING = "Slurm accounting storage is disabled\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm without accounting that knows no job."""
    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    fake.answer("squeue", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    fake.answer("scontrol", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    fake.answer("sacct", err=_NO_ACCOUNTING, code=1)
    return fake


def test_squeue_knows_it(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "7|RUNNING|None|nvb[1-2]\n")
    assert query(["7"]) == {"7": SlurmState("RUNNING", "", "nvb[1-2]")}
    assert len(slurm.calls()) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7|PENDING|Resources|", SlurmState("PENDING", "Resources")),
        ("7|PENDING|None|", SlurmState("PENDING")),
        ("7|PENDING|Nodes required are DOWN, nvb[1-3]|", SlurmState("PENDING", "Nodes required are DOWN, nvb[1-3]")),
        ("7|PENDING|BeginTime|", SlurmState("PENDING", "BeginTime")),
        ("7|REQUEUE_HOLD|job_requeued_in_held_state|", SlurmState("REQUEUE_HOLD", "job_requeued_in_held_state")),
        ("7|CONFIGURING|None|nvb1", SlurmState("CONFIGURING", "", "nvb1")),
        ("7|COMPLETING|NonZeroExitCode|nvb1", SlurmState("COMPLETING", "", "nvb1")),
        ("7|FAILED|NonZeroExitCode|nvb1", SlurmState("FAILED", "", "nvb1")),
    ],
)  # fmt: skip
def test_the_reason_is_why_it_waits(slurm: FakeSlurm, line: str, expected: SlurmState) -> None:
    slurm.answer("squeue", f"{line}\n")
    assert query(["7"])["7"] == expected
    assert (expected.state in state.ENDED) == (expected.state == "FAILED")


def test_scontrol_knows_what_squeue_does_not_tell(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", "JobId=7 JobName=a JobState=COMPLETED Reason=None NodeList=nvb1 BatchHost=nvb1\n")
    assert query(["7"]) == {"7": SlurmState("COMPLETED", "", "nvb1")}
    assert ["scontrol", "--oneliner", "show", "job", "7"] in slurm.calls()
    assert slurm.calls("sacct") == []


def test_scontrol_of_a_job_that_waits_again_has_no_nodes(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", "JobId=7 JobState=PENDING Restarts=1 ReqNodeList=nvb9 NodeList=(null)\n")
    assert query(["7"])["7"] == SlurmState("PENDING")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7|COMPLETED|nvb1\n", SlurmState("COMPLETED", "", "nvb1")),
        ("7|CANCELLED by 1000|nvb[1-2]\n", SlurmState("CANCELLED", "", "nvb[1-2]")),
        ("7|CANCELLED by 1000|None assigned\n", SlurmState("CANCELLED", "", "")),
        ("7|NODE_FAIL|nvb1\n7|COMPLETED|nvb2\n", SlurmState("COMPLETED", "", "nvb2")),
        ("7|REQUEUED|nvb1\n7|PENDING|None assigned\n", SlurmState("PENDING", "", "")),
        ("", SlurmState("UNKNOWN")),
        ("some warning\n", SlurmState("UNKNOWN")),
        ("77|COMPLETED|nvb1\n", SlurmState("UNKNOWN")),
    ],
)
def test_sacct_knows_what_slurm_has_forgotten(slurm: FakeSlurm, text: str, expected: SlurmState) -> None:
    slurm.answer("sacct", text)
    assert query(["7"]) == {"7": expected}


def test_what_nobody_knows_is_unknown_and_has_not_ended(slurm: FakeSlurm) -> None:
    assert query(["7"]) == {"7": SlurmState("UNKNOWN")}
    assert "UNKNOWN" not in state.ENDED


@pytest.mark.parametrize("gone", [("squeue",), ("squeue", "scontrol"), ("squeue", "scontrol", "sacct"), ("sacct",)])
def test_a_command_that_is_missing_is_passed_over(slurm: FakeSlurm, gone: tuple[str, ...]) -> None:
    slurm.answer("scontrol", "JobId=7 JobState=FAILED NodeList=nvb1\n")
    slurm.answer("sacct", "7|FAILED|nvb1\n")
    for name in gone:
        slurm.remove(name)
    assert query(["7"])["7"].state == ("UNKNOWN" if len(gone) == 3 else "FAILED")


@pytest.mark.parametrize("hanging", [("squeue",), ("squeue", "scontrol"), ("squeue", "scontrol", "sacct")])
def test_a_controller_that_hangs_is_asked_once(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, hanging: tuple[str, ...]
) -> None:
    monkeypatch.setattr(state, "_PATIENCE", 0.3)
    slurm.answer("sacct", "7|RUNNING|nvb1\n")
    for name in hanging:
        slurm.hang(name)
    assert query(["7"])["7"].state == ("UNKNOWN" if "sacct" in hanging else "RUNNING")
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


def test_many_jobs_take_one_question(slurm: FakeSlurm) -> None:
    ids = [str(number) for number in range(1000)]
    slurm.answer("squeue", "".join(f"{job}|{'FAILED' if job == '0' else 'RUNNING'}|None|n\n" for job in ids))
    found = query(ids)
    assert list(found) == ids
    assert [found["0"].state, found["999"].state] == ["FAILED", "RUNNING"]
    assert len(slurm.calls()) == 1


def test_many_forgotten_jobs_take_one_question_more(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "3|RUNNING|None|n\n")
    slurm.answer("sacct", "".join(f"{number}|COMPLETED|n\n" for number in range(4, 500)))
    found = query([str(number) for number in range(3, 600)])
    assert (found["3"].state, found["499"].state, found["500"].state) == ("RUNNING", "COMPLETED", "UNKNOWN")
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


def test_elements_of_an_array_are_told_apart(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "7_1|RUNNING|None|n1\n7_2|PENDING|Resources|\n7_3|COMPLETED|None|n1\n")
    found = query(["7_1", "7_2", "7_3"])
    assert [found[job].state for job in found] == ["RUNNING", "PENDING", "COMPLETED"]
    assert "--array" in slurm.calls()[0]  # else those that wait share one line


def test_no_job_takes_no_question(slurm: FakeSlurm) -> None:
    assert query([]) == {}
    assert slurm.calls() == []

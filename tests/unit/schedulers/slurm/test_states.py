"""The state of Slurm jobs: one question to squeue, one to sacct for the rest, else UNKNOWN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc_dl.schedulers.protocol import ACTIVE, ENDED, PATIENCE, WAITING, JobState
from hpc_dl.schedulers.slurm import states
from tests.unit.fakes.slurm import FakeSlurm

_NO_ACCOUNTING = "Slurm accounting storage is disabled\n"
_INVALID = "slurm_load_jobs error: Invalid job id specified\n"
_AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm without accounting that knows no job."""
    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    fake.answer("squeue", err=_INVALID, code=1)
    fake.answer("scontrol", err=_INVALID, code=1)
    fake.answer("sacct", err=_NO_ACCOUNTING, code=1)
    return fake


def query(job_ids: list[str], patience: float = PATIENCE) -> dict[str, JobState]:
    return states.query(os.environ, job_ids, patience)


def listed(
    job: str,
    state: str,
    nodes: str = "",
    reason: str = "None",
    start: str = "N/A",
    end: str = "NONE",
    name: str = "",
) -> str:
    """Return a line of squeue."""
    return f"{job}|{state}|{nodes}|1000|{start}|{end}|{name}|{reason}\n"


def recorded(
    job: str, state: str, nodes: str = "None assigned", code: str = "0:0", times: str = "1|2|3", name: str = ""
) -> str:
    """Return a line of sacct."""
    return f"{job}|{state}|{code}|{times}|{nodes}|{name}\n"


def test_a_heterogeneous_job_is_known_by_its_first_component(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", listed("7+1", "RUNNING", "cpu1") + listed("7+0", "RUNNING", "gpu[1-2]"))
    found = query(["7"])["7"]
    assert (found.state, found.nodelist) == ("RUNNING", "gpu[1-2]")


def test_squeue_knows_it(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", listed("7", "RUNNING", "nvb[1-2]", start="2000", end="9000"))
    assert query(["7"]) == {"7": JobState("RUNNING", nodelist="nvb[1-2]", submitted=1000.0, started=2000.0)}
    assert len(slurm.calls()) == 1
    assert slurm.environment("squeue")["SLURM_TIME_FORMAT"] == "%s"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (listed("7", "PENDING", reason="Resources"), JobState("PENDING", "Resources", submitted=1000)),
        (
            listed("7", "PENDING", reason="BeginTime", start="5000"),
            JobState("PENDING", "BeginTime", submitted=1000, estimated_start=5000),
        ),
        (listed("7", "PENDING"), JobState("PENDING", submitted=1000)),
        (listed("7", "PENDING", reason="DOWN, a|b[1-3]"), JobState("PENDING", "DOWN, a|b[1-3]", submitted=1000)),
        (listed("7", "REQUEUE_HOLD", reason="held"), JobState("REQUEUE_HOLD", "held", submitted=1000)),
        (listed("7", "SPECIAL_EXIT", reason="held"), JobState("SPECIAL_EXIT", "held", submitted=1000)),
        (
            listed("7", "CONFIGURING", "nvb1", start="2"),
            JobState("CONFIGURING", nodelist="nvb1", submitted=1000),
        ),
        (
            listed("7", "COMPLETING", "nvb1", "NonZeroExitCode", "2", "3"),
            JobState("COMPLETING", nodelist="nvb1", submitted=1000, started=2),
        ),
        (
            listed("7", "FAILED", "nvb1", "NonZeroExitCode", "2", "3"),
            JobState("FAILED", nodelist="nvb1", submitted=1000, started=2, ended=3),
        ),
        (listed("7", "CANCELLED", start="3", end="3"), JobState("CANCELLED", submitted=1000, ended=3)),
    ],
)
def test_what_squeue_says_of_a_job(slurm: FakeSlurm, line: str, expected: JobState) -> None:
    slurm.answer("squeue", line)
    assert query(["7"])["7"] == expected
    assert (expected.state in ENDED) == (expected.ended is not None)


def test_every_state_is_of_one_kind() -> None:
    assert not ENDED & WAITING
    assert not ENDED & ACTIVE
    assert not WAITING & ACTIVE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (recorded("7", "COMPLETED", "nvb1"), JobState("COMPLETED", "", "nvb1", 0, 1, 2, 3)),
        (recorded("7", "FAILED", "nvb1", "3:0"), JobState("FAILED", "", "nvb1", 3, 1, 2, 3)),
        (recorded("7", "FAILED", "nvb1", "0:9"), JobState("FAILED", "", "nvb1", 137, 1, 2, 3)),
        (recorded("7", "CANCELLED by 1000", "nvb[1-2]", "0:15"), JobState("CANCELLED", "", "nvb[1-2]", 143, 1, 2, 3)),
        (recorded("7", "CANCELLED by 0", times="1|None|3"), JobState("CANCELLED", submitted=1, ended=3)),
        (recorded("7", "NODE_FAIL") + recorded("7", "TIMEOUT", "n2"), JobState("TIMEOUT", "", "n2", None, 1, 2, 3)),
        # slurmctld answers that it does not know it: it has ended, and accounting was away at that time.
        (recorded("7", "RUNNING", "nvb1"), JobState("UNKNOWN")),
        (recorded("7", "PENDING"), JobState("UNKNOWN")),
        ("", JobState("UNKNOWN")),
        ("some warning\n", JobState("UNKNOWN")),
        (recorded("77", "COMPLETED", "nvb1"), JobState("UNKNOWN")),
    ],
)  # fmt: skip
def test_sacct_knows_what_slurmctld_has_forgotten(slurm: FakeSlurm, text: str, expected: JobState) -> None:
    slurm.answer("sacct", text)
    assert query(["7"]) == {"7": expected}
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


@pytest.mark.parametrize(
    ("state", "ours"),
    [("COMPLETED", "COMPLETED"), ("FAILED", "FAILED"), ("RUNNING", "RUNNING"), ("PENDING", "PENDING"),
     ("NODE_FAIL", "UNKNOWN"), ("PREEMPTED", "UNKNOWN"), ("REQUEUED", "UNKNOWN"), ("BOOT_FAIL", "UNKNOWN")],
)  # fmt: skip
def test_while_slurmctld_is_away_accounting_may_be_behind(slurm: FakeSlurm, state: str, ours: str) -> None:
    slurm.answer("squeue", err=_AWAY, code=1)
    slurm.answer("sacct", recorded("7", state, "nvb1"))
    found = query(["7"])["7"]
    # A job whose node failed waits again, most often; accounting learns of it later.
    assert (found.state, found.silent) == (ours, True)


def test_what_nobody_knows_is_unknown_and_has_not_ended(slurm: FakeSlurm) -> None:
    assert query(["7"]) == {"7": JobState("UNKNOWN")}
    assert "UNKNOWN" not in ENDED


def test_a_sacct_that_fails_now_may_know_it_later(slurm: FakeSlurm) -> None:
    slurm.answer("sacct", err="sacct: error: Problem talking to the database: Connection refused\n", code=1)
    assert query(["7"])["7"] == JobState("UNKNOWN", silent=True)
    slurm.answer("sacct", recorded("7", "FAILED", "nvb1", "1:0"))
    assert query(["7"])["7"].state == "FAILED"


def test_a_sacct_that_fails_does_not_touch_what_squeue_knows(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", listed("3", "RUNNING", "n1"))
    slurm.answer("sacct", err="sacct: error: Problem talking to the database\n", code=1)
    found = query(["3", "4"])
    assert [(found[job].state, found[job].silent) for job in found] == [("RUNNING", False), ("UNKNOWN", True)]


@pytest.mark.parametrize("gone", [("squeue",), ("squeue", "sacct"), ("sacct",)])
def test_a_command_that_is_missing_is_passed_over(slurm: FakeSlurm, gone: tuple[str, ...]) -> None:
    slurm.answer("squeue", listed("7", "FAILED", "nvb1", "None", "2", "3"))
    slurm.answer("sacct", recorded("7", "FAILED", "nvb1"))
    for name in gone:
        slurm.remove(name)
    assert query(["7"])["7"].state == ("UNKNOWN" if len(gone) == 2 else "FAILED")


@pytest.mark.parametrize("hanging", [("squeue",), ("squeue", "sacct")])
def test_a_command_that_hangs_has_its_time(slurm: FakeSlurm, hanging: tuple[str, ...]) -> None:
    slurm.answer("sacct", recorded("7", "COMPLETED", "nvb1"))
    for name in hanging:
        slurm.hang(name)
    found = query(["7"], patience=0.3)["7"]
    assert (found.state, found.silent) == ("UNKNOWN" if "sacct" in hanging else "COMPLETED", True)
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


def test_many_jobs_take_one_question(slurm: FakeSlurm) -> None:
    ids = [str(number) for number in range(1000)]
    slurm.answer("squeue", "".join(listed(job, "FAILED" if job == "0" else "RUNNING", "n") for job in ids))
    found = query(ids)
    assert list(found) == ids
    assert [found["0"].state, found["999"].state] == ["FAILED", "RUNNING"]
    assert len(slurm.calls()) == 1


def test_many_forgotten_jobs_take_one_question_more(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", listed("3", "RUNNING", "n"))
    slurm.answer("sacct", "".join(recorded(str(number), "COMPLETED", "n") for number in range(4, 500)))
    found = query([str(number) for number in range(3, 600)])
    assert (found["3"].state, found["499"].state, found["500"].state) == ("RUNNING", "COMPLETED", "UNKNOWN")
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]


def test_more_jobs_than_an_argument_holds_take_two_questions_too(slurm: FakeSlurm) -> None:
    ids = [str(number) for number in range(10_000_000, 10_030_000)]
    slurm.answer("squeue", listed(ids[0], "RUNNING", "n") + listed("5", "RUNNING", "n"))
    slurm.answer("sacct", recorded(ids[-1], "COMPLETED", "n"))
    found = query(ids)
    assert list(found) == ids
    assert (found[ids[0]].state, found[ids[-1]].state) == ("RUNNING", "COMPLETED")
    (squeue,), (sacct,) = slurm.calls("squeue"), slurm.calls("sacct")
    assert not [word for word in squeue if word.startswith("--jobs")]
    jobs = [word.partition("=")[2] for word in sacct if word.startswith("--jobs=")]
    assert ",".join(jobs).split(",") == ids[1:]
    assert max(map(len, sacct)) < 128 * 1024


def test_elements_of_an_array_are_told_apart(slurm: FakeSlurm) -> None:
    lines = listed("7_1", "RUNNING", "n1") + listed("7_2", "PENDING", "", "Resources") + listed("7_3", "FAILED", "n1")
    slurm.answer("squeue", lines)
    found = query(["7_1", "7_2", "7_3"])
    assert [found[job].state for job in found] == ["RUNNING", "PENDING", "FAILED"]
    assert "--array" in slurm.calls()[0]  # else those that wait share one line


def test_what_is_no_job_id_does_not_spoil_the_question(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", listed("7", "RUNNING", "n1"))
    found = query(["notes", "7", ""])
    assert [found[job].state for job in found] == ["UNKNOWN", "RUNNING", "UNKNOWN"]
    assert "--jobs=7" in slurm.calls()[0]


def test_no_job_takes_no_question(slurm: FakeSlurm) -> None:
    assert query([]) == {}
    assert slurm.calls() == []

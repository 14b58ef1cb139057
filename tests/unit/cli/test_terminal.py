"""What people see: lines, durations, the table, the summary."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from hpc_dl.cli.terminal import describe, placement_table, summary_lines, watch
from hpc_dl.report.live import LiveLimit
from hpc_dl.report.model import Finding
from hpc_dl.runfolder.folder import Failure, RunFolder, Summary, to_toml
from hpc_dl.runfolder.progress import Totals
from hpc_dl.runfolder.report import duration
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.submission.handle import Job


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (185, "3:05 min"),
        (3599.4, "59:59 min"),
        (3599.9, "1:00:00 h"),
        (7384, "2:03:04 h"),
        (360_000, "100:00:00 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


TRAINING = Totals(step=40, steps_per_s=2.0, images_per_s=64.4, loss=0.5, accuracy=0.25, workers=2)


@pytest.mark.parametrize(
    ("state", "now", "text"),
    [
        (JobState("PENDING", "Resources"), Totals(), "PENDING (Resources)"),
        (JobState("PENDING"), Totals(), "PENDING"),
        (
            JobState("PENDING", "launch_failed_requeued_held"),
            Totals(),
            "PENDING (launch_failed_requeued_held)  `scontrol release` lets it go on",
        ),
        (JobState("SPECIAL_EXIT", "held"), Totals(), "SPECIAL_EXIT (held)  `scontrol release` lets it go on"),
        (JobState("PENDING", "Priority", estimated_start=1.0), Totals(), "PENDING (Priority)"),
        (JobState("UNKNOWN", silent=True), Totals(), "UNKNOWN  Slurm does not answer"),
        (JobState("RUNNING"), Totals(), "RUNNING  starting"),
        (
            JobState("RUNNING"),
            msgspec.structs.replace(TRAINING, quiet=125.0),
            "RUNNING  step 40/100  no step for 2:05 min  loss 0.500  accuracy 0.250",
        ),
        (
            JobState("SUSPENDED"),
            msgspec.structs.replace(TRAINING, quiet=61.0),
            "SUSPENDED  step 40/100  no step for 1:01 min  loss 0.500  accuracy 0.250",
        ),
        (
            JobState("RUNNING"),
            msgspec.structs.replace(TRAINING, quiet=61.0, evaluating=True),
            "RUNNING  evaluating  step 40/100  loss 0.500  accuracy 0.250",
        ),
        (
            JobState("RUNNING"),
            TRAINING,
            "RUNNING  step 40/100  2.0 steps/s  64 images/s  loss 0.500  accuracy 0.250  30 s left",
        ),
        (
            JobState("RUNNING"),
            Totals(step=1, workers=1, loss=float("nan")),
            "RUNNING  step 1/100  0.0 steps/s  0 images/s  loss nan",
        ),
        (JobState("RUNNING"), Totals(evaluating=True), "RUNNING  evaluating"),
        (JobState("COMPLETED"), Totals(), "COMPLETED"),
        (JobState("UNKNOWN"), Totals(), "UNKNOWN"),
    ],
)
def test_one_line_says_where_a_job_is(state: JobState, now: Totals, text: str) -> None:
    assert describe(state, now, 100) == text


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time, which stands still."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    return now


def test_a_start_that_takes_long_says_how_long(now: float) -> None:
    begun = Totals(begun=now - 7)
    assert describe(JobState("RUNNING"), begun, 100) == "RUNNING  starting for 7 s"
    assert describe(JobState("RUNNING"), Totals(begun=now + 60), 100) == "RUNNING  starting for 0 s"


def test_a_script_says_how_long_it_runs(now: float) -> None:
    assert describe(JobState("RUNNING"), Totals(), None) == "RUNNING  starting"
    assert describe(JobState("RUNNING"), Totals(begun=now - 65), None) == "RUNNING  1:05 min"
    assert describe(JobState("COMPLETED"), Totals(begun=now - 65), None) == "COMPLETED"


class Script:
    """A running script of the user's own, whose time goes by while `watch` sleeps: each second it writes a line."""

    def __init__(self, run: RunFolder, seconds: int) -> None:
        self.run, self.seconds, self.now = run, seconds, 0.0
        run.job_file.write_text(to_toml(JobSpec(script="/w/own.py")))
        run.attempt_file.write_text("0")
        run.logs.mkdir()

    def asking(self, _: RunFolder) -> Script:
        return self

    @property
    def over(self) -> bool:
        return self.now >= self.seconds

    def look(self) -> SimpleNamespace:
        return SimpleNamespace(state=JobState("COMPLETED" if self.over else "RUNNING"))

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        with self.run.log_of("worker:0").open("a") as log:
            log.writelines(f"step {second}\n" for second in range(int(before) + 1, int(self.now) + 1))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    one = Script(RunFolder.create(tmp_path / "own-7"), 13)
    begun = one.run.attempt_file.stat().st_mtime
    clock = SimpleNamespace(monotonic=lambda: one.now + 100, sleep=one.sleep, time=lambda: begun + one.now)
    monkeypatch.setattr("hpc_dl.cli.terminal.Asking", one.asking)
    monkeypatch.setattr("hpc_dl.cli.terminal.time", clock)
    return one


def test_a_scripts_output_is_followed_without_a_flood_where_there_is_no_terminal(script: Script) -> None:
    console = Console(file=(file := io.StringIO()), width=40)
    assert watch(Job(script.run), console).state == "COMPLETED"
    assert file.getvalue().splitlines() == [
        "RUNNING  0 s",
        "RUNNING  5 s  worker:0  step 5",
        "RUNNING  10 s  worker:0  step 10",
        "COMPLETED",
    ]


def test_a_terminal_shows_the_last_lines_of_a_scripts_output(script: Script) -> None:
    console = Console(file=(file := io.StringIO()), width=40, height=20, force_terminal=True)
    watch(Job(script.run), console)
    assert all(f"worker:0  step {number}" in file.getvalue() for number in range(1, 13))
    assert "RUNNING  12 s" in file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_limits_a_job_is_said_once_and_shown_in_a_terminal(
    script: Script, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    def look(_: LiveLimit, trains: bool) -> Finding | None:
        return Finding("ps 0's network", "It is [full].", "") if trains and script.now > 4 else None

    monkeypatch.setattr(LiveLimit, "look", look)
    console = Console(file=(file := io.StringIO()), width=80, height=20, force_terminal=terminal)
    watch(Job(script.run), console)
    said = file.getvalue().count("Limited by ps 0's network: It is [full].")
    assert said > 1 if terminal else said == 1


def test_a_job_that_waits_has_an_estimated_start() -> None:
    at = time.mktime((2100, 1, 2, 15, 4, 30, 0, 0, -1))
    line = describe(JobState("PENDING", "Resources", estimated_start=at), Totals(), 100)
    assert line == "PENDING (Resources)  estimated start 2100-01-02 15:04"


def test_no_time_is_left_while_it_evaluates() -> None:
    assert " left" not in describe(
        JobState("RUNNING"), Totals(step=40, steps_per_s=2.0, workers=1, evaluating=True), 100
    )


def printed(placement: Placement) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(placement_table(placement))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_has_a_line_for_each_process() -> None:
    processes = (
        Process("ps", 0, "nvb19", "nvb19-ib0", 2220),
        Process("worker", 0, "nvb19", "nvb19-ib0", 2221, ("0", "1"), (0, 1, 4)),
        Process("worker", 1, "nvb20", "nvb20-ib0", 2222, ("[red]",)),
    )
    heading, *lines = printed(Placement(("nvb19", "nvb20"), processes))
    assert heading.split() == ["node", "process", "GPUs", "cores", "address"]
    assert [line.split() for line in lines] == [
        ["nvb19", "ps", "0", "none", "not", "bound", "nvb19-ib0:2220"],
        ["worker", "0", "0,1", "0-1,4", "nvb19-ib0:2221"],
        ["nvb20", "worker", "1", "[red]", "not", "bound", "nvb20-ib0:2222"],
    ]


def test_a_long_table_says_how_much_more_there_is() -> None:
    nodes = tuple(f"n{number}" for number in range(100))
    lines = printed(Placement(nodes, tuple(Process("worker", i, node, node, 1) for i, node in enumerate(nodes))))
    assert len(lines) == 26
    assert lines[-2].startswith("n23 ")
    assert lines[-1].startswith("… 76 nodes more")


def summary(tmp_path: Path, state: str, **values: Any) -> list[str]:
    (tmp_path / "job.log").write_text("first\nlast\n")
    ended = Summary(state, 0, 100.0, 165.0, **values)
    return summary_lines(Job(tmp_path), JobState(state), ended)


RESULT = {"test_accuracy": 0.951, "test_loss": 0.25, "steps": 600, "steps_per_s": 12.34, "images_per_s": 395.0}


def test_the_end_of_a_job_has_its_result_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "train-7"
    path.mkdir()
    assert summary(path, "COMPLETED", result=RESULT) == [
        "Job 7 COMPLETED after 1:05 min",
        "test accuracy 95.10%, test loss 0.250; 600 steps, 12.3 steps/s, 395 images/s",
        f"Run folder: {path}",
    ]
    assert "test loss nan" in summary(path, "COMPLETED", result={**RESULT, "test_loss": None})[1]


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"accuracy": 0.5, "name": "a b"}, "Result: accuracy = 0.5, name = a b"),
        ({**RESULT, "test_accuracy": "high"}, "Result: test_accuracy = high, test_loss = 0.25, steps = 600, "),
        ({**RESULT, "steps_per_s": None}, "Result: test_accuracy = 0.951, "),
        ({**RESULT, "images_per_s": [1]}, "Result: test_accuracy = 0.951, "),
        ({**RESULT, "test_loss": "low"}, "Result: test_accuracy = 0.951, test_loss = low, "),
        ({**RESULT, "test_accuracy": 10**400}, f"Result: test_accuracy = {'1' + 199 * '0'}…, "),
        ({"text": "a\n\n b" * 1000}, f"Result: text = {('a b' * 1000)[:200]}…"),
        ({}, "Run folder: "),
    ],
)
def test_a_scripts_result_is_shown_whatever_it_is(tmp_path: Path, result: dict[str, Any], line: str) -> None:
    assert summary(tmp_path, "COMPLETED", result=result)[1].startswith(line)


def test_the_end_of_a_job_says_that_it_was_started_more_than_once(tmp_path: Path) -> None:
    _, again, *_ = summary(tmp_path, "COMPLETED", result=RESULT, attempts=3)
    assert again == f"Its processes were started 3 times; {tmp_path / 'attempts.jsonl'} says why"


def test_the_end_of_a_failed_job_has_its_cause(tmp_path: Path) -> None:
    failure = Failure("worker:1", "nvb20", 137, 9, last_lines=("a", "b"))
    _, cause, _ = summary(tmp_path, "FAILED", failure=failure)
    assert cause == "worker:1 on node nvb20 was killed by signal 9; its last lines:\n    a\n    b"


def test_without_a_cause_the_end_of_the_log_is_shown(tmp_path: Path) -> None:
    assert summary(tmp_path, "TIMEOUT")[1:4] == [f"The end of {tmp_path / 'job.log'}:", "    first", "    last"]

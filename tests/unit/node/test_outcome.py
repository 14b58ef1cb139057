"""The outcome of a job: done markers, the first failure, the summary."""

from __future__ import annotations

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.cli.main import main
from hpc_dl.node.attempts import begin
from hpc_dl.node.outcome import (
    finish,
    mark_done,
    mark_lost,
    outcome,
    report_failure,
    tell_all_to_end,
    training_done,
)
from hpc_dl.runfolder.folder import Failure, RunFolder
from hpc_dl.runfolder.report import report_lines
from tests.unit.fakes.processes import names


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "job-L1")


def failure(process: str, code: int) -> Failure:
    return Failure(process, "n1", code, 0, 1.0, ("why",))


def test_workers_are_done_when_each_has_said_so(run: RunFolder) -> None:
    cluster = {"ps": ["a"], "worker": ["c", "d"]}
    for name in ("worker:0", "worker:0"):
        assert not training_done(run, cluster)
        mark_done(run, name)
    assert not training_done(run, cluster)
    mark_done(run, "worker:1")
    assert training_done(run, cluster)


def test_the_end_of_a_separate_chief_is_the_end_of_the_training(run: RunFolder) -> None:
    cluster = {"ps": ["a"], "chief": ["b"], "worker": ["c", "d"]}
    for name in ("worker:0", "worker:1"):
        mark_done(run, name)
    assert not training_done(run, cluster)
    mark_done(run, "chief:0")
    assert training_done(run, cluster)
    other = RunFolder(run.path, 1)
    mark_done(other, "chief:0")
    assert training_done(other, cluster)


def test_nobody_waits_for_a_worker_that_was_given_up(run: RunFolder) -> None:
    cluster = {"ps": ["a"], "worker": ["c", "d"]}
    mark_lost(run, "worker:1")
    mark_done(run, "worker:1")  # once more, by whoever
    assert not training_done(run, cluster)
    mark_done(run, "worker:0")
    assert training_done(run, cluster)


def test_each_attempt_has_markers_and_a_failure_of_its_own(run: RunFolder) -> None:
    first, second = RunFolder(run.path, 0), RunFolder(run.path, 1)
    mark_done(first, "worker:0")
    report_failure(first, failure("worker:1", 9))
    assert not second.done.exists()
    assert second.read_failure() is None
    assert (outcome(first, 9, 0).attempts, outcome(second, 0, 0).state) == (1, "COMPLETED")


def test_the_first_of_many_failures_at_once_is_everybodys(run: RunFolder) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = set(pool.map(lambda i: report_failure(run, failure(f"worker:{i}", i + 1)), range(40)))
    assert found == {run.read_failure()}
    assert len(list(run.state.glob("failure-worker-*.json"))) == 40  # the others are there to be read


def test_the_first_failure_is_recorded_on_a_disk_without_hard_links(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(path: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda i: report_failure(run, failure(f"worker:{i}", i + 1)), range(40)))
    first = run.read_failure()
    assert first is not None
    assert report_failure(run, failure("worker:50", 51)) == first
    assert names(run.state) == sorted(["failure.json", *(f"failure-worker-{i}.json" for i in [*range(40), 50])])


def test_the_folder_is_opened_before_a_look_for_a_failure_or_a_marker(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that NFS asks its server: of what was missing it may believe for a minute that it still is."""
    begin(run)
    opened: list[str] = []
    really = os.open

    def note(path: str, *words: Any, **more: Any) -> int:
        opened.append(os.fspath(path))
        return really(path, *words, **more)

    monkeypatch.setattr(os, "open", note)
    assert run.read_failure() is None
    assert not training_done(run, {"worker": ["a"]})
    assert opened == [str(run.state)] * 2


def test_the_wish_to_end_is_read_from_a_file_that_is_there_from_the_begin(run: RunFolder) -> None:
    """On NFS a node may know for a minute that a file is missing."""
    begin(run)
    assert run.stop.exists()
    assert not run.told_to_end()
    before = run.stop.stat().st_ino
    tell_all_to_end(run)
    assert run.told_to_end()
    assert run.stop.stat().st_ino == before


@pytest.mark.parametrize("code", [0, 130, 143])
def test_who_is_told_to_end_when_all_is_done_has_completed(run: RunFolder, code: int) -> None:
    run.cluster.write_text('{"worker": ["c"]}')
    tell_all_to_end(run)
    assert outcome(run, code, 0).state == "CANCELLED"
    mark_done(run, "worker:0")
    assert (outcome(run, code, 0).state, outcome(run, code, 0).exit_code) == ("COMPLETED", 0)


@pytest.mark.parametrize(
    ("code", "state"), [(0, "COMPLETED"), (1, "FAILED"), (137, "FAILED"), (143, "CANCELLED"), (130, "CANCELLED")]
)
def test_without_a_failed_process_the_scripts_exit_code_counts(run: RunFolder, code: int, state: str) -> None:
    started = time.time() - 5
    summary = outcome(run, code, started)
    finish(run, summary)
    assert (summary.state, summary.exit_code, summary.failure, summary.result) == (state, code, None, None)
    assert 4 < summary.ended - summary.started < 60
    assert run.read_summary() == summary


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_failed_process_counts_whatever_the_script_says(run: RunFolder, code: int) -> None:
    report_failure(run, failure("worker:2", 9))
    summary = outcome(run, code, 0)
    assert (summary.state, summary.exit_code) == ("FAILED", 9)
    assert str(summary.failure) == "worker:2 on node n1 ended with exit code 9; its last lines:\n    why"


def test_who_was_told_to_end_and_ends_with_0_is_not_done(run: RunFolder) -> None:
    """As mpirun's ranks do."""
    tell_all_to_end(run)
    # A launcher was killed, and the end of its job has told the others.
    assert (outcome(run, 137, 0).state, outcome(run, 137, 0).exit_code) == ("FAILED", 137)
    run.cluster.write_text('{"worker": ["a:1", "b:1"]}')
    mark_done(run, "worker:0")
    assert (outcome(run, 0, 0).state, outcome(run, 0, 0).exit_code) == ("CANCELLED", 143)
    mark_done(run, "worker:1")
    assert outcome(run, 0, 0).state == "COMPLETED"  # it was done before that


def test_the_summary_has_what_the_program_reported(run: RunFolder) -> None:
    run.result.write_text('{"test_accuracy": 0.97}')
    assert outcome(run, 0, 0).result == {"test_accuracy": 0.97}


@pytest.mark.parametrize("text", ["", '{"test_acc', "[1]", "NaN"])
def test_a_result_that_is_no_object_of_json_does_not_hide_the_outcome(run: RunFolder, text: str) -> None:
    run.result.write_text(text)
    summary = outcome(run, 0, 0)
    assert (summary.state, summary.result) == ("COMPLETED", None)


def test_the_result_has_what_a_ps_wrote_after_the_chief_had_written_it(run: RunFolder) -> None:
    run.result.write_text('{"test_accuracy": 0.97}')
    run.metrics.mkdir()
    times = {"min": 0.1, "median": 0.1, "p90": 0.2, "p99": 0.2, "max": 0.2, "histogram": [[0.1, 4]]}
    moved = {"bytes_sent": 6000, "bytes_received": 1200}
    last: dict[str, dict[str, Any]] = {
        "worker-0": {"event": "trained", "local_steps": 4, "step_seconds": times, **moved},
        "ps-0": {"event": "traffic", **moved},
        "ps-1": {"event": "imported"},  # it has died before it had moved anything
    }
    for task, line in last.items():
        lines = [{"time": 1.0, "event": "imported", "devices": [task]}, {"time": 1.0, **line}]
        (run.metrics / f"{task}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(SystemExit) as ended:
        main(["finish", str(run.path), "--attempt", "0", "--code", "0", "--started", "1"])
    assert ended.value.code == 0
    bytes_per_step = {task: {"bytes_sent": 1500, "bytes_received": 300} for task in ("ps-0", "worker-0")}
    assert run.read_result() == {
        "test_accuracy": 0.97,
        "devices": {"ps-0": ["ps-0"], "worker-0": ["worker-0"]},
        "bytes_per_step": bytes_per_step,
        "step_seconds": {"worker-0": times},
    }
    summary = run.read_summary()
    assert summary is not None
    assert summary.result == run.read_result()


def test_the_result_of_a_users_own_script_stays_as_it_is(run: RunFolder) -> None:
    run.result.write_text('{"loss":  1}')
    with pytest.raises(SystemExit):
        main(["finish", str(run.path), "--attempt", "0", "--code", "0", "--started", "1"])
    assert run.result.read_text() == '{"loss":  1}'


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{"file": "caf\\udcff", "\\ud800": 1}', {"file": "caf?", "?": 1}),
        (b'{"file": "\xed\xb3\xbf"}', {"file": "?"}),
        ('{"a": ' + 60 * "[" + 60 * "]" + "}", ...),
        ('{"a": ' + 100_000 * "[" + 100_000 * "]" + "}", None),
        ('{"steps": 1' + 400 * "0" + "}", {"steps": 10**400}),
        ("{", None),
        ("[1]", None),
        ('{"test_loss": NaN}', {"test_loss": None}),
    ],
)
def test_a_good_job_has_completed_whatever_its_script_reports(
    run: RunFolder, text: str | bytes, result: object
) -> None:
    run.result.write_bytes(text if isinstance(text, bytes) else text.encode())
    finish(run, outcome(run, 0, 0))
    summary = run.read_summary()
    assert summary is not None
    assert summary.state == "COMPLETED"
    assert result is ... or summary.result == result


def test_a_folder_by_the_name_of_the_result_is_no_result(run: RunFolder) -> None:
    run.result.mkdir()
    (run.result / "own").touch()
    assert begin(run) == 0
    assert outcome(run, 0, 0).state == "COMPLETED"
    assert list(report_lines(run)) == []
    assert begin(run) == 1
    assert (run.result / "own").exists()

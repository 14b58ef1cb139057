"""The files of a function in the run folder of its job."""

from __future__ import annotations

from pathlib import Path

from hpc_dl.runfolder.function import FunctionFiles


def _files(run: Path) -> FunctionFiles:
    files = FunctionFiles(run)
    files.folder.mkdir()
    files.submitted().write_bytes(b"x")
    return files


def test_an_attempt_runs_what_the_last_checkpoint_made(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert files.submitted(0) == files.submitted(3) == files.folder / "0.pkl"
    files.following(1).write_bytes(b"y")
    assert [files.submitted(attempt).name for attempt in range(4)] == ["0.pkl", "0.pkl", "2.pkl", "2.pkl"]


def test_each_attempt_has_results_of_its_own(tmp_path: Path) -> None:
    files = FunctionFiles(tmp_path)
    assert files.result(0, "worker:1") != files.result(1, "worker:1")
    assert files.result(1, "worker:1").name == "worker-1.pkl"


def test_a_function_without_a_checkpoint_starts_again_after_preemption_only(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert files.goes_on(0, "preemption")
    assert not files.goes_on(0, "time limit")


def test_a_checkpoint_decides_whether_the_function_goes_on(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.following(0).write_bytes(b"more")
    assert files.goes_on(0, "time limit")
    assert not files.goes_on(1, "time limit")
    files.following(1).write_bytes(b"")
    assert not files.goes_on(1, "preemption")


def test_a_job_without_a_function_goes_on(tmp_path: Path) -> None:
    assert FunctionFiles(tmp_path).goes_on(0, "time limit")

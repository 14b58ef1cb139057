"""Jobs as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.submission.table import table


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hpc_dl.Job:
    monkeypatch.chdir(tmp_path)
    Path("own.sh").write_text("#!/bin/sh\nexit 0\n")
    Path("own.sh").chmod(0o755)
    return hpc_dl.submit(site="local", mode="single", script="own.sh", name="own")


def test_a_notebook_shows_a_job_as_a_table(job: hpc_dl.Job, capsys: pytest.CaptureFixture[str]) -> None:
    hpc_dl.watch([job])
    assert "COMPLETED" in capsys.readouterr().out
    shown = job._repr_mimebundle_()
    for text in (shown["text/html"], shown["text/plain"]):
        assert "COMPLETED" in text
        assert "own" in text
        assert "L1" in text


def test_many_jobs_are_counted_by_their_states() -> None:
    runs = [RunFolder(f"runs/x-{number}") for number in range(21)]
    states = [JobState("RUNNING"), *[JobState("PENDING")] * 20]
    found = table(runs, states)
    assert [list(column.cells) for column in found.columns] == [["PENDING", "RUNNING"], ["20", "1"]]


def test_a_job_whose_folder_is_gone_has_a_row(tmp_path: Path) -> None:
    found = table([RunFolder(tmp_path / "x-7")], [JobState("UNKNOWN")])
    assert [next(iter(column.cells)) for column in found.columns] == ["7", "", "UNKNOWN", "", "", ""]

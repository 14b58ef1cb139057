"""The run folder."""

from __future__ import annotations

from pathlib import Path

from hpc_dl.runfolder.folder import RunFolder


def test_a_damaged_attempt_file_does_not_hide_the_attempts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.latest_attempt() == 0
    run.attempt_file.write_text("3\n")
    assert run.latest_attempt() == 3
    for damage in (b"", b"\xff\xfe", b"three"):
        run.attempt_file.write_bytes(damage)
        assert run.latest_attempt() == 0
    (tmp_path / "state" / "2").mkdir(parents=True)
    assert run.latest_attempt() == 2

"""A disk that is full or away for a while."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hpc_dl import disk
from hpc_dl.disk import insist, write_whole
from hpc_dl.errors import DiskError
from tests.unit.fakes.processes import names


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_can_not_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.json"
    write_whole(file, "old")
    monkeypatch.setattr(os, "fsync", _full)
    monkeypatch.setattr(disk, "_PAUSE", 0.01)
    with pytest.raises(DiskError, match="No space left on device"):
        insist(f"{file} can't be written", lambda: write_whole(file, "new"), patience=0.1)
    assert (names(tmp_path), file.read_text()) == (["summary.json"], "old")


def test_what_is_not_to_be_replaced_any_more_stays(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_whole(file, "of a later attempt")
    with pytest.raises(ZeroDivisionError):
        write_whole(file, "new", lambda: 1 / 0)
    assert (names(tmp_path), file.read_text()) == (["result.json"], "of a later attempt")

"""One run at a time uses the records of a task file, also where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.tasks import locks
from hpc_dl.tasks.journal import Run
from hpc_dl.tasks.locks import in_use
from hpc_dl.tasks.records import Records
from hpc_dl.tasks.status import Status
from tests.unit.fakes.tasks import eventually


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def begun(folder: Path, resume: bool = False) -> Records:
    records = Records(folder, "", resume)
    records.begin(Run(time.time(), "local", "", 1, 0))
    return records


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("earlier", [False, True])
def test_a_second_run_is_refused_without_locks(tmp_path: Path, earlier: bool) -> None:
    folder = tmp_path / "t.txt.records"
    if earlier:
        begun(folder).close()
        assert not in_use(folder)
    first = begun(folder)
    assert "no file locks here" in first.warning
    assert in_use(folder)
    with pytest.raises(UserError, match="another run uses it now"):
        Records(folder, "", resume=True)
    assert in_use(folder)
    first.close()
    assert not in_use(folder)
    begun(folder, resume=True).close()


@pytest.mark.usefixtures("no_locks")
def test_a_run_that_was_killed_counts_as_going_on_until_its_lease_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "t.txt.records"
    killed = begun(folder)
    monkeypatch.setattr(locks, "_RENEW", 0.0)
    killed.keep_up()
    lease = tmp_path / ".t.txt.records.lease"
    assert lease.stat().st_mtime > time.time() + 10  # its agents have the grace to end their tasks
    past = time.time() - locks.LEASE - 1
    os.utime(lease, (past, past))
    assert not in_use(folder)
    begun(folder, resume=True).close()


def test_there_is_no_lease_where_there_are_locks(tmp_path: Path) -> None:
    records = begun(tmp_path / "records")
    assert records.warning == ""
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    records.close()


NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
from hpc_dl.cli.main import main
main()
"""


@pytest.mark.usefixtures("no_locks")
def test_status_shows_what_runs_without_locks(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("touch up; while ! test -e go; do sleep 0.05; done\n")
    command = [sys.executable, "-c", NO_LOCKS, "tasks", "run", "t.txt"]
    runner = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually((tmp_path / "up").exists)
    status = Status(tmp_path / "t.txt")
    eventually(lambda: status.look()[0][0].state == "RUNNING")
    (tmp_path / "go").touch()
    _, said = runner.communicate(timeout=60)
    assert said.count("no file locks here") == 1
    assert status.look()[0][0].state == "OK"
    assert not status.look()[1]

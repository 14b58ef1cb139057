"""Task files on a disk that is full or away for a while."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from hpc_dl.errors import DISK
from hpc_dl.tasks.executor import Agents, Event, Lost
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.gpu_rule import GpuRule
from hpc_dl.tasks.journal import Journal, Run
from hpc_dl.tasks.journal_file import JournalFile
from hpc_dl.tasks.log import TaskLog
from hpc_dl.tasks.messages import Begin, Ended, Order, Stop, Stuck
from hpc_dl.tasks.pool import Demand, Node, Pool, Share
from hpc_dl.tasks.records import Records
from hpc_dl.tasks.runner import Runner
from hpc_dl.tasks.scheduler import Scheduler, Start, TaskState
from tests.unit.fakes.processes import children
from tests.unit.fakes.tasks import RUN, eventually, states, tasks

_TASKS = 50


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    one = JournalFile(tmp_path / "journal")
    yield one
    one.close()


def test_a_full_disk_takes_all_lines_or_none(
    tmp_path: Path, journal: JournalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    journal.append(b"first\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:3]) if data[:3] == b"sec" else no_space())
        with pytest.raises(OSError, match="No space left"):
            journal.append(b"second\nthird\n")
    assert (tmp_path / "journal").read_text() == "first\n"
    journal.append(b"second\nthird\n")
    assert (tmp_path / "journal").read_text() == "first\nsecond\nthird\n"


def test_a_line_that_a_crash_has_cut_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("first\nsec")
    journal = JournalFile(tmp_path / "journal")
    journal.append(b"third\n")
    journal.append(b"fourth\n")
    journal.close()
    assert (tmp_path / "journal").read_text() == "first\nsec\nthird\nfourth\n"


def test_a_run_outlasts_a_full_disk_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("echo x >> ran\n" * _TASKS)
    words = [*RUN, "run", "t.txt", "--json", "--log-level=1", "--workers=2"]
    # No file gets longer than this; what the disk itself does not take fails in the same way.
    full = (3000, resource.RLIM_INFINITY)
    runner = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full),
    )
    eventually(lambda: "can't be written: File too large; trying again" in (tmp_path / "log").read_text())
    with pytest.raises(subprocess.TimeoutExpired):
        runner.wait(2.5)
    for pid in (runner.pid, *children(runner.pid)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report = json.loads(runner.communicate(timeout=60)[0])
    assert runner.returncode == 0
    assert set(states(report).values()) == {"OK"}
    ends = Journal(tmp_path / "t.txt.records").ends
    assert sorted(end.task for end in ends) == list(range(1, _TASKS + 1))
    assert len(Journal(tmp_path / "t.txt.records").starts) == _TASKS
    assert tasks(tmp_path, "run", "t.txt", "--resume").returncode == 0
    assert (tmp_path / "ran").read_text().count("x") == _TASKS


_AGENT = """
import errno, os
from hpc_dl.tasks.node_agent import agent
spawn, write = os.posix_spawn, os.write
def full(words):
    if not os.path.exists("room"):
        raise OSError(errno.ENOSPC, "No space left on device")
def posix_spawn(*words, **more):
    full(words)
    return spawn(*words, **more)
def written(file, data):
    if file > 2 and data.startswith(b"{"):
        full(data)
    return write(file, data)
"""


def agent_on_a_full_disk(folder: Path, patch: str) -> Agents:
    (folder / "output").mkdir()
    program = f"{_AGENT}{patch}\nagent.main()"
    agents = Agents({"n": [sys.executable, "-c", program, str(folder), "1.0", "n", GpuRule().text]})
    agents.greet(60)
    agents.begin(60)
    agents.order("n", [Order(Task(1, "true"), 1, (Share("n", (0,)),))])
    return agents


def said(agents: Agents, seconds: float) -> list[Event | Lost]:
    return [event for _ in range(2) for event in agents.wait(seconds / 2)]


def test_a_task_whose_output_a_full_disk_does_not_take_starts_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agents = agent_on_a_full_disk(tmp_path, "os.posix_spawn = posix_spawn")
    try:
        assert said(agents, 2) == []
        (tmp_path / "room").touch()
        (end,) = agents.wait(20)
        assert isinstance(end, Ended)
        assert end.ok
    finally:
        agents.close()


@pytest.mark.parametrize(
    "patch",
    [
        "os.posix_spawn = posix_spawn; agent.PATIENCE = 0",
        "os.write = written; agent.PATIENCE = 0",
        "os.fsync = full",
    ],
)
def test_an_agent_whose_disk_stays_full_says_so_and_ends_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    monkeypatch.chdir(tmp_path)
    agents = agent_on_a_full_disk(tmp_path, patch)
    try:
        events: list[Event | Lost] = []
        while len(events) < 2:
            events += agents.wait(20) or pytest.fail("it did not happen in time")
        kinds = {type(event) for event in events}
        assert kinds == {Stuck, Ended}
        (stuck,) = [event for event in events if isinstance(event, Stuck)]
        assert "No space left on device" in stuck.reason
    finally:
        agents.close()


class Node1:
    """A node with an agent that gives up at once and stops its tasks as it is told."""

    def __init__(self, events: list[Event | Lost]) -> None:
        self.events = events

    def order(self, node: str, orders: Sequence[Order | Stop | Begin]) -> None:
        pass

    def stop(self, grace: float) -> None:
        self.events.append(Ended(1, "k", 1, "n", 0, 0, stopped=True))

    def wait(self, timeout: float | None) -> list[Event | Lost]:
        events, self.events = self.events, []
        return events


def test_a_run_whose_disk_stays_full_ends_in_order(tmp_path: Path) -> None:
    records = Records(tmp_path / "records", "", resume=False)
    records.begin(Run(0, "local", "", 1, 0))
    pool = Pool([Node("n", (0,))])
    scheduler = Scheduler([Task(1, "true"), Task(2, "true")], pool, lambda _: Demand())
    with open("/dev/full", "w") as nowhere:  # noqa: PTH123
        log = TaskLog(nowhere.fileno(), 3)
        runner = Runner(scheduler, cast(Agents, Node1([Stuck("n", "it is full")])), records, log, lose=pool.lose)
        runner.run()
    assert (runner.code, runner.ended_by) == (DISK, "n: it is full")
    assert scheduler.states == {1: TaskState.STOPPED, 2: TaskState.WAITING}
    records.close()


def test_starts_that_the_disk_does_not_take_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path / "records", "", resume=False)
    records.begin(Run(0, "local", "", 1, 0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        records.started([Start(Task(1, "true"), (Share("n", (0,)),), 1)])
        records.keep_up()
    assert Journal(tmp_path / "records").starts == []
    records.close()
    assert [one.task for one in Journal(tmp_path / "records").starts] == [1]


def test_a_run_whose_output_nobody_reads_goes_on(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("sleep 0.5\n[# 1 #] echo x > ran\n")
    read, write = os.pipe()
    runner = subprocess.Popen([*RUN, "run", "t.txt"], cwd=tmp_path, stdout=write, stderr=write)
    os.close(write)
    os.close(read)
    assert runner.wait(30) == 0
    assert (tmp_path / "ran").exists()


def test_a_full_disk_cuts_no_line_of_the_log_but_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with (tmp_path / "log").open("wb", buffering=0) as file:
        log = TaskLog(file.fileno(), 3)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
            log.line(3, "first")
            log.flush()
            patch.setattr(os, "write", no_space)
            log.line(3, "second")
            log.flush()
        log.line(3, "third")
        log.flush()
    assert [line[-11:] for line in (tmp_path / "log").read_text().splitlines()[1:]] == ["INFO: third"]

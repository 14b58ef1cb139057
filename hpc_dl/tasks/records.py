"""Records: the folder with what became of each task: outputs, and journals that are only ever appended to.

``journal`` is the runner's: runs and starts. ``NODE.jsonl`` is the agent's of each node: how attempts ended. An agent
writes before it tells the runner, so that a runner that is killed loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from hpc_dl.errors import DiskError, UserError
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.messages import Ended, encode
from hpc_dl.tasks.node_agent.environment import BIN, HOSTS, PROLOG
from hpc_dl.tasks.node_agent.journal_file import Appender
from hpc_dl.tasks.pool import Share
from hpc_dl.tasks.scheduler import Start

T = TypeVar("T")


class Run(msgspec.Struct, frozen=True, tag="run"):
    """A run begins. `cores` and `gpus` are what all nodes have together; `restart` as in `TaskFile`."""

    time: float
    job: str
    restart: str
    cores: int
    gpus: int


class Started(msgspec.Struct, frozen=True, omit_defaults=True, tag="start"):
    """An attempt was ordered."""

    task: int
    attempt: int
    shares: tuple[Share, ...]
    time: float


_TRIES = 10  # to lock the records

_decode = msgspec.json.Decoder(Run | Started).decode
_decode_ended = msgspec.json.Decoder(Ended).decode


def records_folder(file: Path) -> Path:
    """Return where the records of a task file are by default: next to it."""
    return file.with_name(f"{file.name}.records")


def newest_records(file: Path) -> Path:
    """Return the records of a task file that were written to last: of a run here or of a job; else the default."""
    names = re.compile(rf"{re.escape(file.name)}(-\d+)?\.records")
    found = [path / "journal" for path in file.parent.glob("*.records") if names.fullmatch(path.name)]
    written = {path.parent: path.stat().st_mtime for path in found if path.exists()}
    return max(written, key=lambda path: written[path], default=records_folder(file))


class Records:
    """The records of one task file, open for a run.

    Args:
        path: the folder.
        restart: the restart file's run, as in `TaskFile`.
        resume: go on from what is there; else, or if it is of another run's restart file, `begin` moves that aside.

    Raises:
        UserError: another run uses the folder now.
    """

    def __init__(self, path: Path, restart: str, resume: bool) -> None:
        self.path = path
        # What was moved aside stays locked until the end: who has opened it before that waits for its lock.
        self._earlier = Appender(path / "journal")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock()
        _await_agents(path)
        runs = Journal(path).runs
        self._aside = bool(runs) and not (resume and runs[-1].restart == restart)

    def _lock(self) -> None:
        self._journal = Appender(self.path / "journal")
        self._journal.open()
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                lock(self._journal.file, wait=False)
                return
            time.sleep(0.05)  # it may be one who only asks, see `in_use`
        self._journal.close()
        raise UserError(f"{self.path}: another run uses it now; wait for its end, or choose --records")

    def begin(self, run: Run) -> None:
        """Move aside what the run does not go on from, and write that it begins.

        Raises:
            UserError: the disk does not take it.
        """
        new = self.path.with_name(f".{self.path.name}-{os.getpid()}") if self._aside else self.path
        try:
            new.mkdir(mode=0o700, exist_ok=True)
            (new / "output").mkdir(exist_ok=True)
            if self._aside:
                self._earlier, self._journal = self._journal, Appender(new / "journal")
                self._journal.open()
                lock(self._journal.file, wait=True)
            self._journal.write(encode(run) + b"\n")
            self._journal.sync()
            if self._journal.behind or self._journal.trouble:
                raise UserError(self._journal.trouble or f"{self._journal.path} can't be written now")
            if self._aside:
                self.path.rename(_free_name(self.path))
                new.rename(self.path)
                self._journal.path = self.path / "journal"
        finally:
            if new != self.path:
                shutil.rmtree(new, ignore_errors=True)

    def started(self, starts: Sequence[Start]) -> None:
        """Write which tasks start; what the disk does not take, `write` tries again."""
        now = time.time()
        lines = [encode(Started(one.task.number, one.attempt, one.shares, now)) for one in starts]
        with contextlib.suppress(DiskError):
            self._journal.write(b"".join(line + b"\n" for line in lines))

    def write(self) -> None:
        """Write what waits since the disk has not taken it.

        Raises:
            DiskError: it has not for long.
        """
        if self._journal.trouble or self._journal.behind:
            self._journal.write()
            self._journal.sync()

    def allow_steps(self) -> None:
        """Write what tasks inside a Slurm job need to start steps of their own.

        See `hpc_dl.tasks.node_agent.environment`.
        """
        from hpc_dl.templates import Renderer

        for folder in (HOSTS, BIN):
            (self.path / folder).mkdir(exist_ok=True)
        scripts = {self.path / PROLOG: "prolog.sh.j2", self.path / BIN / "srun": "srun.sh.j2"}
        for path, template in scripts.items():
            path.write_text(Renderer([]).render(template, {"srun": shutil.which("srun") or "srun"}))
            path.chmod(0o700)

    def close(self) -> None:
        """Let others use the folder."""
        with contextlib.suppress(OSError, DiskError):  # that tasks started is not what a resume needs
            self._journal.write()
            self._journal.sync()
        self._journal.close()
        self._earlier.close()


class Journal:
    """What a records folder says; `refresh` reads on.

    Args:
        path: the folder; it may be in use, or not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        self.starts: list[Started] = []
        self.ends: list[Ended] = []
        self._read: dict[Path, int] = {}  # how many bytes of each file
        self.refresh()

    def refresh(self) -> None:
        """Read what was written since."""
        for entry in self._entries(self.path / "journal", _decode):
            if isinstance(entry, Run):
                self.runs.append(entry)
            else:
                self.starts.append(entry)
        for file in sorted(self.path.glob("*.jsonl")):
            self.ends += self._entries(file, _decode_ended)
        self.ends.sort(key=lambda end: end.ended)

    def _entries(self, path: Path, decode: Callable[[bytes], T]) -> Iterator[T]:
        """Yield the new entries of a file; a line that a crash of the machine has cut is none."""
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole, _, rest = file.read().rpartition(b"\n")
            self._read[path] = file.tell() - len(rest)
        for line in whole.splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                yield decode(line)

    def last(self, tasks: Iterable[Task]) -> dict[int, Ended]:
        """Return how each task ended last; one whose line was changed since has not ended."""
        keys = {task.number: task.key for task in tasks} if self.ends else {}
        last: dict[int, Ended] = {}
        for end in self.ends:
            if keys.get(end.task) == end.key and not (end.task in last and last[end.task].ok):
                last[end.task] = end
        return last

    def running(self) -> dict[int, Started]:
        """Return the attempts of the last run that have not ended, by task."""
        if not self.runs:
            return {}
        since = self.runs[-1].time
        ended = {(end.task, end.attempt) for end in self.ends if end.ended >= since}
        # A later start of a task tells that an earlier one was lost with its node.
        latest = {one.task: one for one in self.starts if one.time >= since}
        return {number: one for number, one in latest.items() if (number, one.attempt) not in ended}


def lock(file: int, wait: bool) -> None:
    """Lock an open file until it is closed; where the file system has no locks, go on without.

    Raises:
        BlockingIOError: someone else has it, and we are not to wait.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise


def _await_agents(path: Path) -> None:
    """Wait for agents of a runner that was killed: they still end their tasks, and write down how those ended."""
    for journal in path.glob("*.jsonl"):
        with journal.open("rb+") as file:
            lock(file.fileno(), wait=True)


def in_use(path: Path) -> bool:
    """Return whether a run uses a records folder now."""
    try:
        with (path / "journal").open("rb+") as file:
            lock(file.fileno(), wait=False)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return name

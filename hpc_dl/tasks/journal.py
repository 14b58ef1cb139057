"""Journals: reads what the runner and the agents of a run have written, for status and for a resumed run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.pool import Share

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


_decode = msgspec.json.Decoder(Run | Started).decode
_decode_ended = msgspec.json.Decoder(Ended).decode


class Journal:
    """The entries of all journals in a records folder; `refresh` reads the new ones.

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
        """Yield the new entries of a file. Skip a line that a crash of the machine has cut."""
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
        """Return how each task ended last. A task whose line was changed since counts as not ended."""
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
        # A later start of a task means that the earlier attempt was lost with its node.
        latest = {one.task: one for one in self.starts if one.time >= since}
        return {number: one for number, one in latest.items() if (number, one.attempt) not in ended}

"""Log: what happens, line by line as it happens, in Greasy's words and levels."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import time

from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.report import clock
from hpc_dl.tasks.scheduler import Start

_NAMES = {1: "ERROR: ", 2: "WARNING: ", 3: "INFO: ", 4: "DEBUG: "}


class TaskLog:
    """Collects lines up to a level, and writes them to an open file when the runner has nothing more urgent to do.

    Args:
        file: descriptor of the open file.
        level: as in `Settings`.
    """

    def __init__(self, file: int, level: int) -> None:
        self._file = file
        self._level = level
        self._lines: list[str] = []
        self._cut = False  # a full disk has taken only a part of the last line

    def line(self, level: int, text: str) -> None:
        """Add a line with the time before it. Errors appear at every level but 0."""
        if level <= self._level:
            self._lines.append(f"[{_clock(int(time.time()))}] {_NAMES[level]}{text}\n")

    def flush(self) -> None:
        """Write the lines. Drop them if the disk is full or nobody reads the log: it must not stop tasks."""
        if not self._lines:
            return
        data = ("\n" * self._cut + "".join(self._lines)).encode(errors="backslashreplace")
        self._lines.clear()
        with contextlib.suppress(OSError):
            self._cut = os.write(self._file, data) < len(data)

    def starts(self, start: Start) -> None:
        """A task starts."""
        if self._level >= 3:
            where = "; ".join(
                f"node {share.node}{', GPUs ' if share.gpus else ''}{','.join(share.gpus)}" for share in start.shares
            )
            self.line(3, f"Allocating task {start.task.label} to {where}")

    def ended(self, task: Task, end: Ended, again: bool) -> None:
        """A task has ended."""
        if end.ok and self._level < 3:
            return
        how = "completed successfully" if end.ok else end.how
        took = clock(end.ended - end.started)
        self.line(3 if end.ok else 1, f"Task {task.label} {how} on node {end.node}. Elapsed: {took}")
        if again:
            self.line(2, f"Retry {end.attempt} of task {task.label}")

    def cancelled(self, numbers: list[int], after: int) -> None:
        """Tasks will not run since another failed."""
        for number in numbers:
            self.line(2, f"Cancelling task {number} because of task {after} failure")

    def lost(self, node: str, numbers: list[int]) -> None:
        """A node is gone."""
        text = f"; tasks {', '.join(map(str, numbers))} start again elsewhere" if numbers else ""
        self.line(1, f"Node {node} is gone{text}")

    def ending(self, why: str) -> None:
        """The run is ended before all tasks are."""
        self.line(1, f"The run ends early: {why}. Running tasks are ended; see the restart file")


@functools.lru_cache(maxsize=1)  # thousands of lines share a second
def _clock(second: int) -> str:
    return f"{datetime.datetime.fromtimestamp(second):%Y-%m-%d %H:%M:%S}"

"""Waiting for things to happen, and finding the processes of a test."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path


def eventually(happened: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Wait until something is so; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"did not happen in {seconds} s: {what or happened}"
        time.sleep(0.02)


def names(folder: Path) -> list[str]:
    """Return the names of what a folder holds, hidden or not, in order."""
    return sorted(path.name for path in folder.iterdir())


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Marker:
    """A word that no other command line has; processes with it can be found, and be ended when a test is over."""

    def __init__(self) -> None:
        self.word = str(uuid.uuid4().int)
        self.sleep = f"sleep 300.{self.word}"
        """A command that has the word."""

    def pids(self) -> list[int]:
        """Return the living processes that have the word in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                there = self.word.encode() in (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if there and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def gone(self) -> bool:
        """Return whether no such process is left."""
        return not self.pids()

    def kill(self) -> None:
        """End all of them."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

"""Signs of life: how a launcher knows that one of its processes hangs.

A process of the built-in program writes a byte into a pipe each second (hpc_dl/train/heartbeat.py). A script of the
user's own gives a sign of life by writing into its log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

HEARTBEAT = "HPC_DL_HEARTBEAT"
"""Variable that tells the built-in program of its pipe: ``NUMBER:INODE:TIMEOUT:LAUNCHER:NUMBER``."""


class Signs(Protocol):
    """The signs of life of one process."""

    def given(self) -> bool:
        """Return whether there was a sign of life since the last call; True at the first call."""

    def close(self) -> None:
        """Stop listening."""


class PipeSigns:
    """Signs of life of the built-in program. It counts as alive before its first byte: containers may drop the pipe."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self.write, False)  # a launcher that hangs must not stop the training
        self._begun = False

    def variable(self, timeout: float) -> str:
        """Return the value of `HEARTBEAT`.

        The inode lets the process check that the number is still this pipe's. A process that did not inherit the pipe,
        since it is in a container or a step of its own, opens it by the launcher's number.
        """
        return f"{self.write}:{os.fstat(self.write).st_ino}:{timeout:g}:{os.getpid()}:{self._read}"

    def started(self) -> None:
        """Close the writing end here; the process has its own copy now."""
        os.close(self.write)

    def given(self) -> bool:
        """See `Signs`."""
        with contextlib.suppress(BlockingIOError):
            found = bool(os.read(self._read, 1 << 16))
            self._begun = self._begun or found
            return found or not self._begun
        return not self._begun

    def close(self) -> None:
        """See `Signs`."""
        os.close(self._read)


class LogSigns:
    """Signs of life of a script of the user's own: its log grows."""

    def __init__(self, log: Path) -> None:
        self._log, self._size = log, -1

    def given(self) -> bool:
        """See `Signs`."""
        try:
            size = self._log.stat().st_size
        except OSError:  # the disk is away for a moment
            return True
        before, self._size = self._size, size
        return size != before

    def close(self) -> None:
        """See `Signs`."""

"""Appender: a journal on a disk that may be full or away for a while."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from hpc_dl.disk import PATIENCE, TROUBLE
from hpc_dl.errors import DiskError


class Appender:
    """A journal. What its disk does not take waits for the next write, which goes on where the last one was cut.

    Args:
        path: the file; `open` opens it.
        again: keep what is written until `sync`, which writes once more what got lost on the way, as with a quota.
    """

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self._again = again
        self.file = -1
        self._told = b""  # waits, but has been returned already
        self._waiting = b""
        self._part = b""  # what is written of a line that was cut
        self._unsynced = bytearray()
        self._since: float | None = None
        self.trouble = ""
        """Why the disk does not take all; empty if it does."""

    def open(self) -> None:
        """Open the file; what a crash has cut gets a line of its own, so that it spoils nothing that follows."""
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if (size := os.fstat(self.file).st_size) and os.pread(self.file, 1, size - 1) != b"\n":
            self._told = b"\n"

    @property
    def behind(self) -> bool:
        """Return whether lines wait."""
        return bool(self._told or self._waiting)

    def write(self, lines: bytes = b"") -> bytes:
        """Write what waits and then `lines`; return the whole lines that are written now and were not before.

        Raises:
            DiskError: the disk has been in trouble for `PATIENCE` seconds; the lines wait.
        """
        self._waiting += lines
        if not self.behind:
            return b""
        data = self._told + self._waiting
        try:
            count = os.write(self.file, data)
        except OSError as error:
            self._in_trouble(error)
            return b""
        if self._again:
            self._unsynced += data[:count]
        new = self._waiting[: max(0, count - len(self._told))]
        self._told, self._waiting = self._told[count:], self._waiting[len(new) :]
        whole, newline, self._part = (self._part + new).rpartition(b"\n")
        return whole + newline

    def sync(self) -> None:
        """Get what is written to the disk.

        Raises:
            DiskError: the disk has been in trouble for `PATIENCE` seconds.
        """
        try:
            os.fsync(self.file)
        except OSError as error:
            if self._unsynced:
                self._told = b"\n" + self._unsynced + self._told
                self._unsynced.clear()
            self._in_trouble(error)
            return
        self._unsynced = bytearray(self._part)
        if not self.behind:
            self._since, self.trouble = None, ""

    def tell(self) -> bytes:
        """Return the lines that wait; when they are written they are not returned again."""
        lines, self._part = self._part + self._waiting, b""
        self._told, self._waiting = self._told + self._waiting, b""
        return lines

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def _in_trouble(self, error: OSError) -> None:
        if error.errno not in TROUBLE:
            raise error
        self.trouble = f"{self.path} can't be written: {error.strerror}"
        if self._since is None:
            self._since = time.monotonic()
            with contextlib.suppress(OSError):
                print(f"hpc-dl: {self.trouble}; trying again", file=sys.stderr, flush=True)
        elif time.monotonic() - self._since > PATIENCE:
            raise DiskError(self.trouble) from error

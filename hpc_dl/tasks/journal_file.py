"""Journal file: lines that are only ever appended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class JournalFile:
    """A journal, open for writing.

    Args:
        path: the file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self.file).st_size
        # A crash of the machine may have cut the last line. It must not spoil the next one.
        self._cut = size > 0 and os.pread(self.file, 1, size - 1) != b"\n"

    def append(self, lines: bytes) -> None:
        """Append all lines or none.

        Raises:
            OSError: the disk does not take them.
        """
        size = os.fstat(self.file).st_size
        data = b"\n" * self._cut + lines
        try:
            while data:
                data = data[os.write(self.file, data) :]
            self._cut = False
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.file, size)
            raise

    def sync(self) -> None:
        """Wait until the disk has what was appended.

        Raises:
            OSError: the disk does not take it, and what was appended last may be lost.
        """
        os.fsync(self.file)

    def close(self) -> None:
        """Close the file, and release its lock."""
        os.close(self.file)

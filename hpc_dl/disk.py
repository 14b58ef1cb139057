"""Reading and writing on a shared disk that may be full, read-only or unreachable for a while."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hpc_dl.errors import DiskError

T = TypeVar("T")

# Errors that may pass: quotas are raised, file servers come back, tickets are renewed.
TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN,
)  # fmt: skip
# These don't pass if the cause is a command that may not be executed or a folder that may not be entered.
FORBIDDEN = (errno.EACCES, errno.EPERM)
PATIENCE = 600.0  # seconds for which access to a run folder is retried
_PAUSE = 1.0


def trouble(error: BaseException) -> str | None:
    """Return the disk problem that an error reports; None if it reports something else."""
    return error.strerror if isinstance(error, OSError) and error.errno in TROUBLE else None


def insist(
    what: str,
    action: Callable[[], T],
    patience: float = PATIENCE,
    trouble: Callable[[BaseException], str | None] = trouble,
    ends_at: Callable[[], float] = lambda: math.inf,
) -> T:
    """Call `action` until it succeeds; retry only while the disk is in trouble.

    Args:
        what: what does not work, for the message.
        action: the function to call.
        patience: how long to try, in seconds.
        trouble: returns the disk problem that an error reports; None if it reports something else.
        ends_at: returns the `time.monotonic` time after which nothing is retried.

    Raises:
        DiskError: the disk was in trouble all that time.
        Exception: `action` failed for another reason.
    """
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return action()
        except Exception as error:
            if not (reason := trouble(error)):
                raise
            if time.monotonic() >= min(deadline, ends_at()):
                raise DiskError(f"{what}: {reason}") from error
        if not told:
            with contextlib.suppress(OSError):  # the job's log is on that disk
                print(f"hpc-dl: {what} yet: {reason}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_PAUSE)


def look_anew(folder: Path) -> None:
    """Make changes that other nodes made in a folder visible here.

    An NFS client may treat a name as missing for up to a minute. It asks its server again when the folder is opened:
    see nfs(5), "Directory entry caching" and "Close-to-open cache consistency".
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def write_new(path: Path, text: str | bytes) -> None:
    """Write a private file that nobody reads yet. Unlike `write_whole`, this does not wait for the disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def write_whole(path: Path, text: str | bytes, check: Callable[[], object] = lambda: None) -> None:
    """Write a private file. A reader sees the old or the new text, never a part; a failed write leaves no other file.

    Args:
        path: the file.
        text: its new content.
        check: called before the old text is replaced; may raise.
    """
    data = text.encode() if isinstance(text, str) else text
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        # Private, whatever the user's umask is.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check()
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class LineFile:
    """A file that lines of JSON are appended to, each whole or not at all. A line that can't be written is lost.

    The next line comes after one that says how many were lost.

    Args:
        path: the file.
        what: what the lines are, for warnings.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._file: int | None = None
        self._lost = 0

    def open(self) -> int:
        """Open the file, as the first `append` does too; return its descriptor.

        Raises:
            OSError: it can't be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        # A process that was killed while it wrote has left a part of a line.
        size = os.fstat(file).st_size
        while size and os.pread(file, 1, size - 1) != b"\n":
            size -= 1
        os.ftruncate(file, size)
        return file

    def append(self, line: bytes) -> None:
        """Append a line; warn if it is lost."""
        lost = {"time": time.time(), "event": "lost", "lines": self._lost}
        before = json.dumps(lost).encode() + b"\n" if self._lost else b""
        try:
            self._write(before + line + b"\n")
        except OSError as error:
            if not self._lost:
                self._say(f"{self._what} can't be written: {error.strerror}")
            self._lost += 1
            return
        if self._lost:
            self._say(f"{self._lost} lines of {self._what} are lost")
            self._lost = 0

    def _write(self, data: bytes) -> None:
        file = self._file if self._file is not None else self.open()
        size = os.fstat(file).st_size
        if os.write(file, data) < len(data):  # the disk took a part of the line
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the job's log may be on that disk
            print(f"warning: {text}", file=sys.stderr, flush=True)

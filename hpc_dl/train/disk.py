"""A disk that is full, read-only or away for a while must not end a training."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

from hpc_dl.disk import TROUBLE
from hpc_dl.errors import DiskError
from hpc_dl.train.stop import Stop

T = TypeVar("T")

_PAUSE = 5.0  # seconds between two tries to write what is the last
_NEEDS = 3.0  # seconds of the grace after SIGTERM that are left for the way out


def trouble(error: BaseException) -> str | None:
    """Return what is wrong with the disk, or None if that is not what the error says.

    TensorFlow's errors have many codes for that (ResourceExhausted, PermissionDenied, Unknown …), which mean other
    things too; but they repeat the system's words.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next((words for words in map(os.strerror, TROUBLE) if words in str(error)), None)


def patiently(what: str, action: Callable[[], T], patience: float, stop: Stop | None = None) -> T:
    """Do something, again and again while the disk is in trouble.

    Args:
        what: for the messages: what does not work.
        action: does it.
        patience: how long to try, in seconds.
        stop: after SIGTERM the grace counts instead.

    Raises:
        DiskError: it did not work for so long.
    """
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return action()
        except Exception as error:
            if not (reason := trouble(error)):
                raise
            limit = min(deadline, stop.ends_at - _NEEDS) if stop else deadline
            if time.monotonic() >= limit:
                raise DiskError(f"{what}: {reason}") from error
        if not told:
            print(f"warning: {what} yet: {reason}", file=sys.stderr, flush=True)
            told = True
        wake = time.monotonic() + _PAUSE
        while time.monotonic() < wake and not (stop and stop.requested):
            time.sleep(0.1)
        if stop and stop.requested:
            time.sleep(0.5)


class Log(io.TextIOWrapper):
    """Standard output or error; what can't be written to it is lost, and that is no error."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush what can be written."""
        try:
            super().flush()
        except OSError:
            return


def tolerant(stream: TextIO) -> Any:
    """Return a stream like `stream` that is a `Log`."""
    return Log(stream.buffer, stream.encoding, stream.errors, line_buffering=True)

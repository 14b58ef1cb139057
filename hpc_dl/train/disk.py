"""A disk that is full, read-only or away for a while must not end a training."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

from hpc_dl.disk import TROUBLE, insist
from hpc_dl.train.stop import Stop

T = TypeVar("T")

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
    """Do something, again and again while the disk is in trouble, as `hpc_dl.disk.insist` does.

    Args:
        what: for the messages: what does not work.
        action: does it.
        patience: how long to try, in seconds.
        stop: after SIGTERM the grace counts instead.

    Raises:
        DiskError: it did not work for so long.
    """
    return insist(what, action, patience, trouble, lambda: stop.ends_at - _NEEDS if stop else math.inf)


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

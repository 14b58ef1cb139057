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

_NEEDS = 3.0  # seconds of the grace after SIGTERM that are kept for the exit


def trouble(error: BaseException) -> str | None:
    """Return what is wrong with the disk, or None if the error has another cause.

    TensorFlow reports disk errors under many codes (ResourceExhausted, PermissionDenied, Unknown …), which have other
    meanings too. But its messages contain the system's text for the error.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next((words for words in map(os.strerror, TROUBLE) if words in str(error)), None)


def patiently(what: str, action: Callable[[], T], patience: float, stop: Stop | None = None) -> T:
    """Call `action`, and retry it while the disk is in trouble; see `hpc_dl.disk.insist`.

    Args:
        what: what does not work, for the messages.
        action: the function to call.
        patience: how long to retry, in seconds.
        stop: after SIGTERM, the retries end before the grace does.

    Raises:
        DiskError: the disk was in trouble until the time was over.
    """
    return insist(what, action, patience, trouble, lambda: stop.ends_at - _NEEDS if stop else math.inf)


class Log(io.TextIOWrapper):
    """Standard output or error. Text that can't be written is lost, which is not an error."""

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

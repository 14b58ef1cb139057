"""A shared disk that is full, read-only or away for a while: what it says then, and patience with it."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from hpc_dl.errors import DiskError

T = TypeVar("T")

# What passes: quotas are raised, file servers come back, tickets are renewed.
TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN,
)  # fmt: skip
# The same of a command that may not be run, or a folder that may not be entered: nothing that passes.
FORBIDDEN = (errno.EACCES, errno.EPERM)
PATIENCE = 600.0  # seconds in which a run folder that can't be written may become writable again
_PAUSE = 1.0


def insist(what: str, action: Callable[[], T]) -> T:
    """Do something, again and again while the disk is in trouble.

    Args:
        what: for the message: what does not work.
        action: does it.

    Raises:
        DiskError: it did not work for `PATIENCE` seconds.
        OSError: it does not work for another reason.
    """
    deadline = time.monotonic() + PATIENCE
    told = False
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in TROUBLE:
                raise
            if time.monotonic() > deadline:
                raise DiskError(f"{what}: {error.strerror}") from error
            reason = error.strerror
        if not told:
            with contextlib.suppress(OSError):  # the job's log is on that disk
                print(f"hpc-dl: {what} yet: {reason}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_PAUSE)

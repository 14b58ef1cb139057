"""A shared disk that is full, read-only or away for a while: what it says then, and patience with it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
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


def trouble(error: BaseException) -> str | None:
    """Return what is wrong with the disk; None if that is not what an error says."""
    return error.strerror if isinstance(error, OSError) and error.errno in TROUBLE else None


def insist(
    what: str,
    action: Callable[[], T],
    patience: float = PATIENCE,
    trouble: Callable[[BaseException], str | None] = trouble,
    ends_at: Callable[[], float] = lambda: math.inf,
) -> T:
    """Do something, again and again while the disk is in trouble.

    Args:
        what: for the message: what does not work.
        action: does it.
        patience: how long to try, in seconds.
        trouble: returns what is wrong with the disk; None for an error that says something else.
        ends_at: returns when there is no time left, as `time.monotonic` counts.

    Raises:
        DiskError: it did not work for so long.
        Exception: it does not work for another reason.
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
    """Let the next looks into a folder see what other nodes have made there, or taken away.

    NFS may believe for a minute that a name is missing. It asks its server when the folder is opened: see nfs(5),
    "Directory entry caching" and "Close-to-open cache consistency".
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def write_whole(path: Path, text: str | bytes, check: Callable[[], object] = lambda: None) -> None:
    """Write a private file so that a reader sees the old or the new text, never a part; what fails leaves nothing.

    Args:
        path: the file.
        text: what it is to hold.
        check: called before the old text is replaced; may raise.
    """
    data = text.encode() if isinstance(text, str) else text
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        # The umask of who asks for a job's state does not make it readable for others.
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

"""Reading and writing on a shared disk that may be full, read-only or unreachable for a while."""

from __future__ import annotations

import contextlib
import errno
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

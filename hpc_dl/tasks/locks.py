"""Locks: one run at a time uses a records folder, also on a file system that has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

_RENEW = 10.0  # seconds between two renewals of a lease
LEASE = 90.0  # seconds for which a lease holds after its last renewal; nobody renews it while agents come up


def lock(file: int, wait: bool) -> bool:
    """Lock an open file until it is closed. Return False if the file system has no locks (some mounts of Lustre).

    Raises:
        BlockingIOError: another process has the lock, and `wait` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        return False
    return True


class Lease:
    """Replaces the lock where there is none: a file next to the records folder, whose time a live run renews.

    The lease of a killed run expires after that run's agents have ended their tasks.

    Args:
        folder: the records folder.
        grace: seconds that the agents of a killed run take to end their tasks.

    Raises:
        FileExistsError: another run has the lease.
    """

    def __init__(self, folder: Path, grace: float) -> None:
        self._path = _lease_path(folder)
        self._grace = grace
        self._renew_at = 0.0
        if not lease_holds(folder):
            self._path.unlink(missing_ok=True)
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self.renew()

    def renew(self) -> None:
        """Renew the lease if it is time to do so."""
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW
            now = time.time()
            os.utime(self._path, (now, now + self._grace))

    def release(self) -> None:
        """End the lease."""
        self._path.unlink(missing_ok=True)


def lease_holds(folder: Path) -> bool:
    """Return whether a run has the lease of a records folder now."""
    try:
        return _lease_path(folder).stat().st_mtime + LEASE > time.time()
    except FileNotFoundError:
        return False


def in_use(folder: Path) -> bool:
    """Return whether a run uses a records folder now."""
    try:
        with (folder / "journal").open("rb+") as file:
            return not lock(file.fileno(), wait=False) and lease_holds(folder)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _lease_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lease")

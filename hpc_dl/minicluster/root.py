"""The root folder of a private cluster: where it is, and whether a cluster runs in it.

Site detection asks this at each start of the command, so the module is quick to import and starts no process.

    lock           locked while one of the supervisor's two processes lives; holds the supervisor's process id
    cluster.json   describes the running cluster; written when all daemons are up
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from pathlib import Path

from hpc_dl.errors import UserError

FOLDER_VARIABLE = "HPC_DL_CLUSTER_DIR"

_PATH = re.compile(r"/[\w./+@~-]+", re.ASCII)
# The kernel's limit for the path of a unix socket is 108 bytes with the closing zero: unix(7).
_SOCKET_PATH = 107


def default_root() -> Path:
    """Return the root folder where none is named.

    That is ``$HPC_DL_CLUSTER_DIR``, or ``.cache/minicluster`` in the current folder. Where Slurm can't work there, it
    is a folder in the temporary folder whose name depends on the user and the current folder.
    """
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).absolute()
    here = Path.cwd() / ".cache" / "minicluster"
    if not root_problem(here):
        return here
    import hashlib
    import tempfile

    digest = hashlib.sha256(os.fsencode(here)).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"hpc_dl-{os.getuid()}-{digest}"


def root_problem(root: Path, name_length: int = 8) -> str:
    """Return why `root` can't be the root folder of nodes with names of this length, or an empty string."""
    if not _PATH.fullmatch(str(root)):
        return "the path has characters that Slurm's configuration can't take"
    node = "n" * name_length
    # The longest sockets: of the batch step (its number is 4294967291) of a job with 5 digits, and of PMIx.
    sockets = (f"{node}_99999.4294967291", "stepd.slurm.pmix.99999.99")
    too_long = max(len(f"{root}/spool/{node}/{socket}") for socket in sockets) - _SOCKET_PATH
    return f"the path is {too_long} characters too long for the sockets in it" if too_long > 0 else ""


def make_root(root: Path) -> None:
    """Make the root folder, open to its owner alone.

    Raises:
        UserError: It can't be made, holds other things, or belongs to another user (perhaps as a trap).
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = _open_folder(root)
        if folder is None:
            raise UserError(f"private cluster: {root}: not a folder of this user; set {FOLDER_VARIABLE} to another one")
        try:
            found = os.listdir(folder)  # noqa: PTH208 - of the open folder, whatever its name is now
            if found and "lock" not in found:
                raise UserError(
                    f"private cluster: {root}: holds other things; set {FOLDER_VARIABLE} to an empty folder"
                )
            os.fchmod(folder, 0o700)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(
            f"private cluster: {root}: {error.strerror}; set {FOLDER_VARIABLE} to another folder"
        ) from error


def _open_folder(root: Path) -> int | None:
    """Open the root folder; return None for what is missing, a link, or another user's.

    All that is read in it is trusted: another user must not be able to choose it, not even by a link.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    if os.fstat(folder).st_uid == os.getuid():
        return folder
    os.close(folder)
    return None


def _open_lock(root: Path) -> int | None:
    """Open the lock file for reading; return None unless the file and its folder exist and are this user's."""
    folder = _open_folder(root)
    if folder is None:
        return None
    try:
        others_write = os.fstat(folder).st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        fd = os.open("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    finally:
        os.close(folder)
    there = os.fstat(fd)
    if not others_write and stat.S_ISREG(there.st_mode) and there.st_uid == os.getuid():
        return fd
    os.close(fd)
    return None


def is_root(root: Path) -> bool:
    """Return whether this user has had a cluster in a folder. Then the folder's contents are the cluster's."""
    fd = _open_lock(root)
    if fd is not None:
        os.close(fd)
    return fd is not None


def lock(root: Path) -> int | None:
    """Lock the root folder; return the open lock file, or None if another has it.

    A copy of the file descriptor in another process holds the lock as well: flock(2).

    Raises:
        UserError: The file system has no locks.
    """
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(10):
            if _try_lock(fd, fcntl.LOCK_EX):
                os.ftruncate(fd, 0)
                return fd
            time.sleep(0.01)  # somebody may have locked it just to ask, see `supervisor_pid`
    except OSError as error:
        os.close(fd)
        raise UserError(f"private cluster: {root}: can't lock a file here ({error.strerror})") from error
    os.close(fd)
    return None


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def supervisor_pid(root: Path) -> int | None:
    """Return the process id of the live supervisor in `root`: 0 while it starts, None if there is none."""
    fd = _open_lock(root)
    if fd is None:
        return None
    try:
        return None if _try_lock(fd, fcntl.LOCK_SH) else int(os.pread(fd, 20, 0) or 0)
    finally:
        os.close(fd)


def running(root: Path | None = None) -> Path | None:
    """Return the slurm.conf of the private cluster that is up in `root` (default: `default_root()`), or None."""
    root = root or default_root()
    if supervisor_pid(root) and (root / "cluster.json").exists():
        return root / "slurm.conf"
    return None

"""Staging: a copy of the data set on the node's own disk, for as long as the node's processes run.

Many processes that read the same files from a shared disk wait for each other ("Best Practice Guide - Deep Learning",
PRACE, 2019, input and output).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc_dl.data import prepare
from hpc_dl.errors import JobError, UserError
from hpc_dl.node.outcome import report_failure
from hpc_dl.runfolder.folder import Failure, RunFolder

_CHUNK = 2**20  # bytes
_ENDINGS = (signal.SIGTERM, signal.SIGUSR1)  # mpirun tells its ranks by SIGUSR1


@contextlib.contextmanager
def staged_data(run: RunFolder, node: str) -> Iterator[Path]:
    """Stage the data set of a job on this node, as `staged` does; a failure counts as a failure of the job.

    Raises:
        JobError: the data set could not be copied.
    """
    job, site = run.read_job(), run.read_site()
    with contextlib.ExitStack() as stack:
        try:
            data_dir, owner = Path(job.workdir, site.data), _owner(run, node)
            copy = stack.enter_context(staged(job.data, data_dir, site.local_disk, owner))
        except (JobError, UserError) as error:
            report_failure(run, Failure("stage", node, 1, time=time.time(), last_lines=(str(error),)))
            raise JobError(str(error)) from error
        yield copy


@contextlib.contextmanager
def staged(name: str, data_dir: Path, local_disk: str = "", owner: str = "") -> Iterator[Path]:
    """Copy a data set and yield the folder to read it from; the copy is removed at the end, also after a signal.

    Processes of one owner on one machine, such as MPI ranks, share a copy: the first one makes it, the last one removes
    it.

    Args:
        name: the data set. One without files is not copied; then `data_dir` is the folder to read from.
        data_dir: the folder of all data sets, on the shared disk.
        local_disk: the folder for the copy, with environment variables such as ``$USER``; empty: $TMPDIR or /tmp.
        owner: a name for the job on this node. Copies that a killed attempt of the job left are removed first.

    Raises:
        JobError: the local disk has no room or can't be written, or the copy differs from the source.
        UserError: see `hpc_dl.data.prepare`.
    """
    source = prepare(name, data_dir)
    if source is None:
        yield data_dir
        return
    for number in _ENDINGS:  # the launcher blocks them later, and waits for them itself
        signal.signal(number, _leave)
    disk = Path(os.path.expandvars(local_disk) or tempfile.gettempdir())

    def fill(copy: Path) -> None:
        _check_room(source, copy)
        target = copy / source.relative_to(data_dir)
        target.mkdir(parents=True)
        for file in sorted(source.iterdir()):
            _copy(file, target / file.name)

    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(_shared(disk, owner or os.urandom(16).hex(), fill))
        except OSError as error:
            raise JobError(f"stage: {error.filename or disk}: {error.strerror}") from error
        yield copy


@contextlib.contextmanager
def _shared(disk: Path, owner: str, fill: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a folder that all processes of an owner share. The first process fills it, and the last one removes it.

    Each process has a shared lock on a file beside the folder. The file holds the folder's path once it is filled.
    """
    lock = disk / f"hpc_dl-{owner}.lock"
    file, copy = -1, None
    try:
        while copy is None:
            if file >= 0:
                os.close(file)
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if os.fstat(file).st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "belongs to another user", str(lock))
            copy = _attach(file, disk, owner, fill)
        yield copy
    finally:
        # A second signal must not stop the removal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDINGS, signal.SIGINT})
        if file >= 0:
            _let_go(file, lock, owner)


def _attach(file: int, disk: Path, owner: str, fill: Callable[[Path], None]) -> Path | None:
    """Lock the file of a copy and return the copy; fill it if nobody uses it. None if it was just removed."""
    with contextlib.suppress(BlockingIOError):  # another process fills or uses it
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            _remove_copies(disk, owner)
            os.ftruncate(file, 0)
            fill(new := Path(tempfile.mkdtemp(prefix=f"hpc_dl-{owner}-", dir=disk)))
            os.pwrite(file, bytes(new), 0)
    # The file is unlocked for a moment between the two locks, so all is checked again.
    fcntl.flock(file, fcntl.LOCK_SH)
    found = Path(os.fsdecode(os.pread(file, 4096, 0)))
    return found if found.is_absolute() and found.is_dir() and os.fstat(file).st_nlink else None


def _let_go(file: int, lock: Path, owner: str) -> None:
    """Give up a lock; remove the copy if nobody else uses it."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            _remove_copies(lock.parent, owner)
            lock.unlink()
    os.close(file)


def _remove_copies(disk: Path, owner: str) -> None:
    for copy in disk.glob(f"hpc_dl-{owner}-*"):
        if copy.lstat().st_uid == os.getuid():
            shutil.rmtree(copy, ignore_errors=True)  # never through a link


def _owner(run: RunFolder, node: str) -> str:
    """Return a name for a job on a node. Job numbers are not unique: local runs are counted in each folder of runs."""
    return hashlib.sha256(f"{run.path.absolute()} {node}".encode()).hexdigest()[:16]


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _check_room(source: Path, copy: Path) -> None:
    needed = sum(file.stat().st_size for file in source.iterdir())
    free = shutil.disk_usage(copy).free
    if free < needed:
        raise JobError(f"stage: {copy.parent} has {free / 1e6:,.0f} MB free, the data set has {needed / 1e6:,.0f} MB")


def _copy(source: Path, target: Path) -> None:
    """Copy a file, then read the copy and compare its checksum with what was read from the source."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    copied = hashlib.sha256()
    with target.open("rb") as reader:
        while chunk := reader.read(_CHUNK):
            copied.update(chunk)
    if (copied.digest(), target.stat().st_size) != (digest.digest(), source.stat().st_size):
        raise JobError(f"stage: the copy {target} differs from {source}")

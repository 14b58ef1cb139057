"""Staging: a copy of the data set on the node's own disk, for as long as the node's processes run.

Many processes that read the same files from a shared disk wait for each other ("Best Practice Guide - Deep Learning",
PRACE, 2019, input and output).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_dl.data import prepare
from hpc_dl.errors import JobError, UserError
from hpc_dl.node.outcome import report_failure
from hpc_dl.runfolder.folder import Failure, RunFolder

_CHUNK = 2**20  # bytes


@contextlib.contextmanager
def staged_data(run: RunFolder, node: str) -> Iterator[Path]:
    """Stage the data set of a job on this node, as `staged` does; a failure counts as the job's.

    Raises:
        JobError: there is no copy.
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
    """Copy a data set and yield the folder to read it from; the copy goes in the end, also after SIGTERM.

    Args:
        name: of the data set; one that has no files is not copied, and `data_dir` is what to read from.
        data_dir: where it lies, on the shared disk.
        local_disk: where the copy goes, with environment variables such as ``$USER``; empty: $TMPDIR or /tmp.
        owner: of what job and node it is; what an earlier attempt of theirs has left, killed itself, goes first.

    Raises:
        JobError: the local disk has no room or can't be written, or the copy is not what was copied.
        UserError: see `hpc_dl.data.prepare`.
    """
    source = prepare(name, data_dir)
    if source is None:
        yield data_dir
        return
    signal.signal(signal.SIGTERM, _leave)  # the launcher blocks it later, and listens itself
    copy = None
    try:
        try:
            copy = _new_folder(Path(os.path.expandvars(local_disk) or tempfile.gettempdir()), owner)
            _check_room(source, copy)
            target = copy / source.relative_to(data_dir)
            target.mkdir(parents=True)
            for file in sorted(source.iterdir()):
                _copy(file, target / file.name)
        except OSError as error:
            raise JobError(
                f"stage: {error.filename or local_disk or tempfile.gettempdir()}: {error.strerror}"
            ) from error
        yield copy
    finally:
        # A second signal must not stop the removal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        if copy:
            shutil.rmtree(copy, ignore_errors=True)


def _owner(run: RunFolder, node: str) -> str:
    """Return a name for a job on a node; job numbers alone are not unique: those of local runs count in each folder."""
    return hashlib.sha256(f"{run.path.absolute()} {node}".encode()).hexdigest()[:16]


def _new_folder(parent: Path, owner: str) -> Path:
    prefix = f"hpc_dl-{owner}-"
    for old in parent.glob(f"{prefix}*") if owner else ():
        if old.lstat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)  # never through a link
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def _leave(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


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

"""A folder that is either complete or not there, however many processes make it at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hpc_dl.errors import UserError


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which only spares double work: the file system may have no locks."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_once(target: Path, complete: Callable[[Path], bool], build: Callable[[Path], None]) -> None:
    """Make the folder `target` unless it is complete: as a temporary folder beside it, which is renamed at the end.

    Args:
        target: the folder.
        complete: says cheaply whether an existing folder is whole.
        build: fills a new, empty folder, which is removed if it raises.

    Raises:
        UserError: the folder can't be written.
    """
    if complete(target):
        return
    temporary = target.parent / f".{target.name}-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / f".{target.name}.lock"):
            if complete(target):
                return
            temporary.mkdir()
            build(temporary)
            _replace(temporary, target, complete)
    except OSError as error:
        raise UserError(f"{error.filename or target}: can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, target: Path, complete: Callable[[Path], bool]) -> None:
    """Rename `temporary` to `target`. It replaces an incomplete folder; a complete one stays."""
    try:
        temporary.rename(target)
    except OSError:
        if complete(target):  # another process was faster, on a file system without locks
            return
        torn = temporary.with_name(f"{temporary.name}-torn")
        target.rename(torn)
        temporary.rename(target)
        shutil.rmtree(torn, ignore_errors=True)

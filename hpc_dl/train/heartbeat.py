"""Signs of life for the launcher, one a second, and the end of a process that makes no training step any more."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time

from hpc_dl.errors import LOST
from hpc_dl.processes import waits_for_disk

_PERIOD = 1.0  # seconds between two signs of life
# A process may make no step for this many hang timeouts, since it may wait for others. A peer that gives no sign of
# life is found first, after one. No intended wait, such as for a restart, takes as long as five.
_NO_STEP = 5
_LONGEST = 20  # a step may always take this many times as long as the process's longest step


class Heartbeat:
    """The heartbeat of this process.

    A thread counts the seconds itself, so that the time in which the process was suspended does not count.
    """

    def __init__(self) -> None:
        self._seconds = 0  # for which the thread has run
        self._since: int | None = None  # when the current step began; None: no step is being made
        self._pipe: int | None = None

    def start(self) -> None:
        """Give signs of life from now on, if a launcher listens."""
        if text := os.environ.get("HPC_DL_HEARTBEAT", ""):
            number, inode, timeout, *launcher = text.split(":")
            self._pipe = _pipe(int(number), int(inode), *launcher)
            threading.Thread(target=self._run, args=(float(timeout),), name="heartbeat", daemon=True).start()

    def step(self) -> None:
        """Note that a step begins."""
        self._since = self._seconds

    def rest(self) -> None:
        """Note that no step is being made: a checkpoint is written, or the training is over."""
        self._since = None

    def _run(self, timeout: float) -> None:
        longest, before, waited = 0, self._since, 0
        while True:
            time.sleep(_PERIOD)
            self._seconds += 1
            self._beat()
            since = self._since
            if since != before:
                longest, before = max(longest, waited), since
            waited = 0 if since is None else self._seconds - since
            if waited * _PERIOD > max(_NO_STEP * timeout, _LONGEST * longest * _PERIOD):
                if waits_for_disk(os.getpid()):
                    self.step()
                else:
                    _leave(waited * _PERIOD)

    def _beat(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the launcher is gone or hangs
                os.write(self._pipe, b".")


def _pipe(number: int, inode: int, launcher: str = "", there: str = "") -> int | None:
    """Return the pipe if it is open here. In a container, its number may belong to another file, or to none.

    Args:
        number: its number here, if this process has inherited it.
        inode: its inode.
        launcher: the process that listens; in a container, its number may belong to another process, or to none.
        there: the pipe's number in that process.
    """
    with contextlib.suppress(OSError):
        if os.fstat(number).st_ino == inode:
            return number
    with contextlib.suppress(OSError):
        pipe = f"/proc/{launcher}/fd/{there}"
        if os.stat(pipe).st_ino == inode:  # noqa: PTH116 - a link that leads to no path
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return None


def _leave(seconds: float) -> None:
    faulthandler.dump_traceback()
    print(f"error: no step for {seconds:g} s; above is where each thread was", file=sys.stderr, flush=True)
    os._exit(LOST)


heartbeat = Heartbeat()

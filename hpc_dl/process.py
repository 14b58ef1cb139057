"""Small things about Unix processes that several parts need."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Return a ``preexec_fn`` that makes the child get a signal when its parent dies (man prctl, PR_SET_PDEATHSIG).

    Nothing then outlives a launcher that is killed with SIGKILL. The libc is loaded here, before the fork.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before the call
            os._exit(128 + number)

    return ask


def start_time(pid: int) -> str:
    """Return when process `pid` started, in clock ticks since boot (man proc, stat); empty if there is none.

    Number and start time together name a process for good; a number alone is given out again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

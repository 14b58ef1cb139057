"""Small things about Unix processes that several parts need."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST = 5.0  # seconds for the guard to see that what it has killed is gone
_STEP = 2.0  # seconds that a time between two looks at an `AwakeClock` counts at most


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


# `python -m` puts the current folder first on the module path: a random.py there would be taken for Python's own. Its
# option -P, which leaves that out, came with Python 3.11.
_RUN_MODULE = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    'import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)'
)


def python_module(python: str) -> list[str]:
    """Return a command that runs the module that the next word names, without the current folder on its path."""
    return [python, "-c", _RUN_MODULE]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Make this process get a signal when the one that started it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number))


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, so that their end is seen here (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


class AwakeClock:
    """A clock that counts only while its process runs, so that nobody is blamed for a time in which all were suspended.

    Whoever measures with it looks at it each second: a longer time between two looks counts as `_STEP`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._last_look = time.monotonic()

    def now(self) -> float:
        """Return the seconds so far."""
        real = time.monotonic()
        self._now += min(real - self._last_look, _STEP)
        self._last_look = real
        return self._now


def waits_for_disk(pid: int) -> bool:
    """Return whether a thread of a process waits for a disk or a driver (state D, man proc).

    Such a process is not hung: it goes on when the file server is back, and no signal ends it before.
    """
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            if stat.read_bytes().rpartition(b")")[2].split()[0] == b"D":
                return True
    return False


class Guard:
    """A process that kills sessions when this one dies, however it dies, and kills this one when it hangs.

    PR_SET_PDEATHSIG reaches children only, not what they have started. Start it while there is one thread.

    Args:
        hang_timeout: seconds without `beat` after which this process counts as hung; 0: it never does.
        hung: called in the guard before it kills this process.
    """

    def __init__(self, hang_timeout: float = 0, hung: Callable[[], None] = lambda: None) -> None:
        read, self._write = os.pipe()
        guarded = os.getpid()
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            return
        try:
            os.close(self._write)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in range(3):  # else a reader of our output would wait for it
                os.dup2(nowhere, number)
            sessions = _listen(read, guarded, hang_timeout or math.inf, hung)
            deadline = time.monotonic() + _LAST
            # One that starts another just now is not alone at the next look.
            while sessions and time.monotonic() < deadline:
                sessions = kill_sessions(sessions)
                time.sleep(0.01 if sessions else 0)
        finally:
            os._exit(0)

    def add(self, session: int) -> None:
        """Kill this session at our death."""
        self._tell(b"+%d\n" % session)

    def drop(self, session: int) -> None:
        """Forget a session: nobody is in it, and its number may be given out again."""
        self._tell(b"-%d\n" % session)

    def beat(self) -> None:
        """Say that this process goes on; to be called each second."""
        if select.select([], [self._write], [], 0)[1]:  # a guard that hangs itself must not stop us
            self._tell(b".\n")

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # killed itself: what it guards goes on
            os.write(self._write, line)

    def close(self) -> None:
        """End the guard; it kills what was added and not dropped."""
        os.close(self._write)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _listen(pipe: int, guarded: int, hang_timeout: float, hung: Callable[[], None]) -> set[int]:
    """Listen to the guarded process until it is dead, or hangs and is killed; return the sessions that it has left."""
    sessions: set[int] = set()
    clock, rest = AwakeClock(), b""
    heard = clock.now()
    while True:
        now = clock.now()
        if select.select([pipe], [], [], 1.0)[0]:
            if not (data := os.read(pipe, 1 << 16)):
                return sessions
            heard = now
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line != b".":
                    (sessions.add if line[:1] == b"+" else sessions.discard)(int(line[1:]))
        elif now - heard > hang_timeout:
            if waits_for_disk(guarded):
                heard = now
                continue
            with contextlib.suppress(Exception):
                hung()
            os.kill(guarded, signal.SIGKILL)
            return sessions


def next_signal(numbers: Collection[signal.Signals], timeout: float) -> int:
    """Wait for one of some blocked signals and return its number; 0 if none came in time (seconds).

    Where SIGCONT ends the wait and the time is over, CPython returns a siginfo that nobody has filled.
    """
    found = signal.sigtimedwait(numbers, timeout)
    return found.si_signo if found is not None and found.si_signo in numbers else 0


def kill_group(group: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal to a process group; return whether there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_sessions(sessions: Collection[int], number: int = signal.SIGKILL) -> set[int]:
    """Send a signal to all process groups of sessions; return the sessions that had someone, zombies aside.

    A shell with job control, and timeout, make groups of their own; few programs leave their session.
    """
    groups: set[int] = set()
    found: set[int] = set()
    for entry in os.scandir("/proc") if sessions else ():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group, session = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(session) in sessions:
            groups.add(int(group))
            if state not in (b"Z", b"X"):
                found.add(int(session))
    for one in groups:
        kill_group(one, number)
    return found


def sessions_left(sessions: Collection[int], others: Collection[int] = ()) -> set[int]:
    """Return the sessions that have someone, where this process adopts the orphans of their leaders, which have ended.

    It is far cheaper than a look at all processes: who is left there has an ancestor that is our child now.

    Args:
        sessions: which to look at.
        others: children of ours that are not in them.
    """
    try:
        children = _children()
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return kill_sessions(sessions, 0)
    return {os.getsid(child) for child in children.difference(others)} & set(sessions)


def kill_orphans(but: int) -> None:
    """Kill what is left of all that this process has started, for some seconds; it adopts the orphans of its children.

    What has made a session of its own is left when its own parent has ended long ago.

    Args:
        but: a child that is spared.
    """
    deadline = time.monotonic() + _LAST
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
        # Their own children come to us when they are dead.
        while (left := _children() - {but}) and time.monotonic() < deadline:
            for child in left:
                os.kill(child, signal.SIGKILL)
            for child in left:
                os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)


def _children() -> set[int]:
    file, found = _children_file(os.getpid()), b""
    while part := os.pread(file, 1 << 16, len(found)):
        found += part
    return set(map(int, found.split()))


@functools.cache  # to open it takes ten times as long as to read it
def _children_file(pid: int) -> int:
    return os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY)


def start_time(pid: int) -> str:
    """Return when process `pid` started, in clock ticks since boot (man proc, stat); empty if there is none.

    Number and start time together name a process for good; a number alone is given out again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

"""Helpers for Unix processes, signals and sessions."""

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
_LAST = 5.0  # seconds in which killed processes should be gone
_STEP = 2.0  # the most seconds that an `AwakeClock` counts between two calls


def die_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Return a ``preexec_fn`` that makes the child get a signal when its parent dies (man prctl, PR_SET_PDEATHSIG).

    So no child outlives a launcher that dies of SIGKILL. libc is loaded here, before the fork.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # the parent died before the call
            os._exit(128 + number)

    return ask


# `python -m` puts the current folder first on the module path, so a random.py there would hide Python's own. Option -P
# prevents that, but came with Python 3.11.
_RUN_MODULE = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    'import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)'
)


def python_module(python: str) -> list[str]:
    """Return a command that runs a module without the current folder on its path; the module's name must follow."""
    return [python, "-c", _RUN_MODULE]


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Make this process get a signal when its parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number))


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that this process sees them end (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


class AwakeClock:
    """A clock that stands still while its process is suspended, so that a suspension is not taken for a hang.

    Call `now` each second: a longer time between two calls counts as `_STEP`.
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

    Such a process is not hung: it goes on when the file server is back, and no signal ends it before that.
    """
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            if stat.read_bytes().rpartition(b")")[2].split()[0] == b"D":
                return True
    return False


class Guard:
    """A process that kills sessions when this process dies, however it dies, and kills this process when it hangs.

    PR_SET_PDEATHSIG reaches only children, not their children. Create a guard while this process has one thread.

    Args:
        hang_timeout: seconds without `beat` after which this process counts as hung; 0: it never does.
        hung: called in the guard before it kills this process.
        mark: kill the processes with this mark too; see `kill_marked`.
    """

    def __init__(self, hang_timeout: float = 0, hung: Callable[[], None] = lambda: None, mark: str = "") -> None:
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
            for number in range(3):  # else a reader of our output would wait for the guard
                os.dup2(nowhere, number)
            sessions = _listen(read, guarded, hang_timeout or math.inf, hung)
            deadline = time.monotonic() + _LAST
            # A process may fork just before it is killed, so look again.
            marked = {0} if mark else set[int]()
            while (sessions or marked) and time.monotonic() < deadline:
                marked = kill_marked(mark) if mark else marked
                sessions = kill_sessions(sessions)
                time.sleep(0.01 if sessions or marked else 0)
        finally:
            os._exit(0)

    def add(self, session: int) -> None:
        """Have the guard kill a session when this process dies."""
        self._tell(b"+%d\n" % session)

    def only(self, sessions: Collection[int]) -> None:
        """Forget all sessions but these."""
        self._tell(b"=0\n" + b"".join(b"+%d\n" % session for session in sessions))

    def drop(self, session: int) -> None:
        """Forget a session: it is empty, and its number may be reused."""
        self._tell(b"-%d\n" % session)

    def beat(self) -> None:
        """Tell the guard that this process is alive; call this each second."""
        if select.select([], [self._write], [], 0)[1]:  # a guard that hangs must not block us
            self._tell(b".\n")

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the guard was killed: this process goes on
            os.write(self._write, line)

    def close(self) -> None:
        """End the guard. It kills the sessions that were added and not dropped."""
        os.close(self._write)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _listen(pipe: int, guarded: int, hang_timeout: float, hung: Callable[[], None]) -> set[int]:
    """Listen to the guarded process until it dies, or kill it when it hangs; return the sessions to kill."""
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
                if line[:1] == b"=":
                    sessions.clear()
                elif line != b".":
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
    """Wait for one of several blocked signals and return its number; 0 if none came within `timeout` seconds.

    If SIGCONT ends the wait and the time is over, CPython returns a siginfo without content.
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
    """Send a signal to all process groups of sessions; return the sessions that had processes other than zombies.

    Shells with job control and timeout(1) make groups of their own; few programs leave their session.
    """
    groups: set[int] = set()
    found: set[int] = set()
    for entry in os.scandir("/proc") if sessions else ():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group, session = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()[:4]
        except OSError:  # the process has just ended
            continue
        if int(session) in sessions:
            groups.add(int(group))
            if state not in (b"Z", b"X"):
                found.add(int(session))
    for one in groups:
        kill_group(one, number)
    return found


def kill_marked(mark: str, number: int = signal.SIGKILL) -> set[int]:
    """Send a signal to all processes in whose environment `mark` stands, ``NAME=value``; return them.

    It finds what another parent has started for us on this machine, such as Slurm's daemon or that of a container.
    """
    found: set[int] = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended, or is another user's
                if f"\0{mark}".encode() in b"\0" + Path(entry.path, "environ").read_bytes():
                    os.kill(int(entry.name), number)
                    found.add(int(entry.name))
    return found


def sessions_left(sessions: Collection[int], others: Collection[int] = ()) -> set[int]:
    """Return the sessions that still have processes. Their leaders have ended, and this process adopts orphans.

    Each process that is left has an ancestor that is our child now. To look at our children only is far cheaper than to
    look at all processes.

    Args:
        sessions: the sessions to look at.
        others: children of this process that are not in these sessions.
    """
    try:
        children = _children()
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return kill_sessions(sessions, 0)
    return {os.getsid(child) for child in children.difference(others)} & set(sessions)


def kill_orphans(but: int = 0) -> None:
    """Kill all descendants of this process, for some seconds. This process adopts the orphans of its children.

    This reaches a daemon too, which has left its session and lost its parent.

    Args:
        but: a child that is spared; 0: none is.
    """
    deadline = time.monotonic() + _LAST
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
        # When they are dead, their children become ours.
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

    A process number is reused; number and start time together are unique.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

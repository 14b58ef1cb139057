"""Is the other process still there? Asked over TCP, since TensorFlow may wait for ever for a lost one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from hpc_dl.errors import LOST
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.tf_config import CHIEF

PERIOD = 1.0  # seconds between two looks
_TIMEOUT = 1.0  # seconds for an answer
_AT_ONCE = 32  # processes that are asked at the same time
GONE = 12.0  # seconds of silence after which a process is gone: its node may be slow
REFUSED = 3.0  # seconds of refusals after which it is: its node answers, and says that nobody listens
UNKNOWN = 30.0  # seconds after which a name that does not resolve is wrong: a name server may be away for a while
_SAY = 10.0  # seconds of waiting for a start before it is said; then after twice as long each time


def problem(address: str) -> OSError | None:
    """Return why nobody can be reached at ``host:port``; None if something listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except OSError as error:
        return error
    return None


class Peers:
    """Some of the other processes, and which of them are gone.

    Args:
        addresses: by task name, such as ``worker-3``.
        attempt: knows what launchers say of them, which counts at once.
        start: seconds in which each must have answered once.
        away: seconds that each may be away afterwards, since it is started again; None: nobody starts it again.
    """

    def __init__(self, addresses: Mapping[str, str], attempt: Attempt, start: float, away: float | None) -> None:
        self.addresses, self._attempt, self._away = addresses, attempt, away
        self._limit = dict.fromkeys(addresses, start)
        self._silent_since = dict.fromkeys(addresses, time.monotonic())
        self._problems: dict[str, OSError] = {}
        self._missing = set(addresses)  # those that have never answered
        self._ended: set[str] = set()
        self._next_look = 0.0
        self._begun, self._say_after = time.monotonic(), _SAY
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    @property
    def silent(self) -> bool:
        """Whether none has answered at the last look."""
        return len(self._silent_since) == len(self.addresses)

    def look(self) -> None:
        """Ask all of them, if the last look was some time ago; the run folder is read for those that don't answer."""
        if time.monotonic() < self._next_look:
            return
        found = self._pool.map(problem, self.addresses.values())
        for task, why in zip(self.addresses, found, strict=True):
            if why is None:
                self._silent_since.pop(task, None)
                self._missing.discard(task)
                self._ended.discard(task)
                self._limit[task] = GONE if self._away is None else self._away
                continue
            self._problems[task] = why
            self._silent_since.setdefault(task, time.monotonic())
            if isinstance(why, ConnectionRefusedError) and self._away is None and self._limit[task] == GONE:
                self._limit[task] = REFUSED
            if task in self._missing and isinstance(why, socket.gaierror) and why.errno == socket.EAI_NONAME:
                self._limit[task] = min(self._limit[task], UNKNOWN)
            if self._attempt.done(task) or self._attempt.given_up(task):
                self._ended.add(task)
        self._say_who_is_missing()
        self._next_look = time.monotonic() + PERIOD

    def gone(self) -> set[str]:
        """Return the tasks that have ended, were given up, or have not answered for too long."""
        now = time.monotonic()
        return self._ended | {task for task, since in self._silent_since.items() if now - since > self._limit[task]}

    def describe(self, task: str) -> str:
        """Return who does not answer, where, for how long and why."""
        who = f"{task.replace('-', ' ')} ({self.addresses[task]})"
        if self._attempt.given_up(task):
            return f"{who} was given up"
        seconds = time.monotonic() - self._silent_since.get(task, time.monotonic())
        why = self._problems.get(task)
        return f"{who} has not answered for {seconds:.0f} s" + (f": {why.strerror or why}" if why else "")

    def _say_who_is_missing(self) -> None:
        if not self._missing or time.monotonic() - self._begun < self._say_after:
            return
        self._say_after *= 2
        first, *others = [task for task in self.addresses if task in self._missing]
        more = f"; {len(others)} more missing" if others else ""
        print(f"waiting: {self.describe(first)}{more}", file=sys.stderr, flush=True)


class Watch:
    """Ends this process, with a clear last line, when peers are gone without which it can't go on.

    Args:
        attempt: the attempt of this process.
        groups: each a number of peers, and how many of them may be gone.
    """

    def __init__(self, attempt: Attempt, *groups: tuple[Peers, int]) -> None:
        self._attempt, self._groups = attempt, groups
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="watch-peers", daemon=True).start()

    def end(self) -> None:
        """Stop watching: from now on peers may leave."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.is_set():
            for peers, spare in self._groups:
                peers.look()
                gone = sorted(peers.gone())
                if self._ended.is_set():
                    return
                if peers.silent and self._attempt.done(CHIEF):
                    # A worker that was killed near the end and started again has nobody to train with.
                    _leave(0, ["the chief has ended the training"])
                if len(gone) > spare:
                    _leave(LOST, [f"error: {peers.describe(task)}" for task in gone])
            self._ended.wait(PERIOD)


@contextlib.contextmanager
def waiting(what: str, timeout: float) -> Iterator[None]:
    """Say now and then what this process waits for inside the block, and end the process when it takes too long.

    What TensorFlow and MPI wait in can't be interrupted.

    Args:
        what: whom it waits for, and what for.
        timeout: seconds.
    """
    over = threading.Event()

    def watch() -> None:
        begun, pause = time.monotonic(), _SAY
        while not over.wait(max(0.0, min(pause, begun + timeout - time.monotonic()))):
            if (waited := time.monotonic() - begun) >= timeout:
                _leave(LOST, [f"error: waited {timeout:g} s for {what}"])
            print(f"waiting: {waited:.0f} s so far for {what}", file=sys.stderr, flush=True)
            pause *= 2

    threading.Thread(target=watch, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _leave(code: int, lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    os._exit(code)

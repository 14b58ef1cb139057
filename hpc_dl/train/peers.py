"""Checks over TCP whether other processes still run, since TensorFlow may wait for ever for a lost one."""

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
GONE = 12.0  # seconds without an answer after which a process is gone; a slow node may take some
REFUSED = 3.0  # seconds of refused connections after which a process is gone: its node is up, but nothing listens
UNKNOWN = 30.0  # seconds after which a name that does not resolve is wrong; a name server may be away for a while
_SAY = 10.0  # seconds of waiting until the first message; the interval doubles with each message


def problem(address: str) -> OSError | None:
    """Return why ``host:port`` can't be reached, or None if a process listens there."""
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
        attempt: knows which peers have ended or were given up, as launchers record it. These are gone at once.
        start: seconds in which each peer must answer for the first time.
        away: seconds for which a peer may be away afterwards, while it is restarted. None: peers are not restarted.
    """

    def __init__(self, addresses: Mapping[str, str], attempt: Attempt, start: float, away: float | None) -> None:
        self.addresses, self._attempt, self._away = addresses, attempt, away
        self._limit = dict.fromkeys(addresses, start)
        self._silent_since = dict.fromkeys(addresses, time.monotonic())
        self._problems: dict[str, OSError] = {}
        self._missing = set(addresses)  # peers that have never answered
        self._ended: set[str] = set()
        self._next_look = 0.0
        self._begun, self._say_after = time.monotonic(), _SAY
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    @property
    def silent(self) -> bool:
        """Whether no peer answered at the last look."""
        return len(self._silent_since) == len(self.addresses)

    def look(self) -> None:
        """Ask all peers, unless the last look was a moment ago. For silent ones, look into the run folder too."""
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
    """Ends this process, with a clear last line, when it can't go on without the peers that are gone.

    Args:
        attempt: the attempt of this process.
        groups: peers, and how many of the group may be gone.
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
                    # A worker that was restarted near the end of the training has nobody to train with.
                    _leave(0, ["the chief has ended the training"])
                if len(gone) > spare:
                    _leave(LOST, [f"error: {peers.describe(task)}" for task in gone])
            self._ended.wait(PERIOD)


@contextlib.contextmanager
def waiting(what: str, timeout: float) -> Iterator[None]:
    """Print now and then what the block waits for, and end the process when it has waited for too long.

    A wait inside TensorFlow or MPI can't be interrupted.

    Args:
        what: what the process waits for.
        timeout: seconds after which the process ends.
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

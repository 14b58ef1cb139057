"""Is the other process still there? Asked over TCP, since TensorFlow may wait for ever for a lost one."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping

from hpc_dl.errors import LOST
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.tf_config import CHIEF

PERIOD = 1.0  # seconds between two looks
_TIMEOUT = 1.0  # seconds for an answer
GONE = 12.0  # seconds of silence after which a process is gone: its node may be slow
REFUSED = 3.0  # seconds of refusals after which it is: its node answers, and says that nobody listens


def answers(address: str) -> bool | None:
    """Say whether something listens at ``host:port``; None if its node says nothing."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


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
        self._ended: set[str] = set()
        self._next_look = 0.0

    @property
    def silent(self) -> bool:
        """Whether none has answered at the last look."""
        return len(self._silent_since) == len(self.addresses)

    def look(self) -> None:
        """Ask all of them, if the last look was some time ago; the run folder is read for those that don't answer."""
        if time.monotonic() < self._next_look:
            return
        for task, address in self.addresses.items():
            answer = answers(address)
            if answer:
                self._silent_since.pop(task, None)
                self._ended.discard(task)
                self._limit[task] = GONE if self._away is None else self._away
                continue
            self._silent_since.setdefault(task, time.monotonic())
            if answer is False and self._away is None and self._limit[task] == GONE:
                self._limit[task] = REFUSED
            if self._attempt.done(task) or self._attempt.given_up(task):
                self._ended.add(task)
        self._next_look = time.monotonic() + PERIOD

    def gone(self) -> set[str]:
        """Return the tasks that have ended, were given up, or have not answered for too long."""
        now = time.monotonic()
        return self._ended | {task for task, since in self._silent_since.items() if now - since > self._limit[task]}


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
                    self._leave(0, ["the chief has ended the training"])
                if len(gone) > spare:
                    self._leave(LOST, [f"error: {self._describe(peers, task)}" for task in gone])
            self._ended.wait(PERIOD)

    def _describe(self, peers: Peers, task: str) -> str:
        told = "was given up" if self._attempt.given_up(task) else "does not answer"
        return f"{task.replace('-', ' ')} ({peers.addresses[task]}) {told}"

    @staticmethod
    def _leave(code: int, lines: list[str]) -> None:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
        os._exit(code)

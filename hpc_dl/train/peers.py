"""Is the other process still there? Asked over TCP, since TensorFlow may wait for ever for a lost one."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

PERIOD = 1.0  # seconds between two looks
GONE = 12.0  # seconds without an answer after which a peer counts as gone


def reachable(address: str) -> bool:
    """Say whether something listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PERIOD).close()
    except OSError:
        return False
    return True


class Watch:
    """Ends this process, with a clear last line, when peers are gone without which it can't go on."""

    def __init__(self, peers: dict[str, str], start_timeout: float, spare: int = 0) -> None:
        """Watch from now on.

        Args:
            peers: address by name.
            start_timeout: seconds in which each must have answered once.
            spare: how many may be gone.
        """
        self._peers, self._spare = peers, spare
        self._limit = dict.fromkeys(peers, start_timeout)
        self._seen = dict.fromkeys(peers, time.monotonic())
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="watch-peers", daemon=True).start()

    def end(self) -> None:
        """Stop watching: from now on peers may leave."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.is_set():
            for name in filter(lambda name: reachable(self._peers[name]), self._peers):
                self._seen[name], self._limit[name] = time.monotonic(), GONE
            gone = [name for name in self._peers if time.monotonic() - self._seen[name] > self._limit[name]]
            if len(gone) > self._spare and not self._ended.is_set():
                for name in gone:
                    print(f"error: {name} ({self._peers[name]}) does not answer", file=sys.stderr, flush=True)
                os._exit(1)
            self._ended.wait(PERIOD)

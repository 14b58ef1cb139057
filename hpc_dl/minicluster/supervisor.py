"""The process that starts the daemons of a private cluster, watches them, and leaves nothing behind.

Its orders (`Orders`) come as JSON on stdin. It writes "ready" to stdout when all daemons are up. It is two processes:

    guard ── worker ── daemons ── job steps, tasks

Slurm's job steps leave their parents on purpose. Both processes adopt orphans, and kill all their descendants before
they end. If the worker is killed, its descendants fall to the guard; if the guard is killed, the kernel sends the
worker SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from hpc_dl.processes import adopt_orphans, end_with_parent, kill_orphans

_PAUSE, _RESUME = signal.SIGUSR1, signal.SIGUSR2  # end the daemons that can be started again; start them again
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, _PAUSE, _RESUME)
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL for a daemon
_GIVE_UP = 10.0  # seconds to wait for a daemon's end
_POLL = 0.005


class Daemon(TypedDict):
    """A daemon. It is up when its `socket` exists or its `port` answers; if it has neither, nobody waits for it.

    When an `essential` daemon ends, the cluster ends. The others are nodes, whose loss Slurm has to bear. `again` is
    the command that starts it again with its saved state; empty for a daemon that is never started again.
    """

    name: str
    command: list[str]
    again: list[str]
    socket: str
    port: int
    essential: bool


class Orders(TypedDict):
    """What the supervisor is to do. It starts the daemons in this order and ends them in the opposite order.

    `lock` is the descriptor of the locked file, which gets our process id. `tied` says whether we end with the process
    that started us. The folder `log` gets the daemons' outputs.
    """

    lock: int
    tied: bool
    log: str
    timeout: float
    daemons: list[Daemon]


def _prepare_daemon() -> None:
    """Run in the new process before the daemon's program."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _reap() -> Iterable[tuple[int, int]]:
    """Yield process id and exit code of each child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class _Worker:
    """Starts, watches and ends the daemons."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._paused: set[str] = set()

    def run(self) -> int:
        started = all(self._start(daemon) for daemon in self._orders["daemons"])
        if started:
            os.write(1, b"ready\n")
            self._watch()
        self._end()
        return 0 if started else 1

    def _start(self, daemon: Daemon, command: Sequence[str] = ()) -> bool:
        """Start a daemon, with its own command or another; return whether it came up."""
        with Path(self._orders["log"], f"{daemon['name']}.out").open("ab") as out:
            process = self._running[daemon["name"]] = subprocess.Popen(
                command or daemon["command"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_prepare_daemon,  # safe: there is one thread
            )
        deadline = time.monotonic() + self._orders["timeout"]
        while not _up(daemon):
            if process.poll() is not None:
                del self._running[daemon["name"]]
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def _watch(self) -> None:
        """Wait for a signal to stop, or for the end of an essential daemon."""
        essential = {daemon["name"] for daemon in self._orders["daemons"] if daemon["essential"]}
        while essential <= self._running.keys() | self._paused:
            number = signal.sigwait(_SIGNALS)
            if number == _PAUSE:
                self._pause()
            elif number == _RESUME:
                self._resume()
            elif number == signal.SIGCHLD:
                self._note_ended()
            else:
                return

    def _pause(self) -> None:
        self._paused = {daemon["name"] for daemon in self._orders["daemons"] if daemon["again"]}
        self._terminate(self._paused)

    def _resume(self) -> None:
        for daemon in self._orders["daemons"]:
            if daemon["name"] in self._paused:
                self._start(daemon, daemon["again"])
        self._paused = set()

    def _note_ended(self) -> None:
        for pid, code in _reap():
            for name, process in list(self._running.items()):
                if process.pid == pid:
                    process.returncode = code
                    del self._running[name]
                    print(f"{name} has ended: exit code {code}", file=sys.stderr, flush=True)

    def _end(self) -> None:
        """End the nodes together, then the others one by one in the opposite order, then all that is left."""
        order = list(reversed(self._orders["daemons"]))
        self._terminate([daemon["name"] for daemon in order if not daemon["essential"]])
        for daemon in order:
            self._terminate([daemon["name"]])
        kill_orphans()

    def _terminate(self, names: Iterable[str]) -> None:
        pids = {name: self._running[name].pid for name in names if name in self._running}
        start = time.monotonic()
        _send(pids.values(), signal.SIGTERM)
        while pids.keys() & self._running.keys() and (waited := time.monotonic() - start) < _GIVE_UP:
            if waited > _GRACE:
                _send((pids[name] for name in pids.keys() & self._running.keys()), signal.SIGKILL)
            time.sleep(_POLL)
            self._note_ended()


def _up(daemon: Daemon) -> bool:
    """Return whether a daemon is up. Later ones wait: slurmd loses a second without slurmctld, and both need munged."""
    try:
        if daemon["socket"]:
            return Path(daemon["socket"]).is_socket()
        if daemon["port"]:
            socket.create_connection(("127.0.0.1", daemon["port"]), timeout=1).close()
        return True
    except OSError:
        return False


def _guard(worker: int) -> int:
    """Wait for the worker's end, and pass signals on to it. Then end what it has left. Return its exit code."""
    code: int | None = None
    while code is None:
        number = signal.sigwait(_SIGNALS)
        if number != signal.SIGCHLD:
            _send([worker], signal.Signals(number) if number in (_PAUSE, _RESUME) else signal.SIGTERM)
        code = dict(_reap()).get(worker)
    kill_orphans()
    return code


def _silence() -> None:
    """Let go of the pipe to the process that started us."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def main() -> int:
    """Run the cluster until its end; return 0 if it had come up."""
    orders: Orders = json.load(sys.stdin)
    parent = os.getppid()
    if orders["tied"]:
        end_with_parent()
    # The lock must end with us and our worker, not with the daemons: they don't inherit the file.
    os.set_inheritable(orders["lock"], False)
    os.pwrite(orders["lock"], str(os.getpid()).encode(), 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    adopt_orphans()
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        return _protected(guard, _Worker(orders).run)
    _silence()
    if orders["tied"] and os.getppid() != parent:
        _send([worker], signal.SIGTERM)  # the parent died before we asked for the signal
    return _guard(worker)


def _protected(guard: int, run: Callable[[], int]) -> int:
    """Run the worker's part as child of the guard."""
    end_with_parent()
    adopt_orphans()  # a child does not inherit it
    if os.getppid() != guard:
        return 1  # the guard died before we asked for the signal
    return run()


if __name__ == "__main__":
    sys.exit(main())

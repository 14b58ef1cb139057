"""Agent: starts tasks on one node as the runner orders, watches their time, ends them, writes down how they ended.

It reads `Begin`, `Order` and `Stop` on stdin and says `Hello`, `Ready`, `Ended` and `Stuck` on stdout. When the runner
is gone it ends its tasks and goes too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

from hpc_dl.disk import FORBIDDEN, PATIENCE, TROUBLE
from hpc_dl.errors import DISK, DiskError
from hpc_dl.machine import local_gpus, visible_gpus
from hpc_dl.processes import Guard, adopt_orphans, kill_group, kill_orphans, kill_sessions, sessions_left
from hpc_dl.tasks.messages import Begin, Ended, Hello, Order, Ready, Stuck, decode_order, encode
from hpc_dl.tasks.node_agent.environment import Environment
from hpc_dl.tasks.node_agent.journal_file import Appender
from hpc_dl.tasks.records import lock

_SYNC = 1.0  # seconds between two fsync of the journal: a crash of the machine loses no more than that
_UNKILLABLE = 5.0  # seconds of SIGKILL after which a task is over, whoever is left of it
_MIB = 1024 * 1024
# Seconds in which an agent does nothing after which its guard kills it, and the runner has lost it.
_HANG_TIMEOUT = 120.0
_BEAT = 1.0  # seconds between two signs of life


class _Running:
    """A task that runs: its order, when it started and when it is to be ended."""

    def __init__(self, order: Order, started: float) -> None:
        self.order = order
        self.started = started
        self.deadline = time.monotonic() + order.time if order.time else None
        self.reason = ""
        self.stopped = False
        self.killed_at: float | None = None
        self.status = 0
        self.usage: resource.struct_rusage | None = None  # set once its own process has ended

    @property
    def told(self) -> bool:
        """Return whether it was told to end."""
        return self.stopped or bool(self.reason)

    @property
    def on_its_own(self) -> bool:
        """Return whether its own process has ended before it was told to."""
        return self.usage is not None and not self.told


class Agent:
    """The tasks of one node.

    Args:
        node: its name.
        folder: the records folder; outputs go to ``output/NUMBER.out``, ends to ``NODE.jsonl``.
        grace: seconds between SIGTERM and SIGKILL for a task whose time is up, or whose runner is gone.
        step: it is a Slurm step of the job whose nodes are given out.
    """

    def __init__(self, node: str, folder: Path, grace: float, step: bool) -> None:
        self._node = node
        self._step = step
        self._grace = grace
        self._output = f"{folder}/output/"
        self._journal = Appender(folder / f"{node}.jsonl", again=True)
        self._next: float | None = None  # when to look after the journal and what the disk has delayed
        self._delayed: list[tuple[float, Order]] = []  # since when, and what to start
        self._stuck = ""
        self._next_beat = 0.0
        self._home = str(Path.cwd())
        self._cores = os.sched_getaffinity(0)
        self._environment = Environment(folder, os.environ, step)
        self._running: dict[int, _Running] = {}
        self._stopping = False
        self._ended: set[int] = set()  # of those that run: their own process is gone, not all that it started
        adopt_orphans()
        self._guard = Guard(_HANG_TIMEOUT)
        self._wake, write = os.pipe()
        for end in (self._wake, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)

    def serve(self) -> None:
        """Work until the runner closes our stdin; then end what still runs."""
        gpus = visible_gpus(os.environ) if self._step else local_gpus()
        self._say(encode(Hello(self._node, tuple(sorted(self._cores)), gpus, _total_memory())) + b"\n")
        rest = b""
        inputs = [0, self._wake]
        while self._running or 0 in inputs:
            ready, _, _ = select.select(inputs, [], [], self._timeout())
            self._beat()
            if self._wake in ready and _ends(os.read(self._wake, 4096)):
                self._stop(self._grace)
            self._reap()
            self._end_late()
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    inputs.remove(0)
                    self._stop(self._grace)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    order = decode_order(line)
                    if isinstance(order, Order):
                        self._start(order)
                    elif isinstance(order, Begin):
                        self._begin()
                    else:
                        self._stop(order.grace, order.task)
            self._look_after()
        self._end()
        kill_orphans(but=self._guard.pid)
        self._guard.close()

    def _begin(self) -> None:
        try:
            self._journal.open()
        except OSError as error:  # the runner says that no agent came up here
            print(f"hpc-dl: {self._journal.path}: {error.strerror}", file=sys.stderr, flush=True)
            sys.exit(DISK)
        lock(self._journal.file, wait=True)  # who resumes waits for this agent's end
        self._say(encode(Ready(self._node)) + b"\n")

    def _timeout(self) -> float:
        times = [one.deadline for one in self._running.values() if one.deadline is not None]
        times += [self._next_beat, *([self._next] if self._next is not None else [])]
        return max(0.0, min(times) - time.monotonic())

    def _beat(self) -> None:
        """Tell the guard that this agent does not hang."""
        if (now := time.monotonic()) >= self._next_beat:
            self._guard.beat()
            self._next_beat = now + _BEAT

    def _start(self, order: Order, since: float | None = None) -> None:
        started = time.time()
        if self._stopping:
            self._note_stopped(order)
            return
        output = f"{self._output}{order.task}.out"
        opened = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        entered = False
        try:
            # The child has our folder and our cores at its start.
            if order.workdir:
                os.chdir(os.path.expanduser(os.path.expandvars(order.workdir)))  # noqa: PTH111 - text, not a path
            entered = True
            if order.bind:
                os.sched_setaffinity(0, order.shares[0].cores)
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", order.command],
                self._environment.of(order),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, output, opened, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            if entered and error.errno in TROUBLE and error.errno not in FORBIDDEN:
                self._delay(order, time.monotonic() if since is None else since, f"{output}: {error.strerror}")
                return
            reason = f"could not start: {error.filename or output}: {error.strerror}"
            code = 127 if isinstance(error, FileNotFoundError) else 126
            with contextlib.suppress(OSError):
                Path(output).write_text(f"hpc-dl: {reason}\n")
            self._note(
                Ended(order.task, order.key, order.attempt, self._node, started, time.time(), code, reason=reason)
            )
            return
        finally:
            if order.workdir:
                os.chdir(self._home)
            if order.bind:
                os.sched_setaffinity(0, self._cores)
        self._guard.add(pid)
        self._running[pid] = _Running(order, started)

    def _reap(self) -> None:
        """Take note of every process that has ended, our own and the orphans that they left."""
        with contextlib.suppress(ChildProcessError):  # not even the guard
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._wait_for(found.si_pid)
        if not self._ended:
            return
        left = sessions_left(self._ended, self._running)
        for pid in self._ended - left:
            self._finish(pid)
        self._ended = left
        # One that was told to end has the grace for all that it started.
        kill_sessions({pid for pid in left if self._running[pid].on_its_own})

    def _wait_for(self, pid: int) -> None:
        one = self._running.get(pid)
        if one is not None and not one.told:
            # What a task leaves behind would use the cores and GPUs of the next one. Its number is still taken now.
            kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        if one is not None:
            one.status, one.usage = status, usage
            self._ended.add(pid)
            if one.on_its_own:
                one.deadline = one.killed_at = time.monotonic()

    def _finish(self, pid: int) -> None:
        """Give the slots of a task back: nobody is left of it."""
        one = self._running.pop(pid)
        assert one.usage is not None  # noqa: S101 - for mypy
        self._guard.drop(pid)
        with contextlib.suppress(OSError):  # of a disk that is away
            self._environment.end_steps(one.order.task)
        code = os.waitstatus_to_exitcode(one.status)
        order = one.order
        memory = one.usage.ru_maxrss // 1024
        self._note(
            Ended(
                order.task,
                order.key,
                order.attempt,
                self._node,
                one.started,
                time.time(),
                code if code >= 0 else 128 - code,
                -code if code < 0 else 0,
                one.reason,
                one.stopped,
                order.shares,
                round(one.usage.ru_utime + one.usage.ru_stime, 6),
                # A child never seems smaller than the process that it was copied from.
                memory if memory > _peak_memory() else 0,
            )
        )

    def _end_late(self) -> None:
        """End the tasks whose time is up: first with SIGTERM, after the grace time with SIGKILL."""
        now = time.monotonic()
        late = {pid for pid, one in self._running.items() if one.deadline is not None and one.deadline <= now}
        told = {pid for pid in late if self._running[pid].told or self._running[pid].usage is not None}
        for pid in late:
            one = self._running[pid]
            if pid not in told:
                one.reason = f"was ended after its time limit of {one.order.time} s"
            one.deadline = now + (1 if pid in told else self._grace)
        kill_sessions(told)
        kill_sessions(late - told, signal.SIGTERM)
        for pid in told:
            one = self._running[pid]
            one.killed_at = one.killed_at or now
            # A process of another user, or one that waits for a dead disk, must not keep the run from its end.
            if one.usage is not None and now > one.killed_at + _UNKILLABLE:
                self._ended.discard(pid)
                self._finish(pid)

    def _stop(self, grace: float, task: int | None = None) -> None:
        """End all tasks, or the one. Those that have ended by themselves are taken note of first."""
        self._reap()
        self._stopping = self._stopping or task is None
        ones = {pid: one for pid, one in self._running.items() if task in (None, one.order.task) and not one.on_its_own}
        for one in ones.values():
            one.stopped = True
            one.deadline = time.monotonic() + grace
        kill_sessions(ones, signal.SIGTERM if grace else signal.SIGKILL)
        delayed, self._delayed = self._delayed, []
        for since, order in delayed:
            if task in (None, order.task):
                self._note_stopped(order)
            else:
                self._delayed.append((since, order))
        self._write()

    def _delay(self, order: Order, since: float, why: str) -> None:
        """Start a task later, when the disk takes its output."""
        if not self._delayed:
            print(f"hpc-dl: {why}; trying again", file=sys.stderr, flush=True)
        if time.monotonic() - since > PATIENCE:
            self._stuck = self._stuck or why
        self._delayed.append((since, order))
        self._look_soon()

    def _note(self, ended: Ended) -> None:
        self._write(encode(ended) + b"\n")
        self._look_soon()

    def _note_stopped(self, order: Order) -> None:
        now = time.time()
        self._note(Ended(order.task, order.key, order.attempt, self._node, now, now, stopped=True))

    def _write(self, lines: bytes = b"") -> None:
        """Write ends to the journal, and tell the runner of those that it has.

        So nothing starts after a task, and no report names one as ended, that a resume would run again. Only a run that
        is ending does not wait for the disk.
        """
        try:
            written = self._journal.write(lines)
        except DiskError as error:
            written, self._stuck = b"", str(error)
        if self._stopping:
            written += self._journal.tell()
        self._say(written)

    def _say(self, lines: bytes) -> None:
        # The runner may be gone: the journal has it.
        with contextlib.suppress(BrokenPipeError):
            while lines:
                lines = lines[os.write(1, lines) :]

    def _look_soon(self) -> None:
        if self._next is None:
            self._next = time.monotonic() + _SYNC

    def _look_after(self) -> None:
        """Get the journal to its disk, and start what that has delayed; all again later if the disk is in trouble."""
        if self._next is None or time.monotonic() < self._next:
            return
        self._next = None
        self._write()
        self._sync()
        delayed, self._delayed = self._delayed, []
        for since, order in delayed:
            self._start(order, since)
        if self._stuck and not self._stopping:
            self._say(encode(Stuck(self._node, self._stuck)) + b"\n")
            self._stop(self._grace)
        if self._journal.trouble or self._journal.behind:
            self._look_soon()

    def _sync(self) -> None:
        try:
            self._journal.sync()
        except DiskError as error:
            self._stuck = str(error)

    def _end(self) -> None:
        """Give the disk a last chance to take what it has not."""
        deadline = time.monotonic() + self._grace
        while self._journal.file >= 0:
            self._write()
            self._sync()
            if not (self._journal.trouble or self._journal.behind) or time.monotonic() > deadline:
                return
            time.sleep(_SYNC)


def _ends(numbers: bytes) -> bool:
    """Return whether one of the signals that came is one that ends us."""
    return bool(set(numbers) - {signal.SIGCHLD})


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB


def main() -> None:
    """Serve: ``agent FOLDER GRACE NODE [step]``."""
    folder, grace, node = sys.argv[1:4]
    Agent(node, Path(folder), float(grace), "step" in sys.argv[4:]).serve()


if __name__ == "__main__":
    main()

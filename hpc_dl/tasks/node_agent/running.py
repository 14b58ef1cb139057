"""The tasks that run on one node: how they are started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from hpc_dl.disk import FORBIDDEN, TROUBLE
from hpc_dl.processes import Guard, adopt_orphans, kill_group, kill_orphans, kill_sessions, sessions_left
from hpc_dl.tasks.messages import Ended, Order
from hpc_dl.tasks.node_agent.environment import Environment

_UNKILLABLE = 5.0  # seconds after SIGKILL: then a task counts as ended, even if processes of it are left


class _RunningTask:
    """A running task. Its shell's pid is its session id. The shell may exit before the processes that it started."""

    def __init__(self, order: Order, started: float) -> None:
        self.order = order
        self.started = started
        self.deadline = time.monotonic() + order.task.time if order.task.time else None
        """When to send the next signal, by `time.monotonic`."""
        self.reason = ""
        self.stopped = False
        self.killed_at: float | None = None
        self.status = 0
        self.usage: resource.struct_rusage | None = None
        """What the shell used; None until it has exited."""

    @property
    def told_to_end(self) -> bool:
        """Return whether it was sent SIGTERM."""
        return self.stopped or bool(self.reason)

    @property
    def exited_by_itself(self) -> bool:
        """Return whether its shell exited before the task was told to end."""
        return self.usage is not None and not self.told_to_end


class RunningTasks:
    """The tasks that run on one node, each in a session of its own. A guard process kills them if this process dies.

    Args:
        node: the name of the node.
        folder: the records folder. Outputs go to ``output/NUMBER.out``.
        grace: seconds between SIGTERM and SIGKILL for a task whose time is up.
        step: this process is a Slurm step, so tasks may start steps of their own.
        hang_timeout: seconds without `beat` after which the guard kills this process and all tasks.
        gpu_vendor: decides the variable that gives GPUs to a task.
    """

    def __init__(
        self, node: str, folder: Path, grace: float, step: bool, hang_timeout: float, gpu_vendor: str = "nvidia"
    ) -> None:
        self._node = node
        self._grace = grace
        self._output = f"{folder}/output/"
        self._home = str(Path.cwd())
        self._cores = os.sched_getaffinity(0)
        self._environment = Environment(folder, os.environ, step, gpu_vendor)
        self._running: dict[int, _RunningTask] = {}
        self._exited: set[int] = set()  # pids of shells that have exited, while processes of their sessions may be left
        adopt_orphans()
        self._guard = Guard(hang_timeout)

    def __bool__(self) -> bool:
        return bool(self._running)

    def next_deadline(self) -> float | None:
        """Return when `end_late` has something to do, by `time.monotonic`."""
        return min((one.deadline for one in self._running.values() if one.deadline is not None), default=None)

    def output(self, order: Order) -> str:
        """Return the path of a task's output."""
        return f"{self._output}{order.task.number}.out"

    def start(self, order: Order) -> Ended | None:
        """Start a task. Return its end if it can't be started.

        Raises:
            OSError: the disk does not take the task's output now.
        """
        started = time.time()
        output = self.output(order)
        entered = False
        try:
            # A child process inherits our folder and our cores.
            if order.task.workdir:
                os.chdir(os.path.expanduser(os.path.expandvars(order.task.workdir)))  # noqa: PTH111 - text, not a path
            entered = True
            if order.bind:
                os.sched_setaffinity(0, order.shares[0].cores)
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", order.task.command],
                self._environment.of(order),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            if entered and error.errno in TROUBLE and error.errno not in FORBIDDEN:
                raise
            reason = f"could not start: {error.filename or output}: {error.strerror}"
            with contextlib.suppress(OSError):
                Path(output).write_text(f"hpc-dl: {reason}\n")
            return self._end(order, started, code=127 if isinstance(error, FileNotFoundError) else 126, reason=reason)
        finally:
            if order.task.workdir:
                os.chdir(self._home)
            if order.bind:
                os.sched_setaffinity(0, self._cores)
        self._guard.add(pid)
        self._running[pid] = _RunningTask(order, started)
        return None

    def stopped(self, order: Order) -> Ended:
        """Return the end of a task that was stopped before it started."""
        return self._end(order, time.time(), stopped=True)

    def _end(self, order: Order, started: float, **more: Any) -> Ended:
        return Ended(order.task.number, order.task.key, order.attempt, self._node, started, time.time(), **more)

    def reap(self) -> list[Ended]:
        """Wait for all processes that have exited, and return the tasks that have ended."""
        with contextlib.suppress(ChildProcessError):  # not even the guard is left
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._wait_for(found.si_pid)
        if not self._exited:
            return []
        left = sessions_left(self._exited, self._running)
        ends = [self._finish(pid) for pid in self._exited - left]
        self._exited = left
        # Only a task that was told to end has a grace, which is for all of its processes.
        kill_sessions({pid for pid in left if self._running[pid].exited_by_itself})
        return ends

    def _wait_for(self, pid: int) -> None:
        """Wait for a process that has exited: the shell of a task, or an orphan that a task has left."""
        one = self._running.get(pid)
        if one is not None and not one.told_to_end:
            # The next task gets these cores and GPUs. Before the wait, no new group can get this group's number.
            kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        if one is not None:
            one.status, one.usage = status, usage
            self._exited.add(pid)
            if one.exited_by_itself:
                one.deadline = one.killed_at = time.monotonic()

    def _finish(self, pid: int) -> Ended:
        """Forget a task that has ended, and return its end."""
        one = self._running.pop(pid)
        assert one.usage is not None  # noqa: S101 - for mypy
        self._guard.drop(pid)
        with contextlib.suppress(OSError):  # the disk may be away
            self._environment.end_steps(one.order.task.number)
        code = os.waitstatus_to_exitcode(one.status)
        memory = one.usage.ru_maxrss // 1024
        return self._end(
            one.order,
            one.started,
            code=code if code >= 0 else 128 - code,
            signal=max(0, -code),
            reason=one.reason,
            stopped=one.stopped,
            shares=one.order.shares,
            cpu=round(one.usage.ru_utime + one.usage.ru_stime, 6),
            # The kernel never reports less for a child than for the process that forked it.
            memory=memory if memory > _peak_memory() else 0,
        )

    def end_late(self) -> list[Ended]:
        """Send SIGTERM to tasks whose time is up, and SIGKILL after the grace. Return those that count as ended."""
        now = time.monotonic()
        late = {pid for pid, one in self._running.items() if one.deadline is not None and one.deadline <= now}
        told = {pid for pid in late if self._running[pid].told_to_end or self._running[pid].usage is not None}
        for pid in late:
            one = self._running[pid]
            if pid not in told:
                one.reason = f"was ended after its time limit of {one.order.task.time} s"
            one.deadline = now + (1 if pid in told else self._grace)
        kill_sessions(told)
        kill_sessions(late - told, signal.SIGTERM)
        ends = []
        for pid in told:
            one = self._running[pid]
            one.killed_at = one.killed_at or now
            # A process of another user, or one that waits for a dead disk, must not keep the run from ending.
            if one.usage is not None and now > one.killed_at + _UNKILLABLE:
                self._exited.discard(pid)
                ends.append(self._finish(pid))
        return ends

    def stop(self, grace: float, task: int | None = None) -> None:
        """Send SIGTERM to all tasks or to one, and SIGKILL after the grace. Without a grace, send SIGKILL at once."""
        chosen = {pid: one for pid, one in self._running.items() if task in (None, one.order.task.number)}
        ones = {pid: one for pid, one in chosen.items() if not one.exited_by_itself}
        for one in ones.values():
            one.stopped = True
            one.deadline = time.monotonic() + grace
        kill_sessions(ones, signal.SIGTERM if grace else signal.SIGKILL)

    def beat(self) -> None:
        """Tell the guard that this process does not hang."""
        self._guard.beat()

    def close(self) -> None:
        """End the guard, and processes that tasks have left in other sessions."""
        kill_orphans(but=self._guard.pid)
        self._guard.close()


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

"""Runner: starts the tasks that the scheduler chooses and tells it how they ended, until nothing is left to run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from types import FrameType

from hpc_dl.errors import DISK
from hpc_dl.tasks.executor import Agents, Lost
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.log import TaskLog
from hpc_dl.tasks.messages import Begin, Ended, Order, Stop, Stuck
from hpc_dl.tasks.records import Records
from hpc_dl.tasks.scheduler import Scheduler, TaskState

_WRITE = 0.1  # seconds between two writes of log and journal: a write for each task would cost more than the rest
_LOOK = 1.0  # seconds between two looks when nothing happens
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Runner:
    """One run of a task file.

    Args:
        scheduler: chooses the tasks.
        agents: start the tasks.
        records: where starts are written; the agents write the ends.
        log: gets a line for each event of the run.
        lose: called with the name of a node that is gone.
        bound: nodes where tasks are bound to their cores.
        grace: seconds between SIGTERM and SIGKILL when the run is ended.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        agents: Agents,
        records: Records,
        log: TaskLog,
        *,
        lose: Callable[[str], None],
        bound: Collection[str] = (),
        grace: float = 20.0,
    ) -> None:
        self._scheduler = scheduler
        self._agents = agents
        self._records = records
        self._log = log
        self._lose = lose
        self._bound = bound
        self._grace = grace
        self._tasks: dict[int, Task] = {}
        self._lost_once: set[int] = set()
        self._half_lost: set[int] = set()  # running tasks that have lost a node other than their first
        self._signals: list[int] = []
        self._seen = 0
        self.ended_by = ""
        """Why the run ended early; empty if it didn't."""
        self.code = 0
        """Exit code of a run that ended early: 128 + the signal, or `DISK`."""
        self.ends: list[Ended] = []
        self._written = 0.0

    def run(self) -> None:
        """Run until nothing is left that can run. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 end it in order."""
        before = {number: signal.signal(number, self._note_signal) for number in _SIGNALS}
        try:
            self._start()
            quiet = False  # nothing has happened since log and journal were written
            while self._scheduler.running:
                # A signal that comes just before the call is noticed after the timeout.
                events = self._agents.wait(_LOOK if quiet else _WRITE)
                for event in events:
                    if isinstance(event, Ended):
                        self._ended(event)
                    elif isinstance(event, Lost):
                        self._lost(event.node)
                    elif isinstance(event, Stuck):
                        self._stop(DISK, f"{event.node}: {event.reason}")
                self._look_at_signals()
                self._start()
                quiet = not events
                if quiet or time.monotonic() > self._written + _WRITE:
                    self._write()
        finally:
            self._write()
            for number, handler in before.items():
                signal.signal(number, handler)
        if not self.ended_by and TaskState.WAITING in self._scheduler.states.values():
            self._end("the nodes that are left can't run the rest")

    def _write(self) -> None:
        self._written = time.monotonic()
        self._records.keep_up()
        self._log.flush()

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _look_at_signals(self) -> None:
        for number in self._signals[self._seen :]:
            self._seen += 1
            if not self._stop(128 + number, signal.Signals(number).name):
                self._agents.stop(0)  # a second signal

    def _stop(self, code: int, why: str) -> bool:
        """Tell the tasks to end; return False if they were told before."""
        if self.code:
            return False
        self.code = code
        self._end(why)
        self._agents.stop(self._grace)
        return True

    def _end(self, why: str) -> None:
        self.ended_by = why
        self._log.ending(why)

    def _start(self) -> None:
        self._look_at_signals()
        if self.ended_by:
            return
        starts = self._scheduler.starts()
        if not starts:
            return
        orders: dict[str, list[Order | Stop | Begin]] = {}
        for start in starts:
            self._tasks[start.task.number] = start.task
            bind = all(share.node in self._bound for share in start.shares)
            orders.setdefault(start.node, []).append(Order(start.task, start.attempt, start.shares, bind))
        for node, batch in orders.items():
            self._agents.order(node, batch)
        self._records.started(starts)
        for start in starts:
            self._log.starts(start)

    def _ended(self, end: Ended) -> None:
        self.ends.append(end)
        task = self._tasks[end.task]
        if end.task in self._half_lost:
            self._half_lost.discard(end.task)
            if not end.ok:
                self._again_after_loss(end.task, end.node)
                return
        if end.stopped:
            self._scheduler.stopped(end.task)
            if not self.ended_by:  # Slurm has signalled the agents, but not this process
                self._end("the agents were told to end")
            return
        cancelled = self._scheduler.ended(end.task, end.ok)
        self._log.ended(task, end, again=self._scheduler.states[end.task] is TaskState.WAITING)
        if cancelled:
            self._log.cancelled(cancelled, end.task)

    def _lost(self, node: str) -> None:
        self._lose(node)
        on_it = {
            number: shares
            for number, shares in self._scheduler.running.items()
            if any(share.node == node for share in shares)
        }
        self._log.lost(node, sorted(on_it))
        for number, shares in on_it.items():
            if shares[0].node == node:
                self._half_lost.discard(number)
                self._again_after_loss(number, node)
            elif number not in self._half_lost:
                # Its command still runs on its first node: it has to end before the task can start again.
                self._half_lost.add(number)
                self._agents.order(shares[0].node, [Stop(self._grace, number)])

    def _again_after_loss(self, number: int, node: str) -> None:
        if number in self._lost_once:
            # A task that has lost two nodes may have brought them down.
            attempt = self._scheduler.attempts[number]
            now = time.time()
            reason = "was lost with its node, a second time"
            self._ended(Ended(number, self._tasks[number].key, attempt, node, now, now, 1, reason=reason))
        elif self.ended_by:
            self._scheduler.stopped(number)
        else:
            self._lost_once.add(number)
            self._scheduler.lost(number)


def exit_code(states: Collection[TaskState], invalid: bool) -> int:
    """Return the exit code of a run that nothing has ended early: 0 if all tasks ended well, else 1."""
    return int(invalid or any(state is not TaskState.OK for state in states))

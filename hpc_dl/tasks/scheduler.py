"""Scheduler: which task runs when and on what. Pure: it starts nothing and knows no clock."""

from __future__ import annotations

import enum
import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.pool import Demand, Pool, Share


class TaskState(str, enum.Enum):
    """What has become of a task. The scheduler gets valid tasks only."""

    WAITING = "WAITING"
    """Has not started: it waits for dependencies or for room, or the run ended first."""
    RUNNING = "RUNNING"
    OK = "OK"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    """Never runs, because a task that it depends on failed."""
    INVALID = "INVALID"
    STOPPED = "STOPPED"
    """Was running when the run was ended."""


class Start(msgspec.Struct, frozen=True):
    """A task that starts now, for the `attempt`-th time (from 1), on the first of its shares of nodes."""

    task: Task
    shares: tuple[Share, ...]
    attempt: int

    @property
    def node(self) -> str:
        """Return the node where its command runs."""
        return self.shares[0].node


class Scheduler:
    """Decides which task starts next: by longest chain of dependents, then largest task, then lowest number.

    The largest task is the one with most nodes, then most GPUs, most cores and most memory. A task that fits nowhere
    now reserves as many nodes as it wants. Smaller tasks start on the other nodes, so they can't overtake it for ever.

    Args:
        tasks: the valid tasks, in ascending order.
        pool: where they run.
        demand: what a task wants.
        retries: how often a failed task without ``retries=`` is tried again.
        done: numbers of tasks that ended well in an earlier run.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        pool: Pool,
        demand: Callable[[Task], Demand],
        retries: int = 0,
        done: Collection[int] = (),
    ) -> None:
        self._tasks = {task.number: task for task in tasks}
        self._pool = pool
        self._demand = demand
        self._retries = retries
        self.states = {number: TaskState.OK if number in done else TaskState.WAITING for number in self._tasks}
        self.attempts: dict[int, int] = defaultdict(int)
        self._lost: dict[int, int] = defaultdict(int)  # attempts that were lost with a node; they use up no retry
        self._shares: dict[int, tuple[Share, ...]] = {}
        self._children: dict[int, list[int]] = defaultdict(list)
        self._missing: dict[int, int] = {}
        for task in tasks:
            for parent in task.after:
                self._children[parent].append(task.number)
            self._missing[task.number] = sum(self.states[parent] is not TaskState.OK for parent in task.after)
        self._chains = chains(tasks)
        # Tasks with the same demand share a queue: if the first does not fit, none does.
        self._queues: dict[Demand, list[tuple[int, int]]] = defaultdict(list)
        for number, missing in self._missing.items():
            if not missing and self.states[number] is TaskState.WAITING:
                self._queue(number)

    @property
    def running(self) -> Mapping[int, tuple[Share, ...]]:
        """Return the running tasks and their shares."""
        return self._shares

    def starts(self) -> list[Start]:
        """Return the tasks that start now."""
        found: list[Start] = []
        kept: set[str] = set()
        # A queue whose first task does not fit has to wait until another task ends.
        order = [self._head(demand) for demand in self._queues]
        heapq.heapify(order)
        while order:
            *_, demand = heapq.heappop(order)
            shares = self._pool.take(demand, kept)
            if not shares:
                kept.update(self._pool.keep(demand, kept))
                continue
            queue = self._queues[demand]
            _, number = heapq.heappop(queue)
            self._shares[number] = shares
            self.states[number] = TaskState.RUNNING
            self.attempts[number] += 1
            found.append(Start(self._tasks[number], shares, self.attempts[number]))
            if queue:
                heapq.heappush(order, self._head(demand))
            else:
                del self._queues[demand]
        return found

    def ended(self, number: int, ok: bool) -> list[int]:
        """Note that a running task has ended. Return the tasks that are cancelled because of it, in ascending order."""
        self._give_back(number)
        if ok:
            self.states[number] = TaskState.OK
            for child in self._children[number]:
                self._missing[child] -= 1
                if not self._missing[child] and self.states[child] is TaskState.WAITING:
                    self._queue(child)
            return []
        task = self._tasks[number]
        if self.attempts[number] - self._lost[number] <= (self._retries if task.retries is None else task.retries):
            self._again(number)
            return []
        self.states[number] = TaskState.FAILED
        return self._cancel_after(number)

    def lost(self, number: int) -> None:
        """Note that a running task was lost with its node. It runs again, without using up a retry."""
        self._give_back(number)
        self._lost[number] += 1
        self._again(number)

    def stopped(self, number: int) -> None:
        """Note that a running task was stopped because the run ends."""
        self._give_back(number)
        self.states[number] = TaskState.STOPPED

    def _give_back(self, number: int) -> None:
        for share in self._shares.pop(number):
            self._pool.give_back(share)

    def _again(self, number: int) -> None:
        self.states[number] = TaskState.WAITING
        self._queue(number)

    def _queue(self, number: int) -> None:
        heapq.heappush(self._queues[self._demand(self._tasks[number])], (-self._chains[number], number))

    def _head(self, demand: Demand) -> tuple[int, int, int, int, int, int, Demand]:
        chain, number = self._queues[demand][0]
        return chain, -demand.nodes, -demand.gpus, -demand.cores, -demand.memory, number, demand

    def _cancel_after(self, number: int) -> list[int]:
        cancelled: set[int] = set()
        look = [number]
        while look:
            for child in self._children[look.pop()]:
                if self.states[child] is TaskState.WAITING and child not in cancelled:
                    cancelled.add(child)
                    look.append(child)
        for child in cancelled:
            self.states[child] = TaskState.CANCELLED
        return sorted(cancelled)


def chains(tasks: Sequence[Task]) -> dict[int, int]:
    """Return the length of the longest chain of dependents that starts at each task."""
    length = {task.number: 1 for task in tasks}
    for task in reversed(tasks):
        for parent in task.after:
            length[parent] = max(length[parent], length[task.number] + 1)
    return length

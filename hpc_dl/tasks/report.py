"""Report: how the tasks ended, as text (Greasy's closing lines, and ours) and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.spec.nodelist import fold
from hpc_dl.tasks.file.task import TaskFile
from hpc_dl.tasks.journal import Started
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.scheduler import TaskState

_SHOWN = 20  # failed tasks that the text names; the JSON has all


class TaskRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task: its state, and its last attempt. `node` may be a node list.

    `cpu` (core-seconds) and `memory` (MiB) count the processes that the task's shell started on its first node, as the
    kernel does (man wait4). They omit ranks that it starts through srun: only Slurm's accounting knows those.
    """

    number: int
    name: str
    state: TaskState
    node: str = ""
    code: int | None = None
    signal: int = 0
    reason: str = ""
    attempts: int = 0
    started: float = 0
    """Unix seconds."""
    seconds: float = 0
    """How long it took, or how long it has been running."""
    cpu: float = 0
    memory: int = 0
    output: str = ""


class Report(msgspec.Struct, frozen=True):
    """The report of a run. Times are in seconds. Core- and GPU-seconds count what tasks had reserved, busy or not."""

    file: str
    exit_code: int
    counts: dict[TaskState, int]
    total: float
    cores: int
    core_seconds: float
    gpus: int
    gpu_seconds: float
    tasks: list[TaskRow]
    restart_file: str = ""
    ended_by: str = ""
    """The signal that ended the run early, or why it could not go on."""

    @property
    def utilisation(self) -> float:
        """Return which part of all cores was reserved for tasks, on average over the run."""
        return self.core_seconds / (self.total * self.cores) if self.total and self.cores else 0.0

    def text(self) -> str:
        """Return the report for people; the first three lines are Greasy's."""
        count = self.counts
        left = count[TaskState.STOPPED] + count[TaskState.WAITING] + count[TaskState.RUNNING]
        lines = [
            f"Summary of {len(self.tasks)} tasks: {count[TaskState.OK]} OK, {count[TaskState.FAILED]} FAILED,"
            f" {count[TaskState.CANCELLED]} CANCELLED, {count[TaskState.INVALID]} INVALID.",
            f"Total time: {clock(self.total)}",
            f"Resource Utilization: {100 * self.utilisation:.4g}%",
            f"Core-seconds: {self.core_seconds:.1f} of {self.total * self.cores:.1f}",
        ]
        if self.gpus:
            lines.append(f"GPU-seconds: {self.gpu_seconds:.1f} of {self.total * self.gpus:.1f}")
        if left:
            lines.append(f"Not ended: {left}{f'; the run was ended: {self.ended_by}' if self.ended_by else ''}")
        failed = [row for row in self.tasks if row.state is TaskState.FAILED]
        lines += [f"Task {_label(row)} {row.reason} on node {row.node}; see {row.output}" for row in failed[:_SHOWN]]
        if len(failed) > _SHOWN:
            lines.append(f"… and {len(failed) - _SHOWN} more")
        if self.restart_file:
            lines.append(f"Restart file: {self.restart_file}")
        return "\n".join(lines)

    def json(self) -> bytes:
        """Return the whole report for programs."""
        values: dict[str, Any] = {**msgspec.to_builtins(self), "utilisation": round(self.utilisation, 4)}
        return msgspec.json.encode(values)


def rows(
    file: TaskFile,
    states: Mapping[int, TaskState],
    last: Mapping[int, Ended],
    attempts: Mapping[int, int],
    folder: Path,
    running: Mapping[int, Started] | None = None,
) -> list[TaskRow]:
    """Return a row for each task, valid or not, in the order of the file."""
    now = time.time()
    outputs = f"{folder}/output/"
    found = [TaskRow(number, "", TaskState.INVALID) for number in file.invalid]
    for task in file.tasks:
        state, end = states[task.number], last.get(task.number)
        row = TaskRow(task.number, task.name, state, attempts=attempts.get(task.number, 0))
        if end is not None and state in (TaskState.OK, TaskState.FAILED, TaskState.STOPPED):
            row = msgspec.structs.replace(
                row,
                node=_node_list(end.nodes),
                code=end.code,
                signal=end.signal,
                reason="" if end.ok else end.how,
                started=round(end.started, 3),
                seconds=round(end.ended - end.started, 3),
                cpu=end.cpu,
                memory=end.memory,
                output=f"{outputs}{task.number}.out",
            )
        elif running and state is TaskState.RUNNING:
            one = running[task.number]
            row = msgspec.structs.replace(
                row,
                node=_node_list([share.node for share in one.shares]),
                attempts=one.attempt,
                started=round(one.time, 3),
                seconds=max(0.0, round(now - one.time, 3)),
                output=f"{outputs}{task.number}.out",
            )
        found.append(row)
    return sorted(found, key=lambda row: row.number)


def _node_list(nodes: Sequence[str]) -> str:
    return nodes[0] if len(nodes) == 1 else fold(nodes)


def counts(table: list[TaskRow]) -> dict[TaskState, int]:
    """Return how many tasks are in each state."""
    found = Counter(row.state for row in table)
    return {state: found[state] for state in TaskState}


def clock(seconds: float) -> str:
    """Return a time as H:MM:SS with two digits of hours, as Greasy writes it."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _label(row: TaskRow) -> str:
    return f"{row.number} ({row.name})" if row.name else str(row.number)

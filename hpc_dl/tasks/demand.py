"""Demands: what each task of a file wants, and which of these demands a run can never meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from hpc_dl.tasks.file.task import Problem, Task, TaskFile
from hpc_dl.tasks.file.writer import lines_of
from hpc_dl.tasks.gpu_rule import GpuRule
from hpc_dl.tasks.pool import Demand


class RunOptions(msgspec.Struct, frozen=True):
    """How to run a task file, in addition to Greasy's settings.

    Args:
        records: the records folder; None: next to the file.
        resume: run only the tasks that have not ended well in earlier runs, as the records say.
        cores: of a task without ``cores=``.
        gpus: of a task without ``gpus=``.
        grace: seconds between SIGTERM and SIGKILL.
        gpu_rule: how the GPUs of a node are found, and given to a task.
        srun: further options of the srun that starts the agent of a node.
    """

    records: Path | None = None
    resume: bool = False
    cores: int = 1
    gpus: int = 0
    grace: float = 20.0
    gpu_rule: GpuRule = GpuRule()
    srun: tuple[str, ...] = ()


def demand(task: Task, options: RunOptions) -> Demand:
    """Return what a task wants. The options give the defaults."""
    return Demand(
        options.cores if task.cores is None else task.cores,
        options.gpus if task.gpus is None else task.gpus,
        task.memory,
        task.node,
        task.nodes,
    )


def without_impossible(file: TaskFile, problem: Callable[[Demand], str], options: RunOptions) -> TaskFile:
    """Return the file with more invalid tasks: those whose demand can't be met, and their dependents.

    Args:
        file: the file.
        problem: returns why a demand can't be met; empty if it can.
        options: of the run.
    """
    invalid = set(file.invalid)
    problems = list(file.problems)
    kept: list[Task] = []
    reasons: dict[Demand, str] = {}
    for task in file.tasks:
        wanted = demand(task, options)
        if wanted not in reasons:
            reasons[wanted] = problem(wanted)
        reason = reasons[wanted]
        if parents := [number for number in task.after if number in invalid]:
            reason = f"task {parents[0]} is invalid, so this one could never start"
        if reason:
            invalid.add(task.number)
            problems.append(Problem(task.number, 0, reason, lines_of(task)[-1]))
        else:
            kept.append(task)
    return TaskFile(file.name, kept, frozenset(invalid), tuple(problems), file.restart)

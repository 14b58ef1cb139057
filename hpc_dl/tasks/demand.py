"""Demands: what the tasks of a file want of a run, and which of them it can never meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from hpc_dl.tasks.file.task import Problem, Task, TaskFile
from hpc_dl.tasks.file.writer import lines_of
from hpc_dl.tasks.pool import Demand


class Options(msgspec.Struct, frozen=True):
    """How to run a task file, beside Greasy's settings.

    Args:
        records: the records folder; None: next to the file.
        resume: run only what has not ended well in the runs that the records tell of.
        cores: of a task that says nothing itself.
        gpus: of a task that says nothing itself.
        grace: seconds between SIGTERM and SIGKILL.
    """

    records: Path | None = None
    resume: bool = False
    cores: int = 1
    gpus: int = 0
    grace: float = 20.0


def demand(task: Task, options: Options) -> Demand:
    """Return what a task wants, in its own words or in those of the run."""
    return Demand(
        options.cores if task.cores is None else task.cores,
        options.gpus if task.gpus is None else task.gpus,
        task.memory,
        task.node,
        task.nodes,
    )


def without_impossible(file: TaskFile, problem: Callable[[Demand], str], options: Options) -> TaskFile:
    """Return the file with those tasks as invalid ones that can't be given what they want, and their dependents.

    Args:
        file: the file.
        problem: says why a demand can't be met; empty if it can.
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

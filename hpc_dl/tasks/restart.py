"""Restart file: a task file with the tasks that have not ended well (GREASY user guide)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from hpc_dl.tasks.file.settings_comment import MARK, RESTART
from hpc_dl.tasks.file.task import Task, TaskFile
from hpc_dl.tasks.file.writer import lines_of
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.scheduler import TaskState


def restart_path(file: Path, job: str) -> Path:
    """Return the restart file of a task file's run in a job."""
    return file.with_name(f"{file.name}-{job}.rst")


def restart_text(
    file: TaskFile, states: Mapping[int, TaskState], last: Mapping[int, Ended], run: str, when: str
) -> str:
    """Return the text of a restart file.

    Its tasks get new numbers. A dependency on a task that ended well is met, and is left out. The line with `run`
    distinguishes this restart file from a later one of the same name, so a second run of it continues the first one.

    Args:
        file: the task file.
        states: of its valid tasks.
        last: how tasks ended last.
        run: a name of the run, without blanks.
        when: date and time, for people.
    """
    lines = [
        f"# Restart file of {_line(file.name)}, made at {when}: what had not ended well, ready to run",
        f"{MARK} {RESTART}={run}",
        "",
    ]
    numbers: dict[int, int] = {}
    for task in file.tasks:
        if states[task.number] is TaskState.OK:
            continue
        after = tuple(numbers[number] for number in task.after if number in numbers)
        lines.append(f"# Task {task.label}: {_reason(task, states, last)}")
        lines += lines_of(msgspec.structs.replace(task, after=after))
        numbers[task.number] = len(lines)
    if file.invalid:
        numbers_text = ", ".join(map(str, sorted(file.invalid)))
        lines += ["", f"# Invalid tasks are not here. Check these lines of {_line(file.name)}: {numbers_text}"]
    return "".join(f"{line}\n" for line in lines)


def _reason(task: Task, states: Mapping[int, TaskState], last: Mapping[int, Ended]) -> str:
    state = states[task.number]
    if state is TaskState.FAILED:
        end = last.get(task.number)
        return f"{_line(end.how)} on node {_line(end.node)}" if end else "failed"
    if state is TaskState.CANCELLED:
        failed = [str(n) for n in task.after if states[n] in (TaskState.FAILED, TaskState.CANCELLED)]
        return f"was cancelled, since task {', '.join(failed)} did not end well"
    if state is TaskState.STOPPED:
        return "was running when the run was ended"
    return "did not start before the run was ended"


def _line(text: str) -> str:
    """Return a text in which characters that can't stand in a comment line are replaced."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)

"""Writer of task files: what the parser reads again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from hpc_dl.tasks.model import Task


def write(tasks: Iterable[Task]) -> str:
    """Return the text of a task file in which each task keeps its number; blank lines fill the gaps.

    Args:
        tasks: in ascending order of their numbers; one with a node needs a free line before it, as all that were parsed
            have.
    """
    lines: list[str] = []
    for task in tasks:
        settings = [f"#@ node={shlex.quote(task.node)}"] if task.node else []
        lines += [""] * (task.number - 1 - len(settings) - len(lines))
        after = f"[# {', '.join(map(str, task.after))} #] " if task.after else ""
        workdir = f"[@ {task.workdir} @] " if task.workdir else ""
        lines += [*settings, f"{after}{workdir}{task.command}"]
    return "".join(f"{line}\n" for line in lines)

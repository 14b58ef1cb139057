"""Writer of task lines, in the form that the parser reads."""

from __future__ import annotations

from hpc_dl.spec.nodelist import fold_numbers
from hpc_dl.tasks.file.settings_comment import write_settings
from hpc_dl.tasks.file.task import Task


def lines_of(task: Task) -> list[str]:
    """Return a task's line, after the comment with its settings if it has some."""
    settings = write_settings(task)
    after = f"[# {fold_numbers(task.after)} #] " if task.after else ""
    workdir = f"[@ {task.workdir} @] " if task.workdir else ""
    if task.command.startswith("#") and not (after or workdir):
        after = "[##] "  # else the line would be a comment
    return [*([settings] if settings else []), f"{after}{workdir}{task.command}"]

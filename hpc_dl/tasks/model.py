"""Task: one line of a task file."""

from __future__ import annotations

import msgspec


class Task(msgspec.Struct, frozen=True):
    """One task of a task file (GREASY user guide, "Task files").

    Args:
        number: the line number, from 1; blank lines and comments count.
        command: what the shell runs.
        after: numbers of the tasks that must have ended well before this one starts, in ascending order.
        workdir: the folder to run in; empty: where the runner is.
        node: the node to run on; empty: any.
    """

    number: int
    command: str
    after: tuple[int, ...] = ()
    workdir: str = ""
    node: str = ""

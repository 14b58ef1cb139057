"""Task: one line of a task file. TaskFile: what a whole file says, valid or not."""

from __future__ import annotations

import hashlib

import msgspec

from hpc_dl.errors import UserError


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a task file (GREASY user guide, "Writing the task file").

    Args:
        number: the line number, from 1; blank lines and comments count.
        command: what the shell runs.
        after: numbers of the tasks that must have ended well before this one starts, in ascending order.
        workdir: the folder to run in; empty: where the runner is.
        node: the node to run on, or a list such as ``n[1-3]`` of nodes to choose from; empty: any.
        nodes: how many nodes it has at once. Cores, GPUs and memory are per node. Its command runs on the first.
        name: what people call it; empty: its number.
        gpus: how many GPUs it has for itself; None: the default of the run.
        cores: how many cores it has for itself; None: the default of the run.
        memory: MiB that are reserved for it.
        time: seconds after which it is ended; 0: no limit.
        retries: how often it is tried again after a failure; None: the default of the run.
        env: environment variables that it gets in addition.
    """

    number: int
    command: str
    after: tuple[int, ...] = ()
    workdir: str = ""
    node: str = ""
    name: str = ""
    gpus: int | None = None
    cores: int | None = None
    memory: int = 0
    time: int = 0
    retries: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    nodes: int = 1

    @property
    def key(self) -> str:
        """Return a hash of number, folder and command. A task that gets this number by an edit has another hash."""
        text = f"{self.number}\0{self.workdir}\0{self.command}"
        return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()

    @property
    def label(self) -> str:
        """Return its number and name."""
        return f"{self.number} ({self.name})" if self.name else str(self.number)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong in one line; `column` is from 0."""

    line: int
    column: int
    reason: str
    text: str

    def show(self, name: str) -> str:
        """Return the message: the place, the reason, the line and a caret."""
        caret = "".join("\t" if sign == "\t" else " " for sign in self.text[: self.column]) + "^"
        return f"{name}, line {self.line}: {self.reason}\n  {self.text}\n  {caret}"


class TaskFile(msgspec.Struct, frozen=True):
    """A task file that was read: its valid tasks, and what is wrong with the others."""

    name: str
    tasks: list[Task]
    invalid: frozenset[int] = frozenset()
    """Numbers of the tasks that can't run."""
    problems: tuple[Problem, ...] = ()
    restart: str = ""
    """In a restart file, the name of the run that it was made from; else empty."""

    def check(self) -> list[Task]:
        """Return the tasks if all lines are valid.

        Raises:
            UserError: some are not. All of them are named, each with a caret.
        """
        if self.problems:
            raise UserError("\n".join(problem.show(self.name) for problem in self.problems))
        return self.tasks

"""Parser of task files: Greasy's format, with ``#@ key=value`` lines for what it lacks.

A line is blank, a comment (``#``) or a task: ``[# 3, 5-7, -1 #] [@ dir @] command``. Both brackets are optional and in
either order. ``#@`` is a comment for Greasy; here it holds settings of the next task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpc_dl.errors import UserError
from hpc_dl.tasks.file.settings_comment import MARK, RESTART, LineError, read_settings
from hpc_dl.tasks.file.task import Problem, Task, TaskFile

_DEPENDENCY = re.compile(
    r"(?P<first>\d{1,18})\s*-\s*(?P<last>\d{1,18})|-\s*(?P<back>\d{1,18})|(?P<number>\d{1,18})", re.ASCII
)


def read(path: Path) -> TaskFile:
    """Read a task file, valid or not.

    Raises:
        UserError: the file can't be read.
    """
    try:
        # Some editors write a byte order mark. Below, only a line feed ends a line: so line numbers are Greasy's.
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    return scan(text, str(path))


def parse(text: str, name: str = "task file") -> list[Task]:
    """Return the tasks of a task file's text.

    Raises:
        UserError: some lines are invalid; all of them are named, each with a caret.
    """
    return scan(text, name).check()


def scan(text: str, name: str = "task file") -> TaskFile:
    """Return what a task file's text says, valid or not.

    As in Greasy, a task that depends on an invalid one is invalid too: it could never start.
    """
    tasks: dict[int, Task] = {}
    invalid: set[int] = set()
    problems: list[Problem] = []
    settings: dict[str, Any] = {}
    spoilt = False  # an invalid extension comment makes the next task invalid
    restart = ""
    for number, line in enumerate(text.split("\n"), 1):
        is_task = bool(line.strip()) and not line.lstrip().startswith("#")
        try:
            if is_task:
                task = _task(number, line, tasks, invalid, settings)
                if spoilt:
                    invalid.add(number)
                else:
                    tasks[number] = task
            elif line.startswith(MARK):
                found = read_settings(line)
                restart = found.pop(RESTART, restart)
                settings = _merged(settings, found)
        except LineError as error:
            problems.append(Problem(number, error.column, str(error), line))
            if is_task:
                invalid.add(number)
            else:
                spoilt = True
        if is_task:
            settings, spoilt = {}, False
    return TaskFile(name, list(tasks.values()), frozenset(invalid), tuple(problems), restart)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Join the settings of several comments before one task."""
    if twice := [key for key in new if key in old and key != "env"]:
        raise LineError(len(MARK), f"a second {twice[0]!r} for the same task")
    env = {**dict(old.get("env", ())), **dict(new.get("env", ()))}
    if len(env) < len(old.get("env", ())) + len(new.get("env", ())):
        raise LineError(len(MARK), "a variable twice for the same task")
    return {**old, **new, "env": tuple(env.items())}


def _task(number: int, line: str, earlier: dict[int, Task], invalid: Iterable[int], settings: dict[str, Any]) -> Task:
    position = len(line) - len(line.lstrip())
    after: tuple[int, ...] | None = None
    workdir: str | None = None
    while line.startswith(("[#", "[@"), position):
        kind = line[position + 1]
        end = line.find(f"{kind}]", position + 2)
        if end < 0:
            raise LineError(position, f"'[{kind}' without '{kind}]'")
        inside = line[position + 2 : end]
        if kind == "#" and after is None:
            after = _dependencies(inside, position + 2, number, earlier, invalid)
        elif kind == "@" and workdir is None:
            workdir = inside.strip()
            if not workdir:
                raise LineError(position + 2, "expected a folder between '[@' and '@]'")
        else:
            raise LineError(position, f"a second '[{kind}'")
        position = end + 2
        position += len(line[position:]) - len(line[position:].lstrip())
    if not line[position:].strip():
        raise LineError(len(line), "expected a command")
    if (nul := line.find("\0")) >= 0:
        raise LineError(nul, "a NUL character can't stand in a task")
    return Task(number, line[position:].rstrip(), after or (), workdir or "", **settings)


def _dependencies(
    text: str, column: int, number: int, earlier: dict[int, Task], invalid: Iterable[int]
) -> tuple[int, ...]:
    """Return the task numbers of ``3, 5-7, -1``; `column` is where the text starts in its line."""
    found: set[int] = set()
    for match in re.finditer(r"[^,]+", text):
        item = match[0].strip()
        if not item:
            continue
        place = column + match.start() + len(match[0]) - len(match[0].lstrip())
        dependency = _DEPENDENCY.fullmatch(item)
        if dependency is None:
            raise LineError(place, f"{item!r} is no dependency; expected a task number, a range 5-7 or -1")
        for wanted in _numbers(dependency, number):
            if wanted not in earlier:
                raise LineError(
                    place,
                    f"task {wanted} is invalid, so this one could never start"
                    if wanted in invalid
                    else f"there is no task {wanted} before this one",
                )
            found.add(wanted)
    return tuple(sorted(found))


def _numbers(dependency: re.Match[str], number: int) -> Iterable[int]:
    if dependency["back"]:
        return [number - int(dependency["back"])]
    if dependency["number"]:
        return [int(dependency["number"])]
    first, last = sorted((int(dependency["first"]), int(dependency["last"])))
    # A range that reaches this line is an error. One such number suffices to show it, and the range may be huge.
    return range(first, max(first, min(last, number)) + 1)

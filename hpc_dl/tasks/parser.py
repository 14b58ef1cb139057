"""Parser of task files: Greasy's format, with ``#@ node=NAME`` lines for what it lacks.

A line is blank, a comment (``#``) or a task: ``[# 3, 5-7, -1 #] [@ dir @] command``. Both brackets are optional and in
either order. ``#@`` is a comment for Greasy; here it holds settings of the task on the next line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.tasks.model import Task

_SETTINGS = ("node",)
_DEPENDENCY = re.compile(
    r"(?P<first>\d{1,18})\s*-\s*(?P<last>\d{1,18})|-\s*(?P<back>\d{1,18})|(?P<number>\d{1,18})", re.ASCII
)


class _LineError(Exception):
    """What is wrong in one line, and at which column (from 0)."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def read_task_file(path: Path) -> list[Task]:
    """Read a task file.

    Raises:
        UserError: the file can't be read or has invalid lines; all of them are named, each with a caret.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "task file") -> list[Task]:
    """Return the tasks of a task file's text.

    Raises:
        UserError: some lines are invalid; all of them are named, each with a caret.
    """
    tasks: dict[int, Task] = {}
    problems: list[str] = []
    settings: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.startswith("#@"):
                settings = _settings(line)
            elif line.strip() and not line.lstrip().startswith("#"):
                tasks[number] = _task(number, line, tasks, settings)
                settings = {}
        except _LineError as error:  # noqa: PERF203 - all invalid lines are named
            caret = re.sub(r"[^\t]", " ", line[: error.column]) + "^"
            problems.append(f"{name}, line {number}: {error}\n  {line}\n  {caret}")
    if problems:
        raise UserError("\n".join(problems))
    return list(tasks.values())


def _settings(line: str) -> dict[str, str]:
    try:
        words = shlex.split(line[2:])
    except ValueError as error:
        raise _LineError(len(line), str(error).lower()) from None
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in _SETTINGS or not equals or not value:
            raise _LineError(
                max(line.find(word), 2),
                f"expected KEY=VALUE, found {word!r}{near_match(key, _SETTINGS)}; known keys: {allowed(_SETTINGS)}",
            )
        found[key] = value
    return found


def _task(number: int, line: str, earlier: dict[int, Task], settings: dict[str, str]) -> Task:
    position = len(line) - len(line.lstrip())
    after: tuple[int, ...] | None = None
    workdir: str | None = None
    while line.startswith(("[#", "[@"), position):
        kind = line[position + 1]
        end = line.find(f"{kind}]", position + 2)
        if end < 0:
            raise _LineError(position, f"'[{kind}' without '{kind}]'")
        inside = line[position + 2 : end]
        if kind == "#" and after is None:
            after = _dependencies(inside, position + 2, number, earlier)
        elif kind == "@" and workdir is None:
            workdir = inside.strip()
            if not workdir:
                raise _LineError(position + 2, "expected a folder between '[@' and '@]'")
        else:
            raise _LineError(position, f"a second '[{kind}'")
        position = end + 2
        position += len(line[position:]) - len(line[position:].lstrip())
    if not line[position:].strip():
        raise _LineError(len(line), "expected a command")
    return Task(number, line[position:].rstrip(), after or (), workdir or "", **settings)


def _dependencies(text: str, column: int, number: int, earlier: dict[int, Task]) -> tuple[int, ...]:
    """Return the task numbers of ``3, 5-7, -1``; `column` is where the text starts in its line."""
    found: set[int] = set()
    for match in re.finditer(r"[^,]+", text):
        item = match[0].strip()
        if not item:
            continue
        place = column + match.start() + len(match[0]) - len(match[0].lstrip())
        dependency = _DEPENDENCY.fullmatch(item)
        if dependency is None:
            raise _LineError(place, f"{item!r} is no dependency; expected a task number, a range 5-7 or -1")
        for wanted in _numbers(dependency, number):
            if wanted not in earlier:
                raise _LineError(place, f"there is no task {wanted} before this one")
            found.add(wanted)
    return tuple(sorted(found))


def _numbers(dependency: re.Match[str], number: int) -> Iterable[int]:
    if dependency["back"]:
        return [number - int(dependency["back"])]
    if dependency["number"]:
        return [int(dependency["number"])]
    first, last = sorted((int(dependency["first"]), int(dependency["last"])))
    # A range that ends after this line names a task that isn't earlier: one number shows it, however long the range.
    return range(first, max(first, min(last, number)) + 1)

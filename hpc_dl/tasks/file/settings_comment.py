"""Extension comments ``#@ key=value …``: what Greasy's format lacks, in lines that Greasy takes for comments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from hpc_dl.errors import allowed, near_match
from hpc_dl.tasks.file.task import Task

MARK = "#@"
KEYS = ("node", "name", "nodes", "gpus", "cores", "memory", "time", "retries", "env.NAME")
# The key by which a whole file says that it is the restart file of a run.
RESTART = "restart"

_WORD = re.compile(r"""(?:[^\s'"\\]|'[^']*'|"(?:[^"\\]|\\.)*"|\\.)+""")
_TIME = re.compile(
    r"(?P<number>\d{1,9})(?P<unit>[smhd])|(?:(?P<days>\d{1,5})-)?(?P<h>\d{1,6}):(?P<m>\d\d):(?P<s>\d\d)", re.A
)
_MEMORY = re.compile(r"(\d{1,9})([MGT])", re.A)
_COUNT = re.compile(r"\d{1,6}", re.A)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "M": 1, "G": 1024, "T": 1024 * 1024}


class LineError(Exception):
    """What is wrong in one line, and at which column (from 0)."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def read_settings(line: str) -> dict[str, Any]:
    """Return the settings of an extension comment, as fields of `Task`.

    Raises:
        LineError: an unknown key or an invalid value.
    """
    found: dict[str, Any] = {}
    position = len(MARK)
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        word = _WORD.match(line, position)
        if word is None or (not line[word.end() : word.end() + 1].isspace() and word.end() < len(line)):
            raise LineError(len(line), "no closing quotation")
        key, value = _setting(shlex.split(word[0])[0], position)
        if key in found and (key != "env" or value[0] in dict(found["env"])):
            raise LineError(position, f"a second {word[0].partition('=')[0]!r}")
        found[key] = (*found.get("env", ()), value) if key == "env" else value
        position = word.end()
    return found


def _setting(word: str, column: int) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if key.startswith("env.") and equals:
        if not re.fullmatch(r"[A-Za-z_]\w*", key[4:], re.A):
            raise LineError(column, f"{key[4:]!r} is no name of an environment variable")
        if "\0" in value:
            raise LineError(column, "a NUL character can't stand in an environment variable")
        return "env", (key[4:], value)
    if key not in (*KEYS, RESTART) or not equals or not value:
        raise LineError(
            column, f"expected KEY=VALUE, found {word!r}{near_match(key, KEYS)}; known keys: {allowed(KEYS)}"
        )
    if key in ("node", "name", RESTART):
        return key, value
    read, expected = _READERS[key]
    number = read(value)
    if number is None:
        raise LineError(column, f"{key}={value}: expected {expected}")
    return key, number


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text) else None


def _some(text: str) -> int | None:
    return _count(text) or None


def _memory(text: str) -> int | None:
    match = _MEMORY.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] or None if match else None


def _time(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    if match["unit"]:
        return int(match["number"]) * _UNITS[match["unit"]] or None
    days, hours, minutes, seconds = (int(match[part] or 0) for part in ("days", "h", "m", "s"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


_READERS = {
    "gpus": (_count, "a number of GPUs, such as 2"),
    "nodes": (_some, "a number of nodes from 1"),
    "cores": (_some, "a number of cores from 1"),
    "memory": (_memory, "a number with M, G or T, such as 4G"),
    # No bare number: it would be minutes to Slurm and seconds to everybody else.
    "time": (_time, "90s, 10m, 2h, 1d, H:MM:SS or D-HH:MM:SS"),
    "retries": (_count, "a number of retries, such as 3"),
}


def write_settings(task: Task) -> str:
    """Return the extension comment that a task needs; empty if it needs none."""
    values: Mapping[str, Any] = {
        "node": task.node or None,
        "nodes": task.nodes if task.nodes > 1 else None,
        "name": task.name or None,
        "gpus": task.gpus,
        "cores": task.cores,
        "memory": f"{task.memory}M" if task.memory else None,
        "time": f"{task.time}s" if task.time else None,
        "retries": task.retries,
        **{f"env.{name}": value for name, value in task.env},
    }
    words = [f"{key}={shlex.quote(str(value))}" for key, value in values.items() if value is not None]
    return " ".join([MARK, *words]) if words else ""

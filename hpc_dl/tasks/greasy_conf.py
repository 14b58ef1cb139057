"""Settings in Greasy's words: ``greasy.conf`` and GREASY_* variables (GREASY user guide, "Configuring Greasy")."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.errors import UserError, allowed, near_match


class Settings(msgspec.Struct, frozen=True):
    """The settings of Greasy that exist here too.

    Args:
        strict: run nothing at all if any line is invalid.
        retries: how often a failed task is tried again.
        workers: how many tasks run at once, over all nodes; None: as many as there are cores.
        nodes: the nodes to use, each named once for each of its workers; empty: all nodes of the job.
        remote: ``srun`` or ``none``, which keeps the tasks on this machine; empty: srun inside a job.
        log_file: where the log goes; empty: standard error.
        log_level: 0 nothing, 1 errors, 2 warnings, 3 to 5 tasks as they start and end.
    """

    strict: bool = True
    retries: int = 0
    workers: int | None = None
    nodes: tuple[str, ...] = ()
    remote: str = ""
    log_file: str = ""
    log_level: int = 3


class _BadValueError(Exception):
    """A value is not valid; the text says what is expected."""


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            raise _BadValueError(f"expected a number from {least} to {most}")
        return int(text)

    return read


def _choice(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in known:
            raise _BadValueError(f"not known{near_match(text.lower(), known)}; allowed: {allowed(known)}")
        return text.lower()

    return read


def _remote(text: str) -> str:
    if text.lower() == "ssh":
        raise _BadValueError("ssh starts nothing here: inside a Slurm job it is srun")
    return _choice("srun", "none")(text)


def _engine(text: str) -> str:
    if text.lower() == "mpi":
        raise _BadValueError("there is no MPI engine: an agent on each node starts the tasks; 'basic' is that")
    return _choice("basic", "thread")(text)


# Greasy's key in capitals: the field of `Settings` (empty: the key changes nothing here) and the reader of its value.
_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "ENGINE": ("", _engine),
    "BASICREMOTEMETHOD": ("remote", _remote),
    "STRICTCHECK": ("strict", lambda text: _choice("yes", "no")(text) == "yes"),
    "MAXRETRIES": ("retries", _number(0, 1_000_000)),
    "LOGFILE": ("log_file", str),
    "LOGLEVEL": ("log_level", _number(0, 5)),
    "NWORKERS": ("workers", _number(1, 1_000_000)),
    "NODELIST": ("nodes", lambda text: tuple(filter(None, (name.strip() for name in text.split(","))))),
}
_NAMES = ("Engine", "BasicRemoteMethod", "StrictCheck", "MaxRetries", "LogFile", "LogLevel", "NWorkers", "NodeList")
_LINE = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*([^#]*?)\s*(?:#.*)?")


def load_settings(folder: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings of ``greasy.conf`` in `folder`, else in ``$GREASY_HOME/etc``; GREASY_* variables override it.

    Raises:
        UserError: lines or variables that are not valid; all of them are named.
    """
    files = [folder / "greasy.conf"]
    if home := environ.get("GREASY_HOME"):
        files.append(Path(home, "etc", "greasy.conf"))
    path = next((file for file in files if file.is_file()), None)
    entries = _read_file(path) if path else []
    for key in _KEYS:
        if value := environ.get(f"GREASY_{key}"):
            entries.append((f"variable GREASY_{key}", key, value))
    values: dict[str, Any] = {}
    problems: list[str] = []
    for place, key, value in entries:
        known = _KEYS.get(key.upper())
        if known is None:
            problems.append(f"{place}: unknown key {key!r}{near_match(key, _NAMES)}; known keys: {allowed(_NAMES)}")
            continue
        field, read = known
        try:
            result = read(value)
        except _BadValueError as error:
            problems.append(f"{place}: {key}={value}: {error}")
            continue
        if field:
            values[field] = result
    if problems:
        raise UserError("\n".join(problems))
    return Settings(**values)


def _read_file(path: Path) -> list[tuple[str, str, str]]:
    """Return place, key and value of each entry that has a value.

    Raises:
        UserError: the file can't be read, or has lines that are neither entries nor comments.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    entries: list[tuple[str, str, str]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _LINE.fullmatch(line)
        if entry is None:
            problems.append(f"{path}, line {number}: expected KEY=VALUE\n  {line}\n  ^")
        elif entry[2]:
            entries.append((f"{path}, line {number}", entry[1], entry[2]))
    if problems:
        raise UserError("\n".join(problems))
    return entries

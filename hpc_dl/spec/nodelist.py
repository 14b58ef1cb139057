"""Slurm's node lists: ``nvb[16,19,25]`` to names and back."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable

from hpc_dl.errors import UserError

_MOST = 100_000  # names in one list; `n[1-999999999]` is a typing error
_PART = re.compile(r"[\w.-]*(?:\[[^\[\]]*\][\w.-]*)*", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})")


def expand(nodelist: str) -> list[str]:
    """Return the node names of a node list in its own order, as ``scontrol show hostnames`` does.

    Raises:
        UserError: the list is empty, malformed, too long or names a node twice.
    """
    names: dict[str, None] = {}
    start = 0
    while start < len(nodelist):
        part = _PART.match(nodelist, start)
        end = part.end() if part else start
        if part is None or (end < len(nodelist) and nodelist[end] != ","):
            raise _error(nodelist, end, f"unexpected {nodelist[end]!r}")
        for name in _expand_part(nodelist, start, part[0], _MOST - len(names)):
            if name in names:
                raise _error(nodelist, start, f"names {name!r} twice")
            names[name] = None
        start = end + 1
    if not names:
        raise UserError("node list: empty; expected for example 'nvb[16,19,25]'")
    return list(names)


def _expand_part(nodelist: str, start: int, part: str, most: int) -> Iterable[str]:
    """Return the names of ``r[1-2]n[08-11]``, which starts at `start`; there may be no more than `most`."""
    place = start
    choices: list[list[str]] = []
    # Text outside and inside of brackets alternates.
    for number, piece in enumerate(re.split(r"[\[\]]", part)):
        choices.append([piece] if number % 2 == 0 else _numbers(nodelist, place, piece))
        if math.prod(map(len, choices)) > most:
            raise _error(nodelist, start, f"more than {_MOST} nodes")
        place += len(piece) + 1
    return filter(None, map("".join, itertools.product(*choices)))


def _numbers(nodelist: str, start: int, text: str) -> list[str]:
    """Return the numbers of ``1,08-11`` with their leading zeros; the text starts at `start`."""
    found: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise _error(nodelist, start, f"expected a number or a range such as 1-39, found {item!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise _error(nodelist, start, "the range runs backwards")
        if len(found) + last - first >= _MOST:
            raise _error(nodelist, start, f"more than {_MOST} nodes")
        found += (f"{number:0{len(match[1])}}" for number in range(first, last + 1))
        start += len(item) + 1
    return found


def _error(nodelist: str, column: int, reason: str) -> UserError:
    return UserError(f"node list: {reason}\n  {nodelist}\n  {' ' * column}^")


def fold(names: Iterable[str]) -> str:
    """Return node names as a node list in the same order: ``nvb[16-18,25],login``."""
    parts: list[str] = []
    numbered = map(_split, dict.fromkeys(names))
    for prefix, group in itertools.groupby(numbered, key=lambda name: name[0]):
        numbers = [number for _, number in group]
        parts.append(f"{prefix}[{_ranges(numbers)}]" if len(numbers) > 1 else prefix + numbers[0])
    return ",".join(parts)


def fold_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as ``0-3,8``, in the same order."""
    return _ranges(map(str, numbers))


def _split(name: str) -> tuple[str, str]:
    """Return a name without the number at its end, and that number; empty if there is none."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], match[2]) if match else (name, "")


def _ranges(numbers: Iterable[str]) -> str:
    runs: list[list[str]] = []
    for number in numbers:
        # `08-11` are 08, 09, 10 and 11: all have at least the digits of the first one.
        if runs and number == f"{int(runs[-1][-1]) + 1:0{len(runs[-1][0])}}":
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(run) for run in runs)

"""The fault table: its results, the file that keeps them, and its text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.faults.measure import Found

_TITLES = (
    f"{'fault':<13} {'mode':<12} {'then':<17} {'s med':>6} {'s max':>6} {'lost':>5} {'code':>5} {'accuracy':>9}"
    f" {'right':<7} message"
)


class Table:
    """All results so far.

    Args:
        path: JSON lines, one for each fault; more are appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        self._found = [msgspec.json.decode(line, type=Found) for line in lines]

    def add(self, found: list[Found]) -> None:
        """Add results, and write them to the file."""
        self._found += found
        with self._path.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in found))

    def cell(self, fault: str, mode: str) -> list[Found]:
        """Return the results of a fault in a mode."""
        return [one for one in self._found if (one.fault, one.mode) == (fault, mode)]

    def right(self) -> bool:
        """Return whether every job got over every fault."""
        return all(one.right for one in self._found)

    def lines(self) -> Iterator[str]:
        """Yield the table, a line for each cell, in the order in which they were measured."""
        yield _TITLES
        for fault, mode in dict.fromkeys((one.fault, one.mode) for one in self._found):
            yield self.line(fault, mode)

    def grid(self, faults: Sequence[str], modes: Sequence[str]) -> Iterator[str]:
        """Yield the results as a reStructuredText table: median seconds, most steps lost, number of faults."""
        rows = [["fault", *modes], *([fault, *(self._in_short(fault, mode) for mode in modes)] for fault in faults)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        bar = " ".join("=" * width for width in widths)
        title, *cells = (" ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        yield from (bar, title, bar, *cells, bar)

    def _in_short(self, fault: str, mode: str) -> str:
        found = self.cell(fault, mode)
        if not found:
            return "\\-"
        seconds = [one.seconds for one in found if one.seconds is not None]
        parts = [f"{statistics.median(seconds):.1f} s"] if seconds else []
        if lost := max(one.lost for one in found):
            parts.append(f"{lost} lost")
        if wrong := sum(not one.right for one in found):
            parts.append(f"{wrong} wrong")
        return f"{', '.join(parts)} ({len(found)})".strip()

    def line(self, fault: str, mode: str) -> str:
        """Return a cell's line."""
        found = self.cell(fault, mode)
        right = sum(one.right for one in found)
        worst = next((one for one in found if not one.right), found[-1])
        seconds = [one.seconds for one in found if one.seconds is not None] or [float("nan")]
        return (
            f"{fault:<13} {mode:<12} {'/'.join(sorted({one.then for one in found})):<17}"
            f" {statistics.median(seconds):>6.1f} {max(seconds):>6.1f} {max(one.lost for one in found):>5}"
            f" {worst.code:>5} {min(one.accuracy for one in found):>9.4f} {right:>3}/{len(found):<3}"
            f" {worst.message[:90]}"
        )

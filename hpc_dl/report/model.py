"""What a report consists of: figures, tables and findings. Pages and files are made of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

Cell = str | int | float | None
Style = Literal["line", "dots", "ideal"]


class Series(msgspec.Struct, frozen=True):
    """One line of a figure. It is interrupted where x goes back."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style = "line"


class Figure(msgspec.Struct, frozen=True):
    """Lines over one axis."""

    name: str
    """Its file's name, without the ending."""
    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    from_zero: bool = True
    """Whether the y axis begins at 0."""


class Matrix(msgspec.Struct, frozen=True):
    """Counts in rows and columns."""

    name: str
    title: str
    rows: str
    columns: str
    counts: Sequence[Sequence[int]]


class Table(msgspec.Struct, frozen=True):
    """Rows of cells."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def trimmed(self) -> Table:
        """Return the table without columns that have nothing."""
        kept = [number for number in range(len(self.columns)) if any(row[number] is not None for row in self.rows)]
        columns = [self.columns[number] for number in kept]
        return Table(self.name, self.title, columns, [[row[number] for number in kept] for row in self.rows])


class Finding(msgspec.Struct, frozen=True):
    """What limits a job."""

    what: str
    """Such as ``ps 0's network``."""
    why: str
    """The figures that show it, in a sentence."""
    remedy: str
    """What helps."""


class Report(msgspec.Struct, frozen=True):
    """A whole report."""

    title: str
    state: str
    facts: Mapping[str, str]
    """The most important figures, already as text."""
    findings: Sequence[Finding]
    measured: bool
    """Whether there is enough to look for what limits the job."""
    figures: Sequence[Figure | Matrix]
    tables: Sequence[Table]
    commands: Sequence[str]
    tables_first: bool = False

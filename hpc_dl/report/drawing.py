"""Where the parts of a figure are: the numbers that the templates of figures print. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from hpc_dl.report.curves import log_ticks, runs, ticks
from hpc_dl.report.model import Figure, Matrix, Series

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 34, 46
_LETTER = 7.4  # mean width of a letter
_COLOURS = 8
_LEGEND_LINE = 18
_LONGEST_NAME = 28
_FEW = 12  # points of a line up to which each is shown


class Tick(msgspec.Struct, frozen=True):
    """A mark at an axis."""

    at: float
    text: str


class Curve(msgspec.Struct, frozen=True):
    """A series as the ``d`` of an SVG path, or as dots."""

    name: str
    kind: str
    """CSS classes."""
    path: str
    dots: Sequence[tuple[float, float]] = ()


class Entry(msgspec.Struct, frozen=True):
    """A name in the legend."""

    x: float
    y: float
    name: str
    kind: str


class Drawing(msgspec.Struct, frozen=True):
    """A figure of lines, in the units of its SVG."""

    figure: Figure
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]
    legend: Sequence[Entry]


def drawing(figure: Figure) -> Drawing:
    """Return where the parts of a figure are."""
    x_low, x_high = _range([x for one in figure.series for x in one.x])
    y_low, y_high = _range([y for one in figure.series for y in one.y])
    if figure.from_zero and y_low >= 0:
        y_low = 0.0
    xs = log_ticks(max(x_low, 1e-9), max(x_high, 1e-9)) if figure.log_x else ticks(x_low, x_high)
    ys = ticks(y_low, y_high)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    # A linear x axis ends where the data ends: steps and times have no room to fill.
    ends = (xs[0], xs[-1]) if figure.log_x else (min(x_low, xs[0]) if x_low < 0 else x_low, x_high)
    x_at = _scale(ends[0], ends[1], _LEFT, right, figure.log_x)
    y_at = _scale(ys[0], ys[-1], bottom, _TOP)
    kinds = _kinds(figure.series)
    curves = [_curve(one, kind, x_at, y_at) for one, kind in zip(figure.series, kinds, strict=True)]
    legend, lines = _legend(figure.series, kinds)
    return Drawing(
        figure=figure,
        width=WIDTH,
        height=HEIGHT + _LEGEND_LINE * lines,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
        x_ticks=[
            Tick(x_at(one), _number(one)) for one in xs if ends[0] <= one * (1 + 1e-9) and one <= ends[1] * (1 + 1e-9)
        ],
        y_ticks=[Tick(y_at(one), _number(one)) for one in ys],
        curves=curves,
        legend=legend,
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Callable[[float], float]:
    """Return a function from a value to its place between `start` and `end`."""

    def place(value: float) -> float:
        return math.log10(max(value, 1e-12)) if log else value

    span = (place(high) - place(low)) or 1.0
    return lambda value: round(start + (end - start) * (place(value) - place(low)) / span, 1)


def _kinds(series: Sequence[Series]) -> list[str]:
    """Return the CSS classes of each series. Many of them share one quiet colour."""
    lines = sum(one.style == "line" for one in series)
    number = 0
    found: list[str] = []
    for one in series:
        if one.style != "line":
            found.append(one.style)
        elif lines > 2 * _COLOURS:
            found.append("line many")
        else:
            found.append(f"line c{number % _COLOURS}" + (" dashed" if number >= _COLOURS else ""))
            number += 1
    return found


def _curve(series: Series, kind: str, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> Curve:
    points = list(zip(series.x, series.y, strict=True))
    dots = [(x_at(x), y_at(y)) for x, y in points] if series.style == "dots" or len(points) <= _FEW else []
    if series.style == "dots":
        return Curve(series.name, kind, "", dots)
    parts = ("M" + "L".join(f"{x_at(x):g},{y_at(y):g}" for x, y in run) for run in runs(points))
    return Curve(series.name, kind, "".join(parts), dots if series.style == "line" else ())


def _legend(series: Sequence[Series], kinds: Sequence[str]) -> tuple[list[Entry], int]:
    """Return the legend and its number of lines; one series alone, or one of too many, has no entry."""
    named = [(one.name, kind) for one, kind in zip(series, kinds, strict=True) if "many" not in kind]
    if len(series) < 2:
        return [], 0
    found: list[Entry] = []
    x, line = float(_LEFT), 0
    if len(named) < len(series):
        named.insert(0, (f"{len(series) - len(named)} processes or nodes", "line many"))
    for name, kind in named:
        short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        wide = 26 + _LETTER * len(short)
        if x + wide > WIDTH and x > _LEFT:
            x, line = float(_LEFT), line + 1
        found.append(Entry(round(x, 1), HEIGHT + 4 + _LEGEND_LINE * line, short, kind))
        x += wide + 10
    return found, line + 1


def _number(value: float) -> str:
    """Return a tick's number, short: ``12k``, ``3M``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1000 if name == 'k' else unit):.4g}{name}"
    return f"{round(value, 10):.4g}"


class Square(msgspec.Struct, frozen=True):
    """A cell of a matrix."""

    x: float
    y: float
    count: int
    shade: float
    """From 0 to 1."""
    row: int
    column: int


class MatrixDrawing(msgspec.Struct, frozen=True):
    """A matrix, in the units of its SVG."""

    matrix: Matrix
    width: float
    height: float
    left: float
    top: float
    size: float
    numbers: bool
    """Whether the squares have room for their counts."""
    squares: Sequence[Square]
    labels: Sequence[tuple[float, int]]
    """Where the number of each class is, along either side."""


def matrix_drawing(matrix: Matrix) -> MatrixDrawing:
    """Return where the squares of a matrix are. The shade of a square is its share of its row."""
    count = len(matrix.counts)
    size = min(44.0, 440 / count)
    left, top = 64.0, 52.0
    squares = []
    for row, counts in enumerate(matrix.counts):
        total = sum(counts) or 1
        for column, number in enumerate(counts):
            if number or count <= 20:
                place = (round(left + column * size, 1), round(top + row * size, 1))
                squares.append(Square(*place, number, round(number / total, 3), row, column))
    every = 1 + count // 25
    labels = [(round((number + 0.5) * size, 1), number) for number in range(0, count, every)]
    width, height = left + count * size + 14, top + count * size + 12
    return MatrixDrawing(matrix, max(width, 300.0), height, left, top, size, count <= 20, squares, labels)

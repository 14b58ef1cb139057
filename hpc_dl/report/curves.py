"""Long measured series as short ones that a figure can show. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

MOST = 400  # points of a series in a figure

Point = tuple[float, float]


def thin(points: Iterable[Point], most: int = MOST) -> list[Point]:
    """Return at most about `most` points, each the mean of neighbours; those that are not finite are left out.

    Points before and after a place where x goes back don't mix.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = 1 + len(finite) // most
    return [_mean(run[start : start + size]) for run in runs(finite) for start in range(0, len(run), size)]


def runs(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Yield the parts of a series in which x does not go back."""
    begin = 0
    for index in range(1, len(points) + 1):
        if index == len(points) or points[index][0] < points[index - 1][0]:
            yield points[begin:index]
            begin = index


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def clock(begun: float, times: Sequence[float]) -> tuple[float, str]:
    """Return the seconds in a unit that suits times since `begun`, and its name."""
    span = max(times, default=begun) - begun
    if span >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if span >= 180 else (1.0, "seconds")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers from about `low` to about `high`, of which the ends lie outside or on them."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and 2 and 5 times these where there are few, that lie around positive numbers."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    found = [factor * 10.0**power for power in range(first, last) for factor in factors]
    return [*found, 10.0**last]

"""The distribution of step times: averages hide that some steps wait for others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

PER_DECADE = 10  # bins of the histogram; the same in every process, so that histograms add up


def summarise(seconds: Sequence[float]) -> dict[str, Any] | None:
    """Return minimum, median, 90th and 99th percentile (nearest rank), maximum and histogram; None for no steps.

    The histogram is a list of [lower end in seconds, number of steps]; each bin ends a tenth of a decade higher (a
    factor of 1.26), and empty ones in between are left out.
    """
    if not seconds:
        return None
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    # A very short step may take 0 seconds by the clock.
    bins = Counter(math.floor(PER_DECADE * math.log10(max(second, 1e-9))) for second in ordered)
    return {
        "min": ordered[0],
        "median": rank(0.5),
        "p90": rank(0.9),
        "p99": rank(0.99),
        "max": ordered[-1],
        "histogram": [[10 ** (number / PER_DECADE), count] for number, count in sorted(bins.items())],
    }

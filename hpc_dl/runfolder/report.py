"""The report of one job: step times and traffic of each process, the confusion matrix. Plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.metrics import figures, per_step

_BAR = 40  # characters of the histogram's longest bar
_COLUMNS = ("min", "median", "p90", "p99", "max")


def report_lines(run: RunFolder) -> Iterator[str]:
    """Yield the lines of a job's report; parts that are not known, or not yet, are left out."""
    processes = figures(run.metrics)
    times = {task: of["step_seconds"] for task, of in processes.items() if of.get("step_seconds")}
    if times:
        yield from _step_times(times, processes)
        yield from _histogram([of["histogram"] for of in times.values()])
    if traffic := per_step(processes):
        yield ""
        yield f"{'bytes per step':<16}{'sent':>12}{'received':>12}"
        for task, moved in traffic.items():
            yield f"{task:<16}{_bytes(moved['bytes_sent']):>12}{_bytes(moved['bytes_received']):>12}"
    confusion: Any = (run.read_result() or {}).get("confusion")
    if _is_matrix(confusion):
        yield from _confusion(confusion)


def _step_times(times: Mapping[str, Mapping[str, Any]], processes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield f"{'step times in ms':<16}{'steps':>8}" + "".join(f"{column:>10}" for column in _COLUMNS)
    for task, of in times.items():
        steps = processes[task]["local_steps"]
        yield f"{task:<16}{steps:>8}" + "".join(f"{1000 * of[column]:>10.4g}" for column in _COLUMNS)


def _histogram(histograms: Sequence[Sequence[tuple[float, int]]]) -> Iterator[str]:
    """Yield a bar for each bin, of all processes together; all have the same bins."""
    bins: Counter[float] = Counter()
    for histogram in histograms:
        bins.update(dict(histogram))
    longest = max(bins.values())
    yield ""
    yield "steps of all processes by their time, each bin from what it says to the next 1.26 times as much"
    for start, count in sorted(bins.items()):
        yield f"{1000 * start:>13.4g} ms{count:>8} {'#' * max(1, _BAR * count // longest)}"


def _is_matrix(value: Any) -> bool:
    """Return whether a value is rows of counts; a script of the user's own may use the key for something else."""
    rows = value if isinstance(value, list) else []
    return bool(rows) and all(isinstance(row, list) and row and all(isinstance(n, int) for n in row) for row in rows)


def _confusion(matrix: Sequence[Sequence[int]]) -> Iterator[str]:
    width = max(4, 1 + max(len(str(count)) for row in matrix for count in row))
    yield ""
    yield "test images by true class (rows) and found class (columns)"
    yield " " * 8 + "".join(f"{number:>{width}}" for number in range(len(matrix)))
    for number, row in enumerate(matrix):
        yield f"{number:>8}" + "".join(f"{count or '.':>{width}}" for count in row)


def duration(seconds: float) -> str:
    """Return seconds as ``42 s``, ``3:05 min`` or ``2:03:04 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"

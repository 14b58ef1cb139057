"""The figures of one job. Pure functions; a figure for which nothing was measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hpc_dl.monitor.reading import Rates, mean
from hpc_dl.report.curves import MOST, Point, clock, thin
from hpc_dl.report.measured import Line, Measured, Test
from hpc_dl.report.model import Figure, Matrix, Series, Style

_TOGETHER = 2000  # points of all series of a figure
_MB = 1e6
_BUSY_DISK = 1e6  # bytes per second from which a disk is worth a figure


def figures(job: Measured, one_worker: float | None = None) -> list[Figure | Matrix]:
    """Return the figures of a job.

    Args:
        job: what was measured.
        one_worker: images per second of a job with one worker, to draw the ideal; None: not known.
    """
    found: list[Figure | Matrix | None] = [
        *_training(job),
        throughput(job, one_worker),
        step_times({process: of for process, of in job.figures.items() if of.get("step_seconds")}),
        *_nodes(job),
        confusion(job.result.get("confusion")),
    ]
    return [
        figure for figure in found if isinstance(figure, Matrix) or (figure and any(one.x for one in figure.series))
    ]


def series(name: str, points: Sequence[Point], share: int = 1, style: Style = "line") -> Series:
    """Return a series of a figure that shows `share` of them."""
    short = thin(points, max(20, min(MOST, _TOGETHER // max(1, share))))
    return Series(name, [x for x, _ in short], [y for _, y in short], style)


def _training(job: Measured) -> Iterator[Figure]:
    unit, word = clock(job.begun, [line.time for lines in job.workers.values() for line in lines[-1:]])
    axes: dict[str, tuple[str, Callable[[Line | Test], float]]] = {
        "steps": ("global step", lambda line: line.step),
        "time": (f"{word} since the job's start", lambda line: (line.time - job.begun) / unit),
    }
    for value in ("loss", "accuracy"):
        for name, (axis, x) in axes.items():
            title = f"Training {value} by {name.removesuffix('s')}"
            yield Figure(f"{value}-{name}", title, axis, value, _curves(job, value, x))


def _curves(job: Measured, value: str, x: Callable[[Line | Test], float]) -> list[Series]:
    """Return a line for each worker, and dots for the evaluations on the test set."""
    lines = [
        series(process, [(x(line), getattr(line, value)) for line in lines], len(job.workers))
        for process, lines in job.workers.items()
    ]
    tests = series("test set", [(x(test), getattr(test, value)) for test in job.tests], style="dots")
    return [*lines, tests] if tests.x else lines


def total_speed(job: Measured) -> list[tuple[float, float]]:
    """Return times, and the images per second of all workers at each: of each worker those of its last line."""
    lines = sorted((line.time, process, line.images_per_s) for process, of in job.workers.items() for line in of)
    last: dict[str, float] = {}
    found = []
    for time, process, speed in lines:
        last[process] = speed
        if len(last) == len(job.workers):
            found.append((time, sum(last.values())))
    return found


def throughput(job: Measured, one_worker: float | None = None) -> Figure:
    """Return images per second of all workers over time."""
    speeds = total_speed(job)
    unit, word = clock(job.begun, [time for time, _ in speeds])
    points = [((time - job.begun) / unit, speed) for time, speed in speeds]
    found = [series("all workers", points)]
    if one_worker and points:
        ideal = one_worker * len(job.workers)
        found.append(Series("ideal", [points[0][0], points[-1][0]], [ideal, ideal], "ideal"))
    return Figure("throughput", "Throughput", f"{word} since the job's start", "images/s", found)


def step_times(processes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return the distribution of step times, as shares of each process's steps."""
    found = []
    for process, of in processes.items():
        bins = [(1000 * float(start), int(count)) for start, count in of["step_seconds"].get("histogram", ())]
        steps = sum(count for _, count in bins)
        x: list[float] = []
        y: list[float] = []
        for start, count in bins:
            if x and start > x[-1] * 1.01:  # empty bins in between
                x, y = [*x, x[-1], start], [*y, 0.0, 0.0]
            begin = x[-1] if x else start
            x, y = [*x, begin, begin * 10**0.1], [*y, 100 * count / steps, 100 * count / steps]
        if bins:
            found.append(Series(process, [x[0], *x, x[-1]], [0.0, *y, 0.0]))
    return Figure("step-times", "Distribution of step times", "ms", "% of the steps", found, log_x=True)


def _nodes(job: Measured) -> Iterator[Figure]:
    rates = {name: node.rates for name, node in job.nodes.items() if node.rates}
    unit, word = clock(job.begun, [of[-1].time for of in rates.values()])
    x = f"{word} since the job's start"
    loopback = job.one_machine

    def lines(
        value: Callable[[Rates], float], suffix: str = "", of: Mapping[str, Sequence[Rates]] = rates
    ) -> list[Series]:
        return [
            series(name + suffix, [((one.time - job.begun) / unit, value(one)) for one in ones], 2 * len(rates))
            for name, ones in of.items()
        ]

    processes = sorted({name for of in rates.values() for one in of[-200:] for name in one.processes})
    cpu = [
        series(
            name,
            [((one.time - job.begun) / unit, one.processes[name]) for one in of if name in one.processes],
            len(processes),
        )
        for name in processes
        for of in rates.values()
        if any(name in one.processes for one in of[-200:])
    ]
    place = "loopback interface" if loopback else "network"
    yield Figure("cpu-processes", "CPU of each process", x, "cores in use", cpu)
    yield Figure("cpu-nodes", "CPU of each node", x, "cores in use", lines(lambda one: one.busy))
    yield Figure("sent", f"Bytes sent ({place})", x, "MB/s", lines(lambda one: one.moved(loopback).sent / _MB))
    if not loopback:  # there each byte that is sent is received at once
        received = lines(lambda one: one.moved().received / _MB)
        yield Figure("received", f"Bytes received ({place})", x, "MB/s", received)
    packets = lines(lambda one: one.moved(loopback).packets_sent / 1000)
    yield Figure("packets", f"Packets sent ({place})", x, "1000 packets/s", packets)
    yield Figure("memory", "Memory of each node", x, "GB in use", lines(lambda one: one.memory / 1e9))
    if any(one.read + one.written > _BUSY_DISK for of in rates.values() for one in of):
        disk = [*lines(lambda one: one.read / _MB, " read"), *lines(lambda one: one.written / _MB, " written")]
        yield Figure("disk", "Local disks", x, "MB/s", disk)
    gpus = {name: [one for one in of if one.gpus] for name, of in rates.items()}
    gpus = {name: of for name, of in gpus.items() if of}
    use = lines(lambda one: 100 * mean([gpu.use or 0.0 for gpu in one.gpus]), of=gpus)
    yield Figure("gpu-use", "GPUs of each node", x, "% in use", use)
    yield Figure(
        "gpu-memory", "GPU memory", x, "GB", lines(lambda one: sum(g.memory or 0 for g in one.gpus) / 1e9, of=gpus)
    )
    yield Figure(
        "gpu-power", "GPU power", x, "W", lines(lambda one: sum(gpu.power or 0.0 for gpu in one.gpus), of=gpus)
    )


def confusion(matrix: Any) -> Matrix | None:
    """Return the confusion matrix; None if a result has none that is rows of counts."""
    rows = matrix if isinstance(matrix, list) else []
    if not rows or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        return None
    if not all(isinstance(count, int) and count >= 0 for row in rows for count in row):
        return None
    return Matrix("confusion", "Test images by class", "true class", "class found", rows)

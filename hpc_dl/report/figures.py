"""The figures of one job. Pure functions; a figure for which nothing was measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hpc_dl.monitor.reading import Rates, mean
from hpc_dl.report.curves import MOST, Point, clock, thin
from hpc_dl.report.measured import Line, Measured, Test, order
from hpc_dl.report.model import Figure, Matrix, Series, Style

_TOGETHER = 2000  # points of all series of a figure
_MB, _GB = 1e6, 1e9
_BUSY_DISK = 1e6  # bytes per second from which a disk is worth a figure

_NodeRates = Mapping[str, Sequence[Rates]]


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
    found, total = [], 0.0
    for time, process, speed in lines:
        total += speed - last.get(process, 0.0)
        last[process] = speed
        if len(last) == len(job.workers):
            found.append((time, total))
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


class _Clock(NamedTuple):
    """The time axis of a job's figures."""

    begun: float
    unit: float
    label: str

    def lines(self, rates: _NodeRates, value: Callable[[Rates], float], suffix: str = "") -> list[Series]:
        """Return a line for each node."""
        return [self.line(name + suffix, of, value, 2 * len(rates)) for name, of in rates.items()]

    def line(self, name: str, rates: Sequence[Rates], value: Callable[[Rates], float], share: int) -> Series:
        """Return a line of a figure that has `share` of them."""
        return series(name, [((one.time - self.begun) / self.unit, value(one)) for one in rates], share)


def _nodes(job: Measured) -> Iterator[Figure]:
    """Yield what the monitors saw."""
    rates = {name: node.rates for name, node in job.nodes.items() if node.rates}
    unit, word = clock(job.begun, [of[-1].time for of in rates.values()])
    axis = _Clock(job.begun, unit, f"{word} since the job's start")
    yield _processes(rates, axis)
    yield Figure("cpu-nodes", "CPU of each node", axis.label, "cores in use", axis.lines(rates, lambda one: one.busy))
    yield from _traffic(rates, axis, job.one_machine)
    memory = axis.lines(rates, lambda one: one.memory / _GB)
    yield Figure("memory", "Memory of each node", axis.label, "GB in use", memory)
    if any(one.read + one.written > _BUSY_DISK for of in rates.values() for one in of):
        read = axis.lines(rates, lambda one: one.read / _MB, " read")
        written = axis.lines(rates, lambda one: one.written / _MB, " written")
        yield Figure("disk", "Local disks", axis.label, "MB/s", [*read, *written])
    with_gpus = {name: [one for one in of if one.gpus] for name, of in rates.items()}
    yield from _gpus({name: of for name, of in with_gpus.items() if of}, axis)


def _processes(rates: _NodeRates, axis: _Clock) -> Figure:
    names = {node: sorted({name for one in of for name in one.processes}) for node, of in rates.items()}
    share = sum(map(len, names.values()))

    def line(node: str, name: str) -> Series:
        own = [one for one in rates[node] if name in one.processes]
        return axis.line(name, own, lambda one: one.processes[name], share)

    lines = [line(node, name) for node, of in names.items() for name in of]
    lines.sort(key=lambda one: order(one.name))
    return Figure("cpu-processes", "CPU of each process", axis.label, "cores in use", lines)


def _traffic(rates: _NodeRates, axis: _Clock, loopback: bool) -> Iterator[Figure]:
    where = "loopback interface" if loopback else "network"
    sent = axis.lines(rates, lambda one: one.moved(loopback).sent / _MB)
    yield Figure("sent", f"Bytes sent ({where})", axis.label, "MB/s", sent)
    if not loopback:  # there each byte that is sent is received at once
        received = axis.lines(rates, lambda one: one.moved().received / _MB)
        yield Figure("received", f"Bytes received ({where})", axis.label, "MB/s", received)
    packets = axis.lines(rates, lambda one: one.moved(loopback).packets_sent / 1000)
    yield Figure("packets", f"Packets sent ({where})", axis.label, "1000 packets/s", packets)


def _gpus(rates: _NodeRates, axis: _Clock) -> Iterator[Figure]:
    use = axis.lines(rates, lambda one: 100 * mean([gpu.use or 0.0 for gpu in one.gpus]))
    yield Figure("gpu-use", "GPUs of each node", axis.label, "% in use", use)
    memory = axis.lines(rates, lambda one: sum(gpu.memory or 0 for gpu in one.gpus) / _GB)
    yield Figure("gpu-memory", "GPU memory of each node", axis.label, "GB in use", memory)
    power = axis.lines(rates, lambda one: sum(gpu.power or 0.0 for gpu in one.gpus))
    yield Figure("gpu-power", "GPU power of each node", axis.label, "W", power)


def confusion(matrix: Any) -> Matrix | None:
    """Return the confusion matrix; None if a result has none that is rows of counts."""
    rows = matrix if isinstance(matrix, list) else []
    if not rows or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        return None
    if not all(isinstance(count, int) and count >= 0 for row in rows for count in row):
        return None
    return Matrix("confusion", "Test images by class", "true class", "class found", rows)

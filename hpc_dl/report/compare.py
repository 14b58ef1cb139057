"""Several jobs side by side. Pure functions."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from hpc_dl.report.curves import Point, clock
from hpc_dl.report.figures import series, step_times, total_speed
from hpc_dl.report.measured import Measured
from hpc_dl.report.model import Figure, Report, Series, Table
from hpc_dl.report.tables import commands, cost
from hpc_dl.runfolder.report import duration

_COLUMNS = ("job", "state", "network", "mode", "nodes", "workers", "ps", "batch", "steps", "steps/s", "images/s",
            "speedup", "efficiency %", "test accuracy %", "time", "node-hours", "price")  # fmt: skip


class Speed(msgspec.Struct, frozen=True):
    """How fast a job is, and beside the job of its kind with the fewest workers."""

    workers: int
    images_per_s: float | None
    speedup: float | None = None
    """1 for that job."""
    efficiency: float | None = None
    """Speedup divided by how many times as many workers it has."""


def compare(jobs: Sequence[Measured], states: Sequence[str], made_by: str) -> Report:
    """Return a report on several jobs.

    Args:
        jobs: what was measured.
        states: their states now.
        made_by: the command that makes the report.
    """
    fast = speeds(jobs)
    return Report(
        title=f"Comparison of {len(jobs)} jobs",
        state=", ".join(f"{count} {state}" for state, count in Counter(states).items()),
        facts={},
        findings=[],
        measured=False,
        figures=[figure for figure in _figures(jobs, fast) if any(one.x for one in figure.series)],
        tables=[_table(jobs, states, fast).trimmed()],
        tables_first=True,
        commands=[*(commands(job, made_by)[0] for job in jobs), made_by],
    )


def _kind(job: Measured) -> tuple[object, ...]:
    """Return what jobs must share so that their speeds can be compared."""
    spec = job.job
    return (spec.script, spec.args) if spec.script else (spec.model, spec.data, spec.batch)


def images_per_s(job: Measured) -> float | None:
    """Return what a job reported, else the mean of its lines; None: it has neither."""
    told = job.result.get("images_per_s")
    if isinstance(told, (int, float)) and not isinstance(told, bool):
        return float(told)
    lines = total_speed(job)
    return sum(speed for _, speed in lines) / len(lines) if lines else None


def workers_of(job: Measured) -> int:
    """Return the number of a job's workers."""
    if job.placement:
        return sum(process.role == "worker" for process in job.placement.processes)
    return len(job.workers) or job.job.nodes * job.job.per_node


def speeds(jobs: Sequence[Measured]) -> list[Speed]:
    """Return how fast each job is, beside the first one with the fewest workers among those of its kind."""
    plain = [Speed(workers_of(job), images_per_s(job)) for job in jobs]
    base: dict[tuple[object, ...], Speed] = {}
    for job, speed in sorted(zip(jobs, plain, strict=True), key=lambda pair: pair[1].workers):
        if speed.images_per_s:
            base.setdefault(_kind(job), speed)
    return [_beside(speed, base.get(_kind(job))) for job, speed in zip(jobs, plain, strict=True)]


def _beside(speed: Speed, base: Speed | None) -> Speed:
    if not speed.images_per_s or not base or not base.images_per_s:
        return speed
    speedup = speed.images_per_s / base.images_per_s
    return Speed(speed.workers, speed.images_per_s, speedup, speedup * base.workers / max(1, speed.workers))


def _table(jobs: Sequence[Measured], states: Sequence[str], fast: Sequence[Speed]) -> Table:
    rows = []
    for job, state, speed in zip(jobs, states, fast, strict=True):
        spec, told = job.job, job.result
        accuracy, steps, rate = (told.get(key) for key in ("test_accuracy", "steps", "steps_per_s"))
        price = cost(job)
        rows.append((
            job.name,
            state,
            spec.script or spec.model,
            spec.mode,
            len(job.placement.nodes) if job.placement else spec.nodes,
            speed.workers,
            sum(process.role == "ps" for process in job.placement.processes) if job.placement else spec.ps,
            None if spec.script else spec.batch,
            _number(steps),
            _number(rate),
            _number(speed.images_per_s),
            _number(speed.speedup),
            _number(100 * speed.efficiency if speed.efficiency else None),
            _number(100 * accuracy if isinstance(accuracy, (int, float)) else None),
            duration(job.seconds) if job.seconds else None,
            _number(price["node-hours"]),
            _number(price.get("price")),
        ))  # fmt: skip
    return Table("jobs", "Jobs", _COLUMNS, rows)


def _number(value: object) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _figures(jobs: Sequence[Measured], fast: Sequence[Speed]) -> list[Figure]:
    unit, word = clock(0.0, [lines[-1].time - job.begun for job in jobs for lines in job.workers.values()])
    since = f"{word} since the job's start"
    found = _scaling(jobs, fast)
    for value in ("loss", "accuracy"):
        by_step = _overlaid(jobs, functools.partial(_curve, value, None))
        found.append(Figure(f"{value}-steps", f"Training {value} by step", "global step", value, by_step))
        by_time = _overlaid(jobs, functools.partial(_curve, value, unit))
        found.append(Figure(f"{value}-time", f"Training {value} by time", since, value, by_time))
    speeds = _overlaid(jobs, lambda job: [((time - job.begun) / unit, speed) for time, speed in total_speed(job)])
    found.append(Figure("throughput", "Throughput", since, "images/s", speeds))
    return [*found, step_times({job.name: merged for job in jobs if (merged := _merged(job))})]


def _overlaid(jobs: Sequence[Measured], points: Callable[[Measured], Sequence[Point]]) -> list[Series]:
    return [series(job.name, points(job), len(jobs)) for job in jobs if job.workers]


def _curve(value: str, unit: float | None, job: Measured) -> list[Point]:
    """Return the loss or accuracy of a job's worker 0 by time in a unit of so many seconds; None: by step."""
    lines = job.workers.get("worker:0") or next(iter(job.workers.values()))
    return [((line.time - job.begun) / unit if unit else line.step, getattr(line, value)) for line in lines]


def _merged(job: Measured) -> Mapping[str, object] | None:
    """Return the histogram of all step times of a job, as that of one process."""
    bins: Counter[float] = Counter()
    for of in job.figures.values():
        bins.update({float(start): int(count) for start, count in (of.get("step_seconds") or {}).get("histogram", ())})
    return {"step_seconds": {"histogram": sorted(bins.items())}} if bins else None


def _scaling(jobs: Sequence[Measured], fast: Sequence[Speed]) -> list[Figure]:
    """Return speed and speedup over the number of workers, a line for each kind of jobs and mode."""
    groups: dict[str, list[tuple[int, Speed]]] = {}
    for job, speed in zip(jobs, fast, strict=True):
        if speed.images_per_s:
            name = f"{job.job.script.rpartition('/')[2] or job.job.model} {job.job.mode}"
            groups.setdefault(name, []).append((speed.workers, speed))
    if len({workers for of in groups.values() for workers, _ in of}) < 2:
        return []
    lines, ups = [], []
    for name, of in groups.items():
        of.sort(key=lambda pair: pair[0])
        x = [float(workers) for workers, _ in of]
        lines.append(Series(name, x, [speed.images_per_s or 0.0 for _, speed in of]))
        ups.append(Series(name, x, [speed.speedup or 0.0 for _, speed in of]))
    few, many = min(one.x[0] for one in ups), max(one.x[-1] for one in ups)
    ups.append(Series("ideal", [few, many], [1.0, many / few], "ideal"))
    return [
        Figure("images-workers", "Throughput by workers", "workers", "images/s", lines),
        Figure("speedup", "Speedup by workers", "workers", "times the job with the fewest", ups),
    ]

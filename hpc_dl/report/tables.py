"""The tables of one job, and the facts at the top of its report. Pure functions."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from hpc_dl.monitor.reading import Rates, mean
from hpc_dl.report.measured import Measured
from hpc_dl.report.model import Cell, Table
from hpc_dl.runfolder.metrics import per_step
from hpc_dl.runfolder.report import duration
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.options import NOT_SHOWN

_SHOWN_ELSEWHERE = ("confusion", "step_seconds", "bytes_per_step", "devices")


def tables(job: Measured) -> list[Table]:
    """Return the tables of a job; those without rows are left out."""
    found = (_processes(job), _nodes(job), _attempts(job), _cost(job), _result(job), _settings(job.job))
    return [table.trimmed() for table in found if table.rows]


def training_rates(rates: Sequence[Rates], job: Measured) -> list[Rates]:
    """Return what a node did while the job trained; without a training loop of ours, all."""
    begin, end = job.trained
    return [one for one in rates if begin < one.time <= end] if end > begin else list(rates)


def _processes(job: Measured) -> Table:
    columns = ("process", "node", "GPUs", "cores", "CPU in use", "steps", "median ms", "p90 ms", "p99 ms", "max ms",
               "bytes sent per step", "bytes received per step")  # fmt: skip
    placed = {process.name: process for process in job.placement.processes} if job.placement else {}
    cpu = {
        name: mean([one.processes[name] for one in rates if name in one.processes])
        for node in job.nodes.values()
        for rates in [training_rates(node.rates, job)]
        for name in {name for one in rates for name in one.processes}
    }
    figures = {name: dict(of) for name, of in job.figures.items()}
    traffic = per_step(figures)
    rows = []
    for name in dict.fromkeys([*placed, *figures, *cpu]):
        where, of = placed.get(name), figures.get(name, {})
        times: Mapping[str, Any] = of.get("step_seconds") or {}
        moved = traffic.get(name, {})
        rows.append((
            name,
            where.node if where else None,
            (where.visible_gpus or "none") if where else None,
            (where.core_list or "not bound") if where else None,
            _rounded(cpu.get(name)),
            of.get("local_steps"),
            *(_rounded(1000 * times[key] if key in times else None) for key in ("median", "p90", "p99", "max")),
            _whole(moved.get("bytes_sent")),
            _whole(moved.get("bytes_received")),
        ))  # fmt: skip
    return Table("processes", "Processes, and where they ran", columns, _filled(rows))


def _filled(rows: list[Any]) -> list[Any]:
    """Return the rows; none if no cell but the first has something."""
    return rows if any(cell is not None for row in rows for cell in row[1:]) else []


def _nodes(job: Measured) -> Table:
    columns = ("node", "cores", "CPU in use", "waiting for disk", "MB/s sent", "MB/s received", "packets/s sent",
               "GB of memory", "GPUs", "GPU %", "GPU W")  # fmt: skip
    rows = []
    for name, node in job.nodes.items():
        rates = training_rates(node.rates, job)
        if not rates:
            continue
        moved = [one.moved(job.one_machine) for one in rates]
        gpus = [gpu for one in rates for gpu in one.gpus]
        rows.append((
            name,
            node.start.cores if node.start else None,
            _rounded(mean([one.busy for one in rates])),
            _rounded(mean([one.iowait for one in rates])),
            _rounded(mean([one.sent for one in moved]) / 1e6),
            _rounded(mean([one.received for one in moved]) / 1e6),
            _whole(mean([one.packets_sent for one in moved])),
            _rounded(max(one.memory for one in rates) / 1e9),
            ", ".join(dict.fromkeys(gpu.name for gpu in node.start.gpus)) or None if node.start else None,
            _rounded(100 * mean([gpu.use for gpu in gpus if gpu.use is not None])) if gpus else None,
            _whole(sum(gpu.power or 0.0 for gpu in gpus) / len(rates)) if gpus else None,
        ))  # fmt: skip
    return Table("nodes", "Nodes, on average while they trained", columns, rows)


def _attempts(job: Measured) -> Table:
    columns = ("attempt", "event", "time", "exit code", "cause", "then")
    rows = [
        (
            event.attempt,
            event.event,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time)),
            event.exit_code if event.event == "ended" else None,
            event.cause or None,
            event.then or None,
        )
        for event in job.attempts
    ]
    return Table("attempts", "Starts of all processes", columns, rows if len(rows) > 2 else [])


def cost(job: Measured) -> dict[str, float]:
    """Return node-hours, GPU-hours, and the price if the site has one."""
    nodes = len(job.placement.nodes) if job.placement else job.job.nodes
    hours = nodes * job.seconds / 3600
    found = {"node-hours": hours}
    if job.job.gpus:
        found["GPU-hours"] = hours * job.job.gpus
    if job.site.node_price is not None:
        found["price"] = hours * job.site.node_price
    return found


def _cost(job: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = [(what, _rounded(number)) for what, number in cost(job).items()]
    images = job.result.get("images")
    if job.seconds and isinstance(images, int) and images:
        per = cost(job)
        rows += [(f"{what} for a million images", _rounded(1e6 * number / images)) for what, number in per.items()]
    return Table("cost", "Cost", ("what", "how much"), rows if job.seconds else [])


def _result(job: Measured) -> Table:
    rows = [(key, _short(value)) for key, value in job.result.items() if key not in _SHOWN_ELSEWHERE]
    return Table("result", "What the job reported", ("key", "value"), rows)


def _settings(job: JobSpec) -> Table:
    defaults = {field.name: field.default for field in msgspec.structs.fields(JobSpec)}
    shown = {key: value for key, value in msgspec.structs.asdict(job).items() if value != defaults[key] and value}
    rows = [(key, "not shown" if key in NOT_SHOWN else _short(value)) for key, value in shown.items()]
    return Table("settings", "Settings that are not the defaults", ("key", "value"), rows)


def facts(job: Measured) -> Iterator[tuple[str, str]]:
    """Yield the most important figures, with their names."""
    result = job.result
    for key, name, form in (
        ("test_accuracy", "test accuracy", "{:.2%}"),
        ("steps", "steps", "{:,}"),
        ("steps_per_s", "steps/s", "{:.4g}"),
        ("images_per_s", "images/s", "{:,.0f}"),
    ):
        value = result.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, form.format(value)
    if not result and job.workers:
        last = [lines[-1] for lines in job.workers.values()]
        yield "step", f"{max(line.step for line in last):,}"
        yield "steps/s", f"{mean([line.global_steps_per_s for line in last]):.4g}"
        yield "images/s", f"{sum(line.images_per_s for line in last):,.0f}"
    if job.seconds:
        yield "time", duration(job.seconds)
        for what, number in cost(job).items():
            yield what, f"{number:.3g}"


def commands(job: Measured, made_by: str) -> list[str]:
    """Return the commands that submit the job again, and that made the report."""
    site = f" --site {shlex.quote(job.site.name)}" if job.site.name else ""
    return [f"hpc-dl submit {shlex.quote(job.path + '/asked.toml')}{site}", made_by]


def _short(value: object) -> Cell:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _rounded(value)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _rounded(value: float | None) -> Cell:
    """Return a number with four digits, whole ones as they are."""
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def _whole(value: float | None) -> Cell:
    return None if value is None else round(value)

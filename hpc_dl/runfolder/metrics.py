"""What each process of a run did, from the metrics that it left: step times and traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FIELDS = ("local_steps", "step_seconds", "bytes_sent", "bytes_received")


def figures(metrics: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of each process, ``worker-0``, ``ps-0``, …, by its last run.

    Each has `devices`, the names of what it computes on. A worker has `local_steps`, `step_seconds` (see
    `hpc_dl.train.reporting.step_times`), and `bytes_sent` and `bytes_received` in its training loop, all since it was
    started last. A ps has the bytes of its whole life, and `all_steps`, those that workers made in that time; of a
    worker that was killed these are the steps up to its last line. Processes that have not come that far are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    begun: dict[str, float] = {}
    lives: list[tuple[float, int]] = []  # last time and number of steps
    for path in sorted(metrics.glob("*.jsonl")):
        time, steps, devices = 0.0, 0, []
        for record in _records(path):
            if record.get("event") == "imported":  # it was started again
                lives.append((time, steps))
                begun[path.stem], steps = record.get("time", 0.0), 0
                devices = record.get("devices", [])
                found.pop(path.stem, None)
            elif record.get("event") in ("trained", "traffic"):
                found[path.stem] = {"devices": devices, **{key: record[key] for key in _FIELDS if key in record}}
            time, steps = record.get("time", 0.0), record.get("local_steps", record.get("local_step", steps))
        lives.append((time, steps))
    for task, of in found.items():
        if "local_steps" not in of:
            of["all_steps"] = sum(steps for last, steps in lives if last >= begun.get(task, 0.0))
    return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and (record := parse_record(line)):  # the last one may be half written
            yield record


def parse_record(line: bytes) -> dict[str, Any]:
    """Return what a line of a metrics file says; nothing for one that a disk has damaged, or a script has written."""
    try:
        record = json.loads(line)  # not msgspec: a loss may be NaN
    except (ValueError, RecursionError):
        return {}
    numbers = isinstance(record, dict) and all(isinstance(record.get(key, 0), (int, float)) for key in ("time", "step"))
    return record if numbers else {}


def per_step(processes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the bytes that each process sent and received per step: a worker's own steps, for a ps those of all."""
    return {
        name: {key: figures[key] / own for key in ("bytes_sent", "bytes_received")}
        for name, figures in processes.items()
        if (own := figures.get("local_steps") or figures.get("all_steps"))
    }

"""Step times and traffic of each process of a run, from its metrics file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class StepSeconds(msgspec.Struct):
    """Step times, as the training program writes them."""

    min: Seconds
    median: Seconds
    p90: Seconds
    p99: Seconds
    max: Seconds
    histogram: list[tuple[Annotated[float, msgspec.Meta(gt=0, le=1e12)], Annotated[int, msgspec.Meta(ge=1)]]]


_FIELDS: dict[str, Any] = {
    "local_steps": Count,
    "step_seconds": StepSeconds | None,
    "bytes_sent": Count,
    "bytes_received": Count,
}


def figures(metrics: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of each process, ``worker-0``, ``ps-0``, …, since its last start.

    Each process has `devices`, the names of the devices that it computes on. A worker has `local_steps`, `step_seconds`
    (see `hpc_dl.train.reporting.step_times`), and the `bytes_sent` and `bytes_received` in its training loop. A ps has
    all bytes since it started, and `all_steps`, the steps that all workers made meanwhile (for a worker that was
    killed, the steps up to its last line). A process without figures yet is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    begun: dict[str, float] = {}
    lives: list[tuple[float, int]] = []  # last time and number of steps of each start of a process
    for path in sorted(metrics.glob("*.jsonl")):
        time, steps, devices = 0.0, 0, []
        for record in records(path):
            if record.get("event") == "imported":  # the process has started, maybe again
                lives.append((time, steps))
                begun[path.stem], steps = record.get("time", 0.0), 0
                devices = record.get("devices", [])
                found.pop(path.stem, None)
            elif record.get("event") in ("trained", "traffic"):
                found[path.stem] = {"devices": devices, **_figures(record)}
            time, steps = record.get("time", 0.0), record.get("local_steps", record.get("local_step", steps))
        lives.append((time, steps))
    for task, of in found.items():
        if "local_steps" not in of:
            of["all_steps"] = sum(steps for last, steps in lives if last >= begun.get(task, 0.0))
    return found


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a record that are what they should be; a disk may have damaged some."""
    found = {}
    for key, kind in _FIELDS.items():
        with contextlib.suppress(msgspec.ValidationError):
            if key in record:
                msgspec.convert(record[key], kind)
                found[key] = record[key]
    return found


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics file, without damaged lines and a last one that is half written."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and (record := parse_record(line)):
            yield record


def parse_record(line: bytes) -> dict[str, Any]:
    """Return the record in a line of a metrics file; empty if a disk damaged it, or a script wrote it."""
    try:
        record = json.loads(line)  # not msgspec: a loss may be NaN
    except (ValueError, RecursionError):
        return {}
    numbers = isinstance(record, dict) and all(isinstance(record.get(key, 0), (int, float)) for key in ("time", "step"))
    return record if numbers else {}


def per_step(processes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the bytes that each process sent and received per step; for a ps the steps of all workers count."""
    return {
        name: {key: figures.get(key, 0) / own for key in ("bytes_sent", "bytes_received")}
        for name, figures in processes.items()
        if (own := figures.get("local_steps") or figures.get("all_steps"))
    }

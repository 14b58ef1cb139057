"""What each process of a run did, from the metrics that it left: step times and traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FIELDS = ("local_steps", "step_seconds", "bytes_sent", "bytes_received")


def figures(metrics: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of each process, ``worker-0``, ``ps-0``, …, by its last run.

    A worker has `local_steps`, `step_seconds` (see `hpc_dl.train.steptimes`), and `bytes_sent` and `bytes_received` in
    its training loop; a ps has the bytes of its whole life. Processes that have not come that far are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(metrics.glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            # The last line may be half written.
            record = json.loads(line) if line.endswith(b"\n") else {}
            if record.get("event") == "imported":  # it was started again
                found.pop(path.stem, None)
            elif record.get("event") in ("trained", "traffic"):
                found[path.stem] = {key: record[key] for key in _FIELDS if key in record}
    return found


def per_step(processes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the bytes that each process sent and received per step: a worker's own steps, for a ps those of all."""
    steps = sum(figures.get("local_steps", 0) for figures in processes.values())
    return {
        name: {key: figures[key] / own for key in ("bytes_sent", "bytes_received")}
        for name, figures in processes.items()
        if (own := figures.get("local_steps", steps))
    }

"""Progress of a running job, read from the metrics that its workers append to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.runfolder import RunFolder


class Totals(msgspec.Struct, frozen=True):
    """The whole job's figures at one time."""

    step: int = 0
    """Highest global step that any worker reported."""
    steps_per_s: float = 0.0
    """Global steps per second: the sum over the workers where each makes steps of its own."""
    images_per_s: float = 0.0
    loss: float | None = None
    """Mean over the workers of their last training batch."""
    accuracy: float | None = None
    workers: int = 0
    """How many workers have reported a step."""
    evaluating: bool = False

    def seconds_left(self, steps: int) -> float | None:
        """Return how long the training still takes at this speed; None while there is no speed."""
        return max(0, steps - self.step) / self.steps_per_s if self.steps_per_s > 0 else None


class Progress:
    """Follows the metrics files of a run folder; reads only what was appended since the last look."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._offsets: dict[Path, int] = {}
        self._last: dict[Path, dict[str, Any]] = {}
        self._events: dict[Path, set[str]] = {}

    def look(self) -> Totals:
        """Return the totals now."""
        for path in self._run.metrics.glob("*.jsonl"):
            self._read(path)
        return totals(self._last, any("evaluating" in events for events in self._events.values()))

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            appended = file.read()
        # The last line may be half written: it is read next time.
        whole = appended[: appended.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            record: dict[str, Any] = json.loads(line)  # not msgspec: a loss may be NaN
            if "event" in record:
                self._events.setdefault(path, set()).add(record["event"])
            else:
                self._last[path] = record


def totals(last: Mapping[Path, Mapping[str, Any]], evaluating: bool = False) -> Totals:
    """Return the job's totals from each worker's last record."""
    records = list(last.values())
    if not records:
        return Totals(evaluating=evaluating)

    def mean(key: str) -> float | None:
        values = [record[key] for record in records if record.get(key) is not None]
        return sum(values) / len(values) if values else None

    def total(key: str) -> float:
        return sum(record.get(key) or 0.0 for record in records)

    return Totals(
        step=max(record["step"] for record in records),
        steps_per_s=total("steps_per_s") / (len(records) if any(record.get("together") for record in records) else 1),
        images_per_s=total("images_per_s"),
        loss=mean("loss"),
        accuracy=mean("accuracy"),
        workers=len(records),
        evaluating=evaluating,
    )

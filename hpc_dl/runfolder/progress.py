"""Progress of a running job, read from the metrics that its workers append to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.metrics import parse_record

_TAIL = 64_000  # bytes at the end of a metrics file that the first look reads
# A time without a step is notable if it is _QUIET seconds, and _LATE times the time between a worker's last two lines.
_QUIET, _LATE = 60.0, 5


class Totals(msgspec.Struct, frozen=True):
    """The whole job's figures at one time."""

    step: int = 0
    """Highest global step that any worker reported."""
    steps_per_s: float = 0.0
    """Global steps per second. Each worker measures them, so this is the mean over the workers."""
    images_per_s: float = 0.0
    loss: float | None = None
    """Mean over the workers of their last training batch."""
    accuracy: float | None = None
    workers: int = 0
    """How many workers have reported a step."""
    evaluating: bool = False
    last_step: float = 0.0
    """When a worker last reported a step, in Unix seconds; 0: none has."""
    quiet: float = 0.0
    """Seconds since then if that is notably long, else 0. The speeds above are old then."""
    begun: float = 0.0
    """When the job's current attempt began, in Unix seconds; 0 before the first."""

    def seconds_left(self, steps: int) -> float | None:
        """Return how long the training still takes at this speed; None while there is no speed."""
        return max(0, steps - self.step) / self.steps_per_s if self.steps_per_s > 0 else None


class Progress:
    """Follows the metrics files of a run folder; reads only what was appended since the last look."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._offsets: dict[Path, int] = {}
        self._last: dict[Path, dict[str, Any]] = {}
        self._apart: dict[Path, float] = {}  # seconds between the last two records
        self._evaluating: dict[Path, float] = {}

    def look(self) -> Totals:
        """Return the totals of the job's current attempt. The files hold lines of earlier attempts too."""
        for path in self._run.metrics.glob("*.jsonl"):
            self._read(path)
        try:
            begun = self._run.attempt_file.stat().st_mtime
        except OSError:
            begun = 0.0
        lost = {path.name for path in self._run.lost.glob("*")}
        last = {path: one for path, one in self._last.items() if one["time"] >= begun and path.stem not in lost}
        now = totals(last, any(one >= begun for one in self._evaluating.values()))
        quiet = time.time() - now.last_step if last else 0.0
        notable = max(_QUIET, _LATE * max((self._apart[path] for path in last), default=0.0))
        return msgspec.structs.replace(now, quiet=quiet if quiet > notable else 0.0, begun=begun)

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            if path not in self._offsets:
                # The end of a long file is enough: it has the worker's last record and the events after that.
                self._offsets[path] = _line_start(file, max(0, path.stat().st_size - _TAIL))
            file.seek(self._offsets[path])
            appended = file.read()
        # The last line may be half written: it is read next time.
        whole = appended[: appended.rfind(b"\n") + 1]
        self._offsets[path] += len(whole)
        found: list[dict[str, Any]] = []
        for line in reversed(whole.splitlines()):
            # Most lines are earlier records, which nobody needs.
            record = parse_record(line) if len(found) < 2 or b'"evaluating"' in line else {}
            if "time" not in record:
                continue
            if b'"evaluating"' in line:
                self._evaluating[path] = max(record["time"], self._evaluating.get(path, 0.0))
            elif b'"event"' not in line and "step" in record and len(found) < 2:
                found.append(record)
        if found:
            before = found[-1] if len(found) > 1 else self._last.get(path, found[0])
            self._last[path], self._apart[path] = found[0], found[0]["time"] - before["time"]


def _line_start(file: BinaryIO, offset: int) -> int:
    """Return where the first line begins at `offset` or after it."""
    if not offset:
        return 0
    file.seek(offset - 1)
    return file.tell() if file.readline().endswith(b"\n") else 0


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
        steps_per_s=mean("global_steps_per_s") or 0.0,
        images_per_s=total("images_per_s"),
        loss=mean("loss"),
        accuracy=mean("accuracy"),
        workers=len(records),
        evaluating=evaluating,
        last_step=max(record["time"] for record in records),
    )

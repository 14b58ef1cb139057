"""Reads everything that a run folder has measured. What is missing or damaged is left out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.monitor.reading import Node, read_node
from hpc_dl.node.attempts import Event, events
from hpc_dl.runfolder.folder import RunFolder, Summary
from hpc_dl.runfolder.metrics import figures, records
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Site


class Line(msgspec.Struct, frozen=True):
    """A line of a worker's metrics."""

    time: float
    step: int
    loss: float
    accuracy: float
    images_per_s: float
    global_steps_per_s: float


class Test(msgspec.Struct, frozen=True):
    """An evaluation on the test set."""

    time: float
    step: int
    loss: float
    accuracy: float


class Measured(msgspec.Struct, frozen=True):
    """What is known of a job."""

    name: str
    """Name and id, as the run folder's."""
    path: str
    job: JobSpec
    site: Site
    begun: float
    """Unix seconds at which the first attempt began; 0: none has."""
    placement: Placement | None = None
    summary: Summary | None = None
    result: Mapping[str, Any] = {}
    attempts: Sequence[Event] = ()
    workers: Mapping[str, Sequence[Line]] = {}
    """By process: ``worker:0``."""
    tests: Sequence[Test] = ()
    figures: Mapping[str, Mapping[str, Any]] = {}
    """Step times and traffic of each process."""
    nodes: Mapping[str, Node] = {}

    @property
    def trained(self) -> tuple[float, float]:
        """Return when the last attempt's training began and ended, without the first step; (0, 0): it made none."""
        last = [lines[-1].time for lines in self.workers.values()]
        if not last:
            return 0.0, 0.0
        started = max((event.time for event in self.attempts if event.event == "started"), default=0.0)
        firsts = [next((one.time for one in lines if one.time >= started), math.inf) for lines in self.workers.values()]
        first = max((one for one in firsts if one < math.inf), default=0.0)
        return (first, max(last)) if first else (0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Return for how long the job has had its nodes, over all attempts."""
        total, began = 0.0, 0.0
        for event in self.attempts:
            if event.event == "started":
                began = began or event.time
            elif began:
                total, began = total + event.time - began, 0.0
        if began:
            total += (self.summary.ended if self.summary else time.time()) - began
        return total

    @property
    def one_machine(self) -> bool:
        """Return whether its traffic is on the loopback interface."""
        one_node = self.placement is not None and len(self.placement.nodes) == 1
        return self.site.scheduler == "local" or bool(self.site.address) or one_node


def measure(run: RunFolder) -> Measured:
    """Return what a run folder has.

    Raises:
        UserError: it has no job that can be read.
    """
    workers: dict[str, list[Line]] = {}
    tests: list[Test] = []
    for path in sorted(run.metrics.glob("*.jsonl")):
        task = path.stem.replace("-", ":")
        with contextlib.suppress(OSError):
            for record in records(path):
                if line := _line(record):
                    workers.setdefault(task, []).append(line)
                elif test := _test(record):
                    tests.append(test)
    attempts = events(run) if run.attempts.is_file() else []
    return Measured(
        name=run.path.absolute().name,
        path=str(run.path.absolute()),
        job=run.read_job(),
        site=site_of(run),
        begun=min((event.time for event in attempts), default=0.0),
        placement=read_placement(run),
        summary=run.read_summary(),
        result=run.read_result() or {},
        attempts=attempts,
        workers=dict(sorted(workers.items(), key=lambda pair: order(pair[0]))),
        tests=sorted(tests, key=lambda test: test.time),
        figures={task.replace("-", ":"): of for task, of in figures(run.metrics).items()},
        nodes={path.stem: read_node(path) for path in sorted(run.monitor.glob("*.jsonl"))},
    )


def order(process: str) -> tuple[str, int]:
    """Return the key that sorts processes: ``worker:2`` before ``worker:10``."""
    role, _, index = process.partition(":")
    return role, int(index) if index.isdecimal() else -1


def site_of(run: RunFolder) -> Site:
    """Return the frozen site; an empty one if it can't be read."""
    try:
        return run.read_site()
    except UserError:  # another version's
        return Site(cores=1)


def read_placement(run: RunFolder) -> Placement | None:
    """Return the placement; None: there is none, or it can't be read."""
    try:
        return run.read_placement()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _numbers(record: Mapping[str, Any], *keys: str) -> list[float] | None:
    values = [record.get(key) for key in keys]
    return [float(one) for one in values] if all(isinstance(one, (int, float)) for one in values) else None  # type: ignore[arg-type]


def _line(record: Mapping[str, Any]) -> Line | None:
    """Return a line of the training loop; None for other records, and for those that a script wrote."""
    keys = ("time", "loss", "accuracy", "images_per_s", "global_steps_per_s", "step")
    if "event" in record or not (numbers := _numbers(record, *keys)):
        return None
    time_, loss, accuracy, images, steps, step = numbers
    return Line(time_, int(step), loss, accuracy, images, steps) if math.isfinite(time_ + step) else None


def _test(record: Mapping[str, Any]) -> Test | None:
    numbers = _numbers(record, "time", "test_loss", "test_accuracy", "step")
    if record.get("event") != "evaluated" or not numbers or not math.isfinite(sum(numbers)):
        return None
    return Test(numbers[0], int(numbers[3]), numbers[1], numbers[2])

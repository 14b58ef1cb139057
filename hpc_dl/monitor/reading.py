"""Reads monitor files: what a node did between two looks at it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from hpc_dl.monitor.records import LOOPBACK, Gpu, Sample, Start, Use

T = TypeVar("T")
_END = 256_000  # bytes
_MOST = 4000  # samples of one file that are decoded; of a longer file they are equally far apart


class Moved(msgspec.Struct, frozen=True):
    """What a network moved per second."""

    sent: float = 0.0
    received: float = 0.0
    packets_sent: float = 0.0
    packets_received: float = 0.0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            *(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )


class Rates(msgspec.Struct, frozen=True):
    """What a node did between two looks, per second."""

    time: float
    """Unix seconds of the second look."""
    seconds: float
    busy: float
    """Cores on which something ran."""
    iowait: float
    """Cores that had nothing to run while a program waited for a disk."""
    memory: int
    read: float
    written: float
    network: dict[str, Moved]
    processes: dict[str, float]
    """Cores that each process of the job used, with its children."""
    waited: dict[str, float]
    """Threads of each process that could have run, but had no core."""
    gpus: list[Gpu]

    def moved(self, loopback: bool = False) -> Moved:
        """Return what all interfaces moved: those of the network, or the node's own loopback."""
        return sum((of for name, of in self.network.items() if (name == LOOPBACK) == loopback), Moved())


class Node(msgspec.Struct, frozen=True):
    """What the monitor of a node has measured, in all attempts."""

    start: Start | None
    rates: list[Rates]
    cores: dict[str, int] = {}
    """How many cores each process may use."""


def read_node(path: Path) -> Node:
    """Return what a monitor file tells; nothing if it is not there."""
    try:
        return _node(path.read_bytes().splitlines())
    except OSError:
        return Node(None, [])


def read_end(path: Path) -> Node:
    """Return what the first line and the end of a monitor file tell: some minutes of it."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            file.seek(max(file.tell(), path.stat().st_size - _END))
            return _node([first, *file.read().splitlines()])
    except OSError:
        return Node(None, [])


def _node(lines: Sequence[bytes]) -> Node:
    """Return what the lines of a monitor file tell. Those that a disk damaged are left out."""
    starts = [start for line in lines if b'"event"' in line and (start := _decoded(line, Start))]
    looks = [line for line in lines if b'"event"' not in line]
    samples = [sample for line in looks[:: 1 + len(looks) // _MOST] if (sample := _decoded(line, Sample))]
    cores = {name: use.cores for sample in samples for name, use in sample.processes.items() if use.cores}
    return Node(starts[-1] if starts else None, rates(samples), cores)


def _decoded(line: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def rates(samples: Iterable[Sample]) -> list[Rates]:
    """Return what happened between each two looks of one attempt. Counters that began anew give no rates."""
    pairs = itertools.pairwise(samples)
    return [_rates(a, b) for a, b in pairs if b.attempt == a.attempt and b.time > a.time and b.busy >= a.busy]


def _rates(before: Sample, now: Sample) -> Rates:
    seconds = now.time - before.time

    def per_second(then: float, later: float) -> float:
        return max(0.0, later - then) / seconds

    return Rates(
        time=now.time,
        seconds=seconds,
        busy=per_second(before.busy, now.busy),
        iowait=per_second(before.iowait, now.iowait),
        memory=now.memory,
        read=per_second(before.bytes_read, now.bytes_read),
        written=per_second(before.bytes_written, now.bytes_written),
        network={
            name: Moved(*map(per_second, *map(msgspec.structs.astuple, (before.network[name], of))))
            for name, of in now.network.items()
            if name in before.network
        },
        processes={
            name: per_second(before.processes.get(name, Use(0, 0)).cpu, of.cpu) for name, of in now.processes.items()
        },
        waited={
            name: per_second(before.processes.get(name, of).waited, of.waited) for name, of in now.processes.items()
        },
        gpus=now.gpus,
    )


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 for none."""
    return sum(values) / len(values) if values else 0.0

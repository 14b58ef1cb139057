"""The lines of a monitor file. All counters only grow; the difference of two lines is what happened between them."""

from __future__ import annotations

import msgspec

LOOPBACK = "lo"


class Traffic(msgspec.Struct, frozen=True):
    """What a network interface has moved since the node started."""

    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int


class Use(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process of the job uses, with its children."""

    cpu: float
    """CPU seconds since it started."""
    memory: int
    """Bytes of resident memory."""
    cores: int = 0
    """Cores that it may run on."""
    waited: float = 0.0
    """Seconds in which its threads could have run, but had no core. It is looked at every few seconds."""


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a GPU does now; a figure that it does not report is None."""

    use: float | None = None
    """Share of the last moments in which it computed, from 0 to 1."""
    memory: int | None = None
    """Bytes in use."""
    power: float | None = None
    """Watts."""


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look at a node."""

    time: float
    """Unix seconds."""
    attempt: int
    busy: float
    """CPU seconds of all cores in which something ran, since the node started."""
    iowait: float
    """CPU seconds in which a core had nothing to run but a program waited for a disk."""
    memory: int
    """Bytes in use."""
    bytes_read: int = 0
    """From local disks."""
    bytes_written: int = 0
    network: dict[str, Traffic] = {}
    processes: dict[str, Use] = {}
    gpus: list[Gpu] = []


class GpuKind(msgspec.Struct, frozen=True):
    """What a GPU is."""

    name: str
    memory: int


class Start(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="event", tag="started"):
    """The line with which a monitor begins: what does not change."""

    time: float
    attempt: int
    node: str
    cores: int
    memory: int
    machine: str = ""
    """The same for all nodes that are one machine, as those of a private cluster."""
    interfaces: dict[str, int] = {}
    """Megabits per second of each network interface; 0: not known."""
    gpus: list[GpuKind] = []

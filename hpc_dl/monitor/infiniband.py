"""Bytes and packets of InfiniBand ports. MPI and NCCL use them directly, which no network interface counts.

The names of ports are ``mlx5_0/1``. The files are those of the Linux kernel's sysfs-class-infiniband. Two of the
counters count words of four bytes (InfiniBand specification, PortXmitData and PortRcvData).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hpc_dl.monitor.records import Traffic

_DEVICES = Path("/sys/class/infiniband")
_WORD = 4


def _ports(devices: Path) -> Iterator[tuple[str, Path]]:
    for port in sorted(devices.glob("*/ports/*")):
        yield f"{port.parts[-3]}/{port.name}", port


def rates(devices: Path = _DEVICES) -> dict[str, int]:
    """Return the megabits per second of each port; 0: not known."""
    found = {}
    for name, port in _ports(devices):
        try:
            rate = re.match(r"([\d.]+) Gb/sec", (port / "rate").read_text())
        except OSError:
            rate = None
        found[name] = round(1000 * float(rate[1])) if rate else 0
    return found


def counters(devices: Path = _DEVICES) -> dict[str, Traffic]:
    """Return what each port has moved."""
    found = {}
    for name, port in _ports(devices):
        names = ("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets")
        try:
            sent, received, *packets = (int((port / "counters" / one).read_text()) for one in names)
        except (OSError, ValueError):  # some drivers don't count
            continue
        found[name] = Traffic(_WORD * sent, _WORD * received, *packets)
    return found

"""The GPUs, ports and network addresses of this machine."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that Slurm gave this step, as CUDA_VISIBLE_DEVICES names them.

    Some versions of Slurm leave that variable unset for typed GPUs. Then the numbers in Slurm's own variables count.
    """
    for key in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if value := environ.get(key):
            return _gpu_list(value)
    return ()


def local_gpus() -> tuple[str, ...]:
    """Return the numbers of this machine's NVIDIA GPUs; if CUDA_VISIBLE_DEVICES is set, the GPUs that it lists."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return _gpu_list(chosen)
    numbers = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(sorted((match[1] for match in numbers if match), key=int))


def _gpu_list(value: str) -> tuple[str, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; ``-1`` and Slurm's ``NoDevFiles`` mean none."""
    return () if value in ("-1", "NoDevFiles") else tuple(filter(None, value.split(",")))


_SIOCGIFADDR = 0x8915  # man netdevice


def ipv4_addresses() -> dict[str, str]:
    """Return the IPv4 address of each network interface that has one."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("40s", name.encode()))
            except OSError:  # it has none
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def ports_in_use(between: tuple[int, int]) -> frozenset[int]:
    """Return the TCP ports from `between[0]` to `between[1]` that any socket of this node uses (man proc, net/tcp)."""
    used: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            port = int(line.split()[1].rpartition(":")[2], 16)
            if between[0] <= port <= between[1]:
                used.add(port)
    return frozenset(used)

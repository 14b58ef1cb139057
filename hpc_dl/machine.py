"""The ports and network addresses of this machine."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

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

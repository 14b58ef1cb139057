"""How many bytes this process has sent and received over TCP, as the kernel counts them for each of its sockets.

This needs no root, and counts the bytes of one process, not of its node. It does not count messages without TCP: over
shared memory, and over InfiniBand used directly, as MPI and NCCL can.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

# struct tcp_info of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received, since Linux 4.1.
_COUNTERS = struct.Struct("=QQ")
_OFFSET = 120

_seen: dict[str, tuple[int, int]] = {}  # a closed socket keeps the bytes of the last look


def sent_received() -> tuple[int, int]:
    """Return the bytes sent (and acknowledged) and received since the start, over all sockets seen at any call so far.

    The bytes that a socket moves between the last call and its end are missed: call this now and then. On a kernel
    older than 4.1 both numbers are 0.
    """
    for link in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since it was listed, or not a TCP socket
            name = os.readlink(link.path)  # noqa: PTH115 - a parameter server looks often, and pathlib takes its time
            if name.startswith("socket:"):
                _seen[name] = _counters(int(link.name))
    return sum(sent for sent, _ in _seen.values()), sum(received for _, received in _seen.values())


def _counters(descriptor: int) -> tuple[int, int]:
    """Return a socket's counters. They are read from a copy of the descriptor: the original may be closed meanwhile."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _COUNTERS.size)
    if len(info) < _OFFSET + _COUNTERS.size:
        return 0, 0
    sent, received = _COUNTERS.unpack_from(info, _OFFSET)
    return sent, received

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
_kept: dict[str, int] = {}  # our own descriptors of sockets


def sent_received(keep: bool = False) -> tuple[int, int]:
    """Return the bytes sent (and acknowledged) and received since the start, over all sockets seen at any call so far.

    On a kernel older than 4.1 both numbers are 0.

    Args:
        keep: hold every connection by a descriptor of our own until the first call after its end, so that all its bytes
            are counted, however late that call is. Otherwise the bytes between the last call and its end are missed.
    """
    own = {str(descriptor) for descriptor in _kept.values()}
    names = set()
    for link in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since it was listed, or not a TCP socket
            name = os.readlink(link.path)  # noqa: PTH115 - a parameter server looks often, and pathlib takes its time
            if name.startswith("socket:") and link.name not in own:
                names.add(name)
                _seen[name] = _counters(int(link.name))
                if keep and name not in _kept and any(_seen[name]):
                    _kept[name] = os.dup(int(link.name))
    for name in _kept.keys() - names:
        _seen[name] = _counters(descriptor := _kept.pop(name))
        os.close(descriptor)
    return sum(sent for sent, _ in _seen.values()), sum(received for _, received in _seen.values())


def _counters(descriptor: int) -> tuple[int, int]:
    """Return a socket's counters. They are read from a copy of the descriptor: the original may be closed meanwhile."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _COUNTERS.size)
    if len(info) < _OFFSET + _COUNTERS.size:
        return 0, 0
    sent, received = _COUNTERS.unpack_from(info, _OFFSET)
    return sent, received

"""The host names through which the processes of a job reach one another."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from hpc_dl.errors import UserError


def check_own_names(cluster: Mapping[str, Sequence[str]], processes: Iterable[tuple[str, int]]) -> None:
    """Check that the host names of this node's processes resolve on this node.

    TensorFlow would wait silently for a process whose name does not resolve.

    Args:
        cluster: addresses (host:port) by role.
        processes: role and index of the processes on this node.

    Raises:
        UserError: a name is unknown. A name server that does not answer is no error.
    """
    if sum(map(len, cluster.values())) == 1:
        return
    for host in dict.fromkeys(cluster[role][index].rpartition(":")[0] for role, index in processes):
        if why := _unknown(host.strip("[]")):
            raise UserError(
                f"the address {host!r} of this node does not resolve: {why}; see interconnect_suffix in the site file"
            )


def _unknown(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return str(error.strerror) if error.errno == socket.EAI_NONAME else ""
    return ""

"""The names under which the processes of a job reach one another."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from hpc_dl.errors import UserError


def check_own_names(cluster: Mapping[str, Sequence[str]], processes: Iterable[tuple[str, int]]) -> None:
    """Check that a node knows the names under which others shall reach its processes.

    TensorFlow would wait for a name that does not resolve, whoever waits, and say nothing.

    Args:
        cluster: addresses (host:port) by role.
        processes: role and index of those that run on this node.

    Raises:
        UserError: there is no such name. A name server that does not answer says nothing about that.
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

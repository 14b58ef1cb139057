"""The host names and addresses through which the processes of a job reach one another."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from hpc_dl.errors import UserError, near_match
from hpc_dl.machine import ipv4_addresses
from hpc_dl.spec.site import Site

_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


def own_host(site: Site, node: str) -> str:
    """Return where the processes of other nodes reach this node.

    Raises:
        UserError: it has no such interface, or no full name.
    """
    if site.interface:
        found = ipv4_addresses()
        if site.interface not in found:
            has = ", ".join(f"{name} ({address})" for name, address in found.items()) or "none"
            near = near_match(site.interface, found)
            raise UserError(
                f"interface = {site.interface!r}: node {node} has no IPv4 address on an interface of this name{near};"
                f" it has {has}; correct the site file"
            )
        return found[site.interface]
    return site.host(_full_name(node) if site.full_names else node)


def _full_name(node: str) -> str:
    names = list(dict.fromkeys([node, socket.getfqdn(node), socket.getfqdn()]))
    if full := next((name for name in names if "." in name and not name.startswith("localhost")), ""):
        return full
    raise UserError(
        f"full_names = true: node {node} has no full name, only {', '.join(map(repr, names))} (hostname --fqdn);"
        " ask the admins, or set interface or interconnect_suffix in the site file"
    )


def without_proxy(environ: Mapping[str, str], cluster: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the variables by which processes reach one another without a web proxy; none where there is no proxy.

    TensorFlow's gRPC would ask the proxy for the other processes too.

    Args:
        environ: the environment of the processes.
        cluster: their addresses (host:port) by role.
    """
    if not any(key.lower() in _PROXIES for key in environ):
        return {}
    known = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    hosts = (address.rpartition(":")[0].strip("[]") for addresses in cluster.values() for address in addresses)
    names = ",".join(dict.fromkeys([*filter(None, known), "localhost", "127.0.0.1", *hosts]))
    return {"no_proxy": names, "NO_PROXY": names}


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
                f"the address {host!r} of this node does not resolve: {why};"
                " see interconnect_suffix and full_names in the site file"
            )


def _unknown(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return str(error.strerror) if error.errno == socket.EAI_NONAME else ""
    return ""

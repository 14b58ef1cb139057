"""Environment variables that follow from a site's keys. Pure functions."""

from __future__ import annotations

from hpc_dl.spec.site import Site

# Programs differ in which of them they read.
_PROXY = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
# Of NCCL and RCCL; of Gloo, in PyTorch and in Horovod. MPI and UCX find the fast network themselves: told an interface,
# UCX would do without RDMA.
_INTERFACE = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE")


def site_env(site: Site) -> dict[str, str]:
    """Return the environment variables of all jobs of a site; what `env` says wins."""
    proxy = dict.fromkeys(_PROXY, site.proxy) if site.proxy else {}
    interface = dict.fromkeys(_INTERFACE, site.interface) if site.interface else {}
    return {**proxy, **interface, **site.env}

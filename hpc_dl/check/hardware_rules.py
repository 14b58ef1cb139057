"""The rule that compares a site file with the hardware of a node."""

# ruff: noqa: ARG001 - all rules have one form

from __future__ import annotations

from collections.abc import Iterator

from hpc_dl.check.finding import Finding, error, warning
from hpc_dl.check.probe import NodeAnswer
from hpc_dl.errors import allowed
from hpc_dl.spec.cores import cores_in
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

_NOMINAL = 1.1  # a node of 128 GB has a few less for its programs


def hardware(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The site file describes the node as the node itself does."""
    found = answer.hardware
    if found is None or site.address:  # nodes that are one machine have what its site file says
        return
    where = f"site {site.name!r}"
    kept = cores_in(site.reserved_cores)
    total = site.cores + len(kept)
    if found.cores not in (total, total * found.threads_per_core):
        yield warning(f"{where}: cores = {site.cores}{' and reserved_cores' * bool(kept)}: the node has {found.cores}")
    elif found.cores == total and site.threads_per_core != found.threads_per_core:
        yield warning(
            f"{where}: threads_per_core = {site.threads_per_core}: of the node's {found.cores} CPUs"
            f" {found.threads_per_core} are threads of one core; set threads_per_core = {found.threads_per_core}"
        )
    if site.memory_gb and site.memory_gb > found.memory_gb * _NOMINAL > 0:
        yield warning(f"{where}: memory_gb = {site.memory_gb:g}: the node has {found.memory_gb:g}")
    vendors = {gpu.vendor for gpu in found.gpus}
    if site.gpus and vendors and site.gpu_vendor not in vendors:
        yield error(f"{where}: gpu_vendor = {site.gpu_vendor!r}: the node's GPUs are of {allowed(sorted(vendors))}")
    for number, (cores, gpu) in enumerate(zip(site.gpu_cores, found.gpus, strict=False)):
        if gpu.cores and not set(cores_in(cores)) <= set(cores_in(gpu.cores)):
            yield warning(
                f"{where}: gpu_cores: {cores!r} for GPU {number}: that GPU of the PCI bus is next to {gpu.cores!r}"
            )

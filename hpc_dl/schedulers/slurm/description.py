"""All that Slurm says of a cluster, for a site file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict, replace

from hpc_dl.schedulers.cluster import Description
from hpc_dl.schedulers.slurm import mpi
from hpc_dl.schedulers.slurm.commands import ask
from hpc_dl.schedulers.slurm.partitions import cluster, described, node_fields, with_cores
from hpc_dl.spec.site import Site

# What nodes of several partitions may differ in.
_OF_NODES = ("cores", "threads_per_core", "reserved_cores", "memory_gb", "gpus", "gpu_type", "gpu_vendor", "exclusive")
# Kinds of MPI that several libraries understand, best first. Others count where they are Slurm's default.
_MPI = ("pmix", "pmi2")


def describe(environ: Mapping[str, str], name: str, partition: str = "") -> Description:
    """Return a site made from all that Slurm says, with tables of the partitions whose nodes differ.

    Args:
        environ: the environment of Slurm's commands.
        name: the cluster's name.
        partition: whose keys are the site's own; empty: the default one.

    Raises:
        UserError: Slurm names no node, or has no such partition.
    """
    found = cluster(environ)

    def one(partition: str) -> Site:
        site = described(found.nodes, name, partition, found.kill_wait)
        alone = found.partitions.get(site.partition.split(",")[0])
        site = replace(site, gpu_vendor=vendor(site.gpu_type), exclusive=bool(alone and alone.exclusive))
        return with_cores(site, node_fields(environ, site))

    site = one(partition)
    others = dict.fromkeys(node.partition for node in found.nodes if node.partition != site.partition)
    tables = {other: table for other in others if (table := _different(site, one(other)))}
    config = ask(environ, "scontrol", "show", "config").out
    kinds = mpi.kinds(environ)
    default = _setting(config, "MpiDefault")
    notes = {"mpi": f"srun --mpi=list says: {', '.join(kinds) or 'nothing'}; MpiDefault is {default or 'not known'}"}
    if "associations" in _setting(config, "AccountingStorageEnforce"):
        notes["slurm"] = 'this Slurm wants an account: slurm = { account = "…" }'
    usable = [kind for kind in (default, *_MPI) if kind in kinds and kind != "none"]
    if "pmix" in usable and (problem := mpi.why_not(environ, "pmix")):
        usable = [kind for kind in usable if kind != "pmix"]
        notes["mpi"] += f"; pmix: {problem}"
    return Description(replace(site, mpi=usable[0] if usable else ""), tables, notes)


def _different(site: Site, other: Site) -> dict[str, Any]:
    """Return the keys of another partition's nodes that are not those of the site's."""
    values, usual = asdict(other), asdict(site)
    different = [key for key in _OF_NODES if values[key] != usual[key]]
    return {key: values[key] for key in ("nodes", *different)} if different else {}


def vendor(gpu_type: str) -> str:
    """Return who makes GPUs of a type, as far as its name tells."""
    if re.match(r"(amd|instinct|radeon)?[_-]?mi\d", gpu_type.lower()):
        return "amd"
    return "other" if re.match(r"(intel|max\d|pvc)", gpu_type.lower()) else "nvidia"


def _setting(config: str, name: str) -> str:
    found = re.search(rf"^{name}\s*=\s*(\S+)", config, re.MULTILINE)
    return found[1] if found else ""

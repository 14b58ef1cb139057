"""What this cluster is, as Slurm describes it: for choosing a site, and for a first site file."""

from __future__ import annotations

import collections
import os
import re
import subprocess

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.processes import for_slurms_commands
from hpc_dl.spec.layers import Layer, build
from hpc_dl.spec.nodelist import fold
from hpc_dl.spec.site import Site

# A "+" stands behind numbers that differ between nodes.
_ROW = re.compile(r"([^|]+)\|(\d+)\+?\|(\d+)\+?\|(\d+)\+?\|([^|]*)\|([\w.-]+)\s*", re.ASCII)


class DescribedSite(Site, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site that has no file: what sinfo says of one partition."""


def cluster_name() -> str:
    """Return Slurm's ClusterName; empty where there is no Slurm that answers."""
    try:
        # A missing controller is asked again for up to a minute; a login node must not hang for it.
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    name = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return name[1] if name else ""


def in_partition(site: Site, partition: str) -> Site:
    """Return the site for a job in a partition; empty: the site's. What a site file says is left as it is.

    Raises:
        UserError: see `describe`.
    """
    if isinstance(site, DescribedSite) and partition not in ("", site.partition):
        return describe(site.name, partition)
    return site


def describe(name: str, partition: str = "") -> DescribedSite:
    """Return a site made from what sinfo says of a partition (man sinfo, --format); empty: the default one.

    Of nodes that differ, the most frequent kind counts.

    Raises:
        UserError: sinfo names no node, or not this partition.
    """
    # The user may name one that sinfo does not list by itself.
    hidden = ["--all"] if partition else []
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%P|%c|%X|%m|%G|%N", *hidden],
        env=for_slurms_commands(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    return parse_sinfo(done.stdout, name, partition)


def parse_sinfo(text: str, name: str, partition: str = "") -> DescribedSite:
    """Return a site from the lines ``partition|cpus|sockets|memory in MB|gres|node`` of sinfo.

    Args:
        text: the lines.
        name: the cluster's name.
        partition: which one counts, or several with commas, of which the first one does; empty: the default.

    Raises:
        UserError: there is no such line.
    """
    rows = [row.groups() for row in map(_ROW.fullmatch, text.splitlines()) if row]
    if not rows:
        raise UserError("sinfo names no node: write a site file in env/sites")
    default = next((row[0] for row in rows if row[0].endswith("*")), rows[0][0]).rstrip("*")
    known = dict.fromkeys(row[0].rstrip("*") for row in rows)
    wanted = (partition or default).split(",")
    if unknown := [one for one in wanted if one not in known]:
        near = near_match(unknown[0], known)
        raise UserError(f"partition = {partition!r}: Slurm has no {unknown[0]!r}{near}; it has {allowed(known)}")
    kinds: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
    for found, cpus, sockets, memory, gres, node in rows:
        if found.rstrip("*") == wanted[0]:
            kinds[cpus, sockets, memory, gres].append(node)
    (cpus, sockets, memory, gres), nodes = max(kinds.items(), key=lambda item: len(item[1]))
    gpu = re.search(r"\bgpu(?::([^:,()]+))?:(\d+)", gres)
    values = {
        "name": name,
        "cluster": name,
        "description": f"made from sinfo: partition {wanted[0]}",
        "nodes": fold(nodes),
        "cores": cpus,
        "sockets": sockets,
        "memory_gb": int(memory) / 1024,
        "partition": partition or default,
        "gpus": gpu[2] if gpu else 0,
        "gpu_type": (gpu[1] or "") if gpu else "",
    }
    return build(DescribedSite, [Layer(values, "sinfo")], "site")

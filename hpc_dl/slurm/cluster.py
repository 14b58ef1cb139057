"""What this cluster is, as Slurm describes it: for choosing a site, and for a first site file."""

from __future__ import annotations

import collections
import os
import re
import subprocess

from hpc_dl.config import Layer, build
from hpc_dl.errors import UserError
from hpc_dl.nodelist import fold
from hpc_dl.process import for_slurms_commands
from hpc_dl.site import Site

# A "+" stands behind numbers that differ between nodes.
_ROW = re.compile(r"([^|]+)\|(\d+)\+?\|(\d+)\+?\|(\d+)\+?\|([^|]*)\|([\w.-]+)\s*", re.ASCII)


def cluster_name() -> str:
    """Return Slurm's ClusterName; empty where there is no Slurm that answers."""
    try:
        # A missing controller is asked again for up to a minute; a login node must not hang for it.
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    name = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return name[1] if name else ""


def describe(name: str) -> Site:
    """Return a site made from what sinfo says of the default partition (man sinfo, --format).

    Of nodes that differ, the most frequent kind counts.

    Raises:
        UserError: sinfo names no partition.
    """
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%P|%c|%X|%m|%G|%N"],
        env=for_slurms_commands(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    return parse_sinfo(done.stdout, name)


def parse_sinfo(text: str, name: str) -> Site:
    """Return a site from the lines ``partition|cpus|sockets|memory in MB|gres|node`` of sinfo.

    Raises:
        UserError: there is no such line.
    """
    rows = [row.groups() for row in map(_ROW.fullmatch, text.splitlines()) if row]
    if not rows:
        raise UserError("sinfo names no node: write a site file in env/sites")
    default = next((row[0] for row in rows if row[0].endswith("*")), rows[0][0])
    kinds: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
    for partition, cpus, sockets, memory, gres, node in rows:
        if partition == default:
            kinds[cpus, sockets, memory, gres].append(node)
    (cpus, sockets, memory, gres), nodes = max(kinds.items(), key=lambda item: len(item[1]))
    gpu = re.search(r"\bgpu(?::([^:,()]+))?:(\d+)", gres)
    values = {
        "name": name,
        "cluster": name,
        "description": f"made from sinfo: partition {default.rstrip('*')}",
        "nodes": fold(nodes),
        "cores": cpus,
        "sockets": sockets,
        "memory_gb": int(memory) / 1024,
        "partition": default.rstrip("*"),
        "gpus": gpu[2] if gpu else 0,
        "gpu_type": (gpu[1] or "") if gpu else "",
    }
    return build(Site, [Layer(values, "sinfo")], "site")

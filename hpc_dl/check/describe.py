"""A site file for the cluster that answers here: what its scheduler says, and what one of its nodes says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hpc_dl.check.hardware import USUAL_DISKS, Disk, Hardware, Interface
from hpc_dl.check.nodes import ask_nodes
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import make_plan
from hpc_dl.schedulers import schedulers
from hpc_dl.schedulers.cluster import Description
from hpc_dl.spec.layers import Layer

_SLOW = 10  # Gbit/s: what is faster is a network for training


def describe(partition: str = "") -> Description:
    """Return what the scheduler that answers here says of its cluster.

    Raises:
        UserError: none answers, or it has no such partition.
    """
    for scheduler in schedulers():
        if cluster := scheduler.cluster_name():
            return scheduler.description(cluster, partition)
    raise UserError(
        "no Slurm answers here: there is no sbatch on PATH that has a configuration, and no private cluster runs"
    )


def describe_node(description: Description, say: Callable[[str], None]) -> Description:
    """Look at one node, in a short job of its own, and return the description with what it has.

    Args:
        description: what the scheduler says.
        say: shows a line to the user while the job waits.

    Raises:
        UserError: Slurm refuses the job, or the node gives no answer.
    """
    site = description.site
    # Any program: packages of Python are not looked at.
    wanted = {"nodes": 1, "gpus": min(1, site.gpus), "cores": 1, "mode": "single", "script": "/bin/true"}
    plan = make_plan(None, site, Path(f"{site.name}.toml"), [Layer(wanted, "--on-node")])
    answers, silent = ask_nodes(plan, say)
    hardware = answers[0].hardware if answers else None
    if hardware is None:
        raise UserError(f"--on-node: {silent[0].text if silent else 'the node said nothing'}")
    return with_node(description, hardware, answers[0].node)


def with_node(description: Description, hardware: Hardware, node: str) -> Description:
    """Return a description with what a node says of itself."""
    found = dict(_of_node(hardware, description.site.gpus))
    changes: dict[str, Any] = {key: value for key, (value, _) in found.items() if value is not None}
    notes = {key: f"node {node}: {note}" for key, (_, note) in found.items()}
    return replace(description, site=replace(description.site, **changes), notes={**description.notes, **notes})


def _of_node(hardware: Hardware, gpus: int) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield key, its value (None: only a note) and a note."""
    yield "threads_per_core", (None, f"{hardware.cores} CPUs, {hardware.threads_per_core} for each physical core")
    vendors = sorted({gpu.vendor for gpu in hardware.gpus})
    if len(vendors) == 1:
        yield "gpu_vendor", (vendors[0], f"{len(hardware.gpus)} GPUs on the PCI bus")
    if hardware.gpus:
        cores = tuple(gpu.cores for gpu in hardware.gpus)
        as_table = gpus == len(cores) and all(cores) and len(set(cores)) > 1
        yield "gpu_cores", (cores if as_table else None, f"in the order of the PCI bus {', '.join(cores)}")
    if hardware.interfaces:
        fast = next((one for one in hardware.interfaces if one.gbits > _SLOW or one.link == "infiniband"), None)
        yield "interface", (fast.name if fast else None, ", ".join(map(_interface, hardware.interfaces)))
    if hardware.disks:
        real = [disk for disk in hardware.disks if disk.filesystem not in ("tmpfs", "overlay")]
        best = max(real, key=lambda disk: disk.free_gb, default=None)
        usual = best is None or best.path in USUAL_DISKS
        yield "local_disk", (None if usual or best is None else best.path, ", ".join(map(_disk, hardware.disks)))
    files = ", ".join(hardware.module_files) or "none"
    where = {"batch": "in every bash", "login": "in login shells only"}.get(hardware.modules, "nowhere")
    first = hardware.module_files[0] if hardware.module_files and hardware.modules != "batch" else None
    yield "module_init", (first, f"the command module is there {where}; files of /etc/profile.d: {files}")


def _interface(one: Interface) -> str:
    return f"{one.name} ({one.link}{f', {one.gbits:g} Gbit/s' if one.gbits else ''})"


def _disk(one: Disk) -> str:
    return f"{one.path} ({one.filesystem}, {one.free_gb:g} GB free)"

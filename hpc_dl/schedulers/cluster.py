"""Partitions and nodes of a cluster, as a scheduler describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hpc_dl.spec.cores import one_thread_per_core
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

# States in which a node takes no jobs (man sinfo, "NODE STATE CODES"); the flags * # $ @ ! follow them.
_OUT = ("DOWN", "DRAIN", "FAIL", "MAINT", "UNKNOWN", "POWERING_DOWN", "NO_RESPOND", "INVAL", "REBOOT")


class Partition(msgspec.Struct, frozen=True):
    """One partition."""

    name: str
    state: str = "UP"
    default: bool = False
    max_minutes: float = float("inf")
    max_nodes: float = float("inf")
    exclusive: bool = False
    """Whether jobs get whole nodes."""


class Node(msgspec.Struct, frozen=True):
    """One node in one partition; a node in several partitions has several of these."""

    name: str
    partition: str
    state: str
    cores: int
    memory_mb: int
    gpus: dict[str, int] = {}
    """Type to number; the type is empty where gres has none."""
    sockets: int = 1
    default: bool = False
    """Whether it is the default partition."""
    threads: int = 1
    """How many of its `cores` are hardware threads of one physical core."""

    @property
    def up(self) -> bool:
        """Return whether it takes jobs, now or when others have ended."""
        return not self.state.upper().startswith(_OUT) and "*" not in self.state

    def has_gpus(self, number: int, kind: str = "") -> bool:
        """Return whether it has `number` GPUs of type `kind`; empty: of any types."""
        return (self.gpus.get(kind, 0) if kind else sum(self.gpus.values())) >= number


class Cluster(msgspec.Struct, frozen=True):
    """Partitions, nodes and limits of a cluster."""

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]
    kill_wait: int | None = None
    """Seconds between SIGTERM and SIGKILL of a job that is cancelled."""


class Description(msgspec.Struct, frozen=True):
    """A site file as a scheduler would write it."""

    site: Site
    tables: dict[str, dict[str, Any]] = {}
    """Keys that are different in a partition."""
    notes: dict[str, str] = {}
    """Site key to what else is known of it, in a line for people."""


def nodes_in(nodes: Sequence[Node], partition: str) -> list[Node]:
    """Return the nodes of a partition, or of several with commas between them; empty: the default one."""
    if not partition:
        return [node for node in nodes if node.default]
    found = {node.name: node for node in nodes if node.partition in partition.split(",")}
    return list(found.values())


def fitting(job: JobSpec, site: Site, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that have the cores and GPUs that a resolved job wants of each."""
    cores, gpus = job.cores or site.cores, _gpus(job, site, nodes)
    idle = one_thread_per_core(site, job.slurm)  # then further threads of its cores stay idle
    able = [node for node in nodes if node.cores >= cores * (node.threads if idle else 1)]
    return [node for node in able if node.has_gpus(gpus, site.gpu_type if gpus else "")]


def _gpus(job: JobSpec, site: Site, nodes: Sequence[Node]) -> int:
    """Return how many GPUs Slurm must know of a node. Where jobs have them without asking, it may know of none."""
    unknown = site.gpu_request == "none" and not any(node.gpus for node in nodes)
    return 0 if unknown else job.gpus or 0


def too_few(job: JobSpec, site: Site, nodes: Sequence[Node]) -> str:
    """Return why a partition can never run a resolved job; empty if its nodes are enough, or none is known.

    Args:
        job: the job.
        site: its site.
        nodes: the nodes of the job's partition.
    """
    fit = fitting(job, site, nodes)
    if not nodes or len(fit) >= job.nodes:
        return ""
    cores, gpus = job.cores or site.cores, _gpus(job, site, nodes)
    wants = f"{cores} cores" + (f" and {gpus} x {site.gpu_gres}" if gpus else "")
    most = max(nodes, key=lambda node: (sum(node.gpus.values()), node.cores))
    has = ", ".join(f"{number} {kind or 'GPU'}" for kind, number in most.gpus.items()) or "no GPU"
    return (
        f"nodes = {job.nodes}: of {len(nodes)} nodes in partition {nodes[0].partition!r} {len(fit)} have {wants};"
        f" the largest, {most.name}, has {most.cores} cores and {has}: ask for less, or use another partition"
    )

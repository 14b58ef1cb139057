"""Allocation: the nodes where a run starts tasks, and how many slots each has. Outside a Slurm job: this machine."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.spec.nodelist import expand
from hpc_dl.tasks.greasy_conf import Settings
from hpc_dl.tasks.messages import Hello
from hpc_dl.tasks.pool import Node


def job_id(environ: Mapping[str, str]) -> str:
    """Return the number of the Slurm job that we run in; ``local`` outside a job."""
    return environ.get("SLURM_JOB_ID") or "local"


def job_cores(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the nodes of the Slurm job that we run in, and the job's cores on each; empty outside a job."""
    nodelist = environ.get("SLURM_JOB_NODELIST")
    if not nodelist:
        return {}
    names = expand(nodelist)
    numbers: list[int] = []
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", "")):
        numbers += [int(number)] * int(times or 1)
    if len(numbers) != len(names):
        raise UserError(f"SLURM_JOB_CPUS_PER_NODE has {len(numbers)} nodes, SLURM_JOB_NODELIST has {len(names)}")
    return dict(zip(names, numbers, strict=True))


def slots(settings: Settings, environ: Mapping[str, str]) -> dict[str, int | None]:
    """Return the nodes to use and how many tasks of one core each of them runs; None: as many as it has cores.

    Raises:
        UserError: NodeList names a node that is not ours, or has fewer entries than NWorkers.
    """
    ours: dict[str, int | None] = dict(job_cores(environ)) if settings.remote != "none" else {}
    if settings.remote == "srun" and not ours:
        raise UserError("BasicRemoteMethod=srun: this is no Slurm job; submit it, or set it to none")
    here = socket.gethostname()
    known = ours or {here: None}
    if not settings.nodes:
        return _spread(known, settings.workers) if settings.workers else known
    names = [here if name == "localhost" and not ours else name for name in settings.nodes]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"NodeList: {unknown[0]!r} is no node of this run{near_match(unknown[0], known)}; it has {allowed(known)}"
        )
    if settings.workers and settings.workers > len(names):
        raise UserError(f"NodeList has {len(names)} entries for {settings.workers} workers (NWorkers)")
    return dict(Counter(names[: settings.workers]))


def _spread(nodes: Mapping[str, int | None], workers: int) -> dict[str, int | None]:
    """Give each node the same number of workers, or one more. A node that gets none is left out."""
    each, more = divmod(workers, len(nodes))
    counts = {name: each + (place < more) for place, name in enumerate(nodes)}
    return {name: count for name, count in counts.items() if count}


def nodes(hellos: Iterable[Hello], wanted: Mapping[str, int | None], environ: Mapping[str, str]) -> list[Node]:
    """Return the nodes whose agents have said hello, with a core for each slot.

    If a node has fewer cores than slots, its slots are numbered from 0, and these numbers name no cores.
    """
    job = job_cores(environ)
    memory = int(environ.get("SLURM_MEM_PER_NODE") or 0)
    per_core = int(environ.get("SLURM_MEM_PER_CPU") or 0)
    found = []
    for hello in hellos:
        count = wanted[hello.node] or len(hello.cores)
        cores = hello.cores[:count] if count <= len(hello.cores) else tuple(range(count))
        limit = memory or per_core * job.get(hello.node, 0)
        found.append(Node(hello.node, cores, hello.gpus, limit or hello.memory))
    order = list(wanted)
    return sorted(found, key=lambda node: order.index(node.name))


def bound(hellos: Iterable[Hello], pool: Iterable[Node], environ: Mapping[str, str]) -> frozenset[str]:
    """Return the nodes where tasks are bound to their cores: nodes of a Slurm job that have one slot for each core.

    With fewer slots than cores, a task may use several cores. With more, the slots' numbers name no cores.
    """
    cores = {node.name: node.cores for node in pool}
    return frozenset(one.node for one in hellos if "SLURM_JOB_ID" in environ and cores.get(one.node) == one.cores)

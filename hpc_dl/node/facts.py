"""What a node has for this job: read on the node itself, before the placement is made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import NodeFacts
from hpc_dl.spec.site import Site


def node_name() -> str:
    """Return the name that Slurm has for this node.

    Raises:
        UserError: this is no Slurm step.
    """
    name = os.environ.get("SLURMD_NODENAME")
    if not name:
        raise UserError("SLURMD_NODENAME is not set: this command runs inside a Slurm step (srun)")
    return name


def slurm_facts(job: JobSpec, site: Site) -> NodeFacts:
    """Return the facts of the node of this Slurm step."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    # More cores than the job asked for, rounded up to whole physical ones: Slurm does not confine jobs here, and others
    # use these cores too.
    ours = not site.address and (site.exclusive or len(cores) < (job.cores or 0) + _threads_of_core(cores[0]))
    gpus = visible_gpus(os.environ) if job.gpus else ()
    return NodeFacts(node_name(), gpus, cores if ours else (), ports_in_use(site.ports))


def _threads_of_core(cpu: int) -> int:
    """Return how many CPUs, in Slurm's sense, are the physical core of one of them."""
    try:
        mask = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings").read_text()
    except FileNotFoundError:  # some virtual machines say nothing of physical cores
        return 1
    return int(mask.replace(",", ""), 16).bit_count()


def local_facts(job: JobSpec, site: Site, nodes: Sequence[str]) -> list[NodeFacts]:
    """Return facts for nodes that are all this machine: its GPUs are shared out, its cores are not bound."""
    here = local_gpus()
    each = job.gpus or 0
    busy = ports_in_use(site.ports)
    return [NodeFacts(node, here[i * each : (i + 1) * each], (), busy) for i, node in enumerate(nodes)]


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that Slurm gave this step, in the words of CUDA_VISIBLE_DEVICES.

    Some versions leave that variable unset for typed GPUs; then the numbers that Slurm states are it.
    """
    for key in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if value := environ.get(key):
            return _gpu_list(value)
    return ()


def local_gpus() -> tuple[str, ...]:
    """Return the numbers of this machine's NVIDIA GPUs, or those that CUDA_VISIBLE_DEVICES leaves."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return _gpu_list(chosen)
    numbers = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(sorted((match[1] for match in numbers if match), key=int))


def _gpu_list(value: str) -> tuple[str, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; ``-1`` and Slurm's ``NoDevFiles`` stand for none."""
    return () if value in ("-1", "NoDevFiles") else tuple(filter(None, value.split(",")))


def ports_in_use(between: tuple[int, int]) -> frozenset[int]:
    """Return the TCP ports from `between[0]` to `between[1]` that any socket of this node uses (man proc, net/tcp)."""
    used: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            port = int(line.split()[1].rpartition(":")[2], 16)
            if between[0] <= port <= between[1]:
                used.add(port)
    return frozenset(used)

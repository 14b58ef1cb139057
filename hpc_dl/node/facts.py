"""The facts of a node: its GPUs, cores and ports for this job, read on the node before the placement is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.machine import local_gpus, ports_in_use, visible_gpus
from hpc_dl.node.addresses import own_host
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
    topology = _Topology()
    cores = tuple(sorted(os.sched_getaffinity(0), key=topology.place))
    # If we may run on more cores than the job requested, rounded up to whole physical cores, Slurm does not confine
    # jobs here. Then other jobs share these cores, and processes are not bound.
    threads = len(topology.siblings(cores[0]))
    ours = not site.address and (site.exclusive or len(cores) < (job.cores or 0) + threads)
    if not all(topology.siblings(core) <= set(cores) for core in cores):
        threads = 1
    gpus = visible_gpus(os.environ) if job.gpus else ()
    return NodeFacts(
        node_name(), gpus, cores if ours else (), ports_in_use(site.ports), threads, own_host(site, node_name())
    )


class _Topology:
    """The sockets and physical cores of this node's CPUs, from the kernel (Documentation/admin-guide/cputopology.rst).

    CPU numbers don't show them: they may alternate between sockets, and CPUs of one physical core may be far apart.

    Args:
        folder: the folder of the CPUs in sysfs.
    """

    def __init__(self, folder: Path = Path("/sys/devices/system/cpu")) -> None:
        self._folder = folder

    def siblings(self, cpu: int) -> frozenset[int]:
        """Return all CPUs (hardware threads) of a CPU's physical core."""
        mask = int(self._read(cpu, "thread_siblings").replace(",", "") or "0", 16)
        return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1) or frozenset({cpu})

    def place(self, cpu: int) -> tuple[int, int, int]:
        """Return a key that sorts CPUs by socket and physical core."""
        return int(self._read(cpu, "physical_package_id") or 0), min(self.siblings(cpu)), cpu

    def _read(self, cpu: int, name: str) -> str:
        try:
            return (self._folder / f"cpu{cpu}" / "topology" / name).read_text().strip()
        except FileNotFoundError:  # some virtual machines say nothing of physical cores
            return ""


def local_facts(job: JobSpec, site: Site, nodes: Sequence[str]) -> list[NodeFacts]:
    """Return facts for nodes that are all this machine. They share its GPUs out; processes are not bound to cores."""
    here = local_gpus()
    each = job.gpus or 0
    busy = ports_in_use(site.ports)
    return [NodeFacts(node, here[i * each : (i + 1) * each], busy_ports=busy) for i, node in enumerate(nodes)]

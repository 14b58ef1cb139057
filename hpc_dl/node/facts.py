"""The facts of a node: its GPUs, cores and ports for this job, read on the node before the placement is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.gpus import cores_next_to, local_gpus, node_numbers, step_gpus
from hpc_dl.machine import ports_in_use
from hpc_dl.node.addresses import own_host
from hpc_dl.spec.cores import cores_in, one_thread_per_core
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


def slurm_facts(job: JobSpec, site: Site, ps: bool = False) -> NodeFacts:
    """Return the facts of the node of this Slurm step, which may be one for parameter servers alone.

    Raises:
        UserError: the node lacks GPUs that the site says it has.
    """
    topology = _Topology()
    allowed = os.sched_getaffinity(0) - topology.whole(cores_in(site.reserved_cores))
    cores = tuple(sorted(allowed or os.sched_getaffinity(0), key=topology.place))
    # If we may run on more cores than the job requested, rounded up to whole physical cores, Slurm does not confine
    # jobs here. Then other jobs share these cores, and processes are not bound.
    threads = len(topology.siblings(cores[0]))
    requested = (job.ps_node_cores if ps else job.cores or 0) * (threads if one_thread_per_core(site, job.slurm) else 1)
    ours = not site.address and (site.exclusive or len(cores) < requested + threads)
    if not all(topology.siblings(core) <= set(cores) for core in cores):
        threads = 1
    gpus = gpus_of_step(job, site) if job.gpus and not ps else ()
    near = tuple(tuple(sorted(topology.whole(cores_in(text)))) for text in _cores_next_to(gpus, site)) if ours else ()
    node = node_name()
    busy, host = ports_in_use(site.ports), own_host(site, node)
    own = cores if ours else ()
    sockets = tuple(topology.place(core)[0] for core in own)
    return NodeFacts(node, gpus, own, busy, threads, near, sockets, host)


def gpus_of_step(job: JobSpec, site: Site) -> tuple[str, ...]:
    """Return the GPUs that a job has on the node of this Slurm step.

    Raises:
        UserError: the node lacks GPUs that the site says it has.
    """
    untold = (job.gpus or 0) if site.gpu_list == "all" or site.gpu_request == "none" else 0
    return step_gpus(os.environ, site.gpu_vendor, untold, believe=site.gpu_list == "slurm", fake=site.fake_gpus)


def _cores_next_to(gpus: Sequence[str], site: Site) -> tuple[str, ...]:
    """Return the list of the cores next to each GPU, as the site has it, or else the node; none if nobody knows."""
    if site.gpu_cores:
        numbers = node_numbers(os.environ, gpus)
        table = {str(number): cores for number, cores in enumerate(site.gpu_cores)}
        return tuple(table.get(number, "") for number in numbers)
    found = cores_next_to(site.gpu_vendor, gpus)
    return found if any(found) else ()


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

    def whole(self, cpus: Iterable[int]) -> frozenset[int]:
        """Return all CPUs of the physical cores to which some CPUs belong."""
        return frozenset[int]().union(*map(self.siblings, cpus))

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
    here = local_gpus(site.gpu_vendor)
    each = job.gpus or 0
    busy = ports_in_use(site.ports)
    return [NodeFacts(node, here[i * each : (i + 1) * each], busy_ports=busy) for i, node in enumerate(nodes)]

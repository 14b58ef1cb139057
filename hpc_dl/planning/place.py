"""Place a job's processes on its nodes, with their addresses, GPUs and cores. Pure functions.

The layout follows "Image Recognition with Deep Learning Techniques and TensorFlow" (UPC/BSC, 2016). Parameter servers
take no GPU and share their nodes with workers. There is one worker per GPU; in mode mixed, one per node with all GPUs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.planning.share_cores import share_cores
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.cores import cores_in, jobs_cores, one_thread_per_core, threads_of
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.nodelist import expand
from hpc_dl.spec.placement import NodeFacts, Placement, Process, Role
from hpc_dl.spec.site import Site

_AGAIN = 3  # default restarts and requeues of the built-in program, which goes on from its last checkpoint
_HANG = 120  # default hang_timeout; a process may be silent for almost as long on a machine that has no memory left


def resolve(job: JobSpec, site: Site) -> JobSpec:
    """Return `job` with the mode's and the site's defaults filled in.

    Raises:
        UserError: the job asks for more than a node of the site has.
    """
    # In a local run all nodes share this machine's GPUs.
    most = site.gpus // job.nodes if scheduler_of(site).one_machine else site.gpus
    usual = most if MODES[job.mode].worker_per != "job" else min(most, job.towers or 1)
    gpus = usual if job.gpus is None else job.gpus
    if gpus > most:
        raise UserError(f"gpus = {gpus}: a node of site {site.name!r} has {most} (allowed: 0 to {most})")
    whole = site.exclusive or not gpus or gpus == site.gpus
    threads, all_cores = _cores_of_a_node(job, site)
    cores = job.cores or (all_cores if whole else max(1, all_cores // threads * gpus // site.gpus) * threads)
    if cores > all_cores:
        raise UserError(f"cores = {cores}: a node of site {site.name!r} has {all_cores}")
    if site.memory_gb and job.memory_gb > site.memory_gb:
        raise UserError(f"memory = {job.memory}: a node of site {site.name!r} has {site.memory_gb:g} GB")
    ps_nodes = job.ps_nodes or int(bool(job.ps_partition))
    if ps_nodes and scheduler_of(site).one_machine:
        raise UserError(f"ps_nodes = {ps_nodes}: the nodes of site {site.name!r} are one machine: leave it out")
    if (job.ps_cores or 0) > cores and not ps_nodes:
        raise UserError(f"ps_cores = {job.ps_cores}: the job has {cores} cores on each node")
    mode = MODES[job.mode]
    ps = job.ps or ps_nodes or 1 if mode.parameter_servers else None
    again, hang = (0, 0) if job.script else (_AGAIN, _HANG)
    # With many workers gradients come late. At the full rate the last ones can undo what the network has learnt.
    boundaries = (max(1, job.steps * 3 // 4),) if job.lr_boundaries is None else job.lr_boundaries
    resolved = msgspec.structs.replace(
        job,
        gpus=gpus,
        cores=cores,
        gres=site.gres if job.gres is None else job.gres,
        ps=ps,
        ps_nodes=ps_nodes,
        learning_rate=job.learning_rate or mode.learning_rate,
        lr_boundaries=boundaries,
        restarts=again if job.restarts is None else job.restarts,
        requeues=again if job.requeues is None else job.requeues,
        hang_timeout=hang if job.hang_timeout is None else job.hang_timeout,
    )
    if (ps or 0) < ps_nodes:
        raise UserError(f"ps_nodes = {ps_nodes}: more nodes than parameter servers, of which the job has {ps}")
    if (ps or 0) > (workers := resolved.nodes * resolved.per_node):
        raise UserError(f"ps = {ps}: more parameter servers than workers, of which the job has {workers}")
    if gpus and gpus % resolved.per_node:
        raise UserError(f"workers = {resolved.per_node}: {gpus} GPUs can't be shared out equally among them")
    if job.backup_workers >= workers:
        raise UserError(f"backup_workers = {job.backup_workers}: must be less than the workers, which are {workers}")
    if "towers" not in mode.keys:
        return resolved
    own = gpus // resolved.per_node
    if 0 < own < (job.towers or 0):
        raise UserError(f"towers = {job.towers}: a worker of this job has {own} GPUs (allowed: 1 to {own})")
    return msgspec.structs.replace(resolved, towers=job.towers or own or 1)


def _cores_of_a_node(job: JobSpec, site: Site) -> tuple[int, int]:
    """Return the threads of a physical core, and the cores of a node, as sbatch counts them for this job."""
    threads = site.threads_per_core
    return (1, site.cores // threads) if one_thread_per_core(site, job.slurm) else (threads, site.cores)


def expected_facts(job: JobSpec, site: Site, nodes: Iterable[str]) -> list[NodeFacts]:
    """Return the facts that a preview assumes for the nodes of a resolved job: first those of workers."""
    names = list(nodes)
    alone = tuple(range(0 if site.address else job.ps_node_cores))
    return [*_expected(job, site, names[: job.nodes]), *(NodeFacts(node, (), alone) for node in names[job.nodes :])]


def _expected(job: JobSpec, site: Site, nodes: Iterable[str]) -> list[NodeFacts]:
    gpus = tuple(str(gpu) for gpu in range(job.gpus or 0))
    if site.address:  # where all nodes are one machine, none of its cores belongs to one node
        return [NodeFacts(node, gpus) for node in nodes]
    tables = [{cpu for core in cores_in(cores) for cpu in threads_of(core, site)} for cores in site.gpu_cores]
    near = tables[: len(gpus)]
    around = set().union(*near)
    # Of a node that is shared, Slurm gives a job the cores next to its GPUs first.
    best = sorted(jobs_cores(site), key=lambda core: around.isdisjoint(core))
    threads, _ = _cores_of_a_node(job, site)
    cores = sorted(best[: -(-(job.cores or site.cores) // threads)])
    every = tuple(cpu for core in cores for cpu in core)
    return [
        NodeFacts(node, gpus, every, threads=site.threads_per_core, gpu_cores=tuple(tuple(sorted(one)) for one in near))
        for node in nodes
    ]


def place(job: JobSpec, site: Site, nodes: Sequence[NodeFacts], first_port: int = 0) -> Placement:
    """Place the processes of a resolved job on `nodes`.

    Args:
        job: a job that went through `resolve`.
        site: its site.
        nodes: the nodes in Slurm's order; after those of workers come the `ps_nodes`.
        first_port: offset into the site's port range at which this job starts, so that jobs on one node differ.

    Raises:
        UserError: a node lacks GPUs, or the site's ports don't suffice.
    """
    gpus_per_node = job.gpus or 0
    for facts in nodes[: job.nodes]:
        if len(facts.gpus) < gpus_per_node:
            seen = ", ".join(facts.gpus) or "none"
            raise UserError(f"node {facts.node}: the job needs {gpus_per_node} GPUs, visible there: {seen}")
    roles = _roles(job, len(nodes))
    ports = _Ports(site, nodes, first_port)
    processes: list[Process] = []
    for facts, here in zip(nodes, roles, strict=True):
        host = facts.host or site.host(facts.node)
        gpus = [_gpus(job, role, index) for role, index in here]
        near = [{cpu for cpus in facts.gpu_cores[own] for cpu in cpus} for own in gpus]
        cores = share_cores(facts.cores, [role for role, _ in here], job.ps_cores, facts.threads, near, facts.sockets)
        # A process that is not bound has as many threads as its share of the job's cores. Nodes that are one machine
        # have no cores of their own: one thread.
        cores_here = (job.cores or 0) if any(role == "worker" for role, _ in here) else job.ps_node_cores
        unbound = 1 if site.address else max(1, cores_here // _cores_of_a_node(job, site)[0] // len(here))
        for (role, index), own, bound in zip(here, gpus, cores, strict=True):
            threads = max(1, len(bound) // facts.threads) if bound else unbound
            address = (host, ports.take(facts))
            sees = facts.gpus[: job.gpus or 0] if job.visible_gpus == "node" and facts.gpus[own] else ()
            processes.append(Process(role, index, facts.node, *address, facts.gpus[own], bound, threads, sees))
    return Placement(tuple(facts.node for facts in nodes), tuple(processes))


def _gpus(job: JobSpec, role: Role, index: int) -> slice:
    """Return which of its node's GPUs a process has."""
    share = (job.gpus or 0) // job.per_node if role == "worker" else 0
    first = index % job.per_node * share
    return slice(first, first + share)


def _roles(job: JobSpec, nodes: int) -> list[list[tuple[Role, int]]]:
    """Return each node's (role, task_index) list: ps first, then the chief, then workers."""
    table: list[list[tuple[Role, int]]] = [[] for _ in range(nodes)]
    servers = table[job.nodes :] or table
    for index in range(job.ps or 0):
        servers[index * len(servers) // (job.ps or 1)].append(("ps", index))
    if job.chief:
        table[0].append(("chief", 0))
    for node, here in enumerate(table[: job.nodes]):
        here.extend(("worker", node * job.per_node + local) for local in range(job.per_node))
    return table


class _Ports:
    """Gives out ports one after the other, over the whole job, wrapping around in the site's range.

    A port is free if the node doesn't use it and it was not given out for the same host before.
    """

    def __init__(self, site: Site, nodes: Sequence[NodeFacts], first: int) -> None:
        self._low, high = site.ports
        self._size = high - self._low + 1
        self._next = first % self._size
        self._one_host = bool(site.address)
        self._everywhere = frozenset[int]().union(*(n.busy_ports for n in nodes)) if self._one_host else frozenset()
        self._taken: set[int] = set()
        self._node = ""

    def take(self, facts: NodeFacts) -> int:
        if facts.node != self._node and not self._one_host:
            self._node, self._taken = facts.node, set()
        busy = self._everywhere or facts.busy_ports
        for _ in range(self._size):
            port = self._low + self._next
            self._next = (self._next + 1) % self._size
            if port not in busy and port not in self._taken:
                self._taken.add(port)
                return port
        raise UserError(
            f"node {facts.node}: no port left in the site's range {self._low}-{self._low + self._size - 1}:"
            f" {len(busy)} in use there, {len(self._taken)} by this job"
        )


def first_port(job_id: str, runs: str = "") -> int:
    """Return the offset into the site's port range at which a job starts; jobs on the same node rarely collide.

    Args:
        job_id: the job's number, which Slurm counts up; ``L1`` and so on for a local job.
        runs: the folder of the run folders; local jobs are counted in each such folder.
    """
    digits = re.sub(r"\D", "", job_id)
    return int(digits or 0) * 97 + (zlib.crc32(runs.encode(errors="replace")) if job_id.startswith("L") else 0)


def placed(
    job: JobSpec, site: Site, facts: Mapping[str, NodeFacts], nodelist: str, job_id: str, runs: str = ""
) -> Placement:
    """Return the placement of a running job on the nodes that Slurm assigned, from their facts.

    Raises:
        UserError: a node told no facts, or lacks what the job needs.
    """
    names = expand(nodelist)
    if silent := [name for name in names if name not in facts]:
        raise UserError(f"node {silent[0]}: told nothing about itself; {len(facts)} of {len(names)} nodes did")
    return place(job, site, [facts[name] for name in names], first_port(job_id, runs))

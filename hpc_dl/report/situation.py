"""What a job used of what it had, on average over a time: all that the rules on its limits look at. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hpc_dl.monitor.reading import Node, Rates, mean
from hpc_dl.monitor.records import LOOPBACK, Start
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Site


class ProcessUse(msgspec.Struct, frozen=True):
    """What a process used."""

    name: str
    """``ps 0``."""
    role: str
    node: str
    cpu: float
    """Cores in use."""
    cores: int
    """Cores that it may use; 0: not known."""
    gpus: int = 0
    waited: float = 0.0
    """Threads that could have run, but had no core."""

    @property
    def waiting(self) -> float:
        """Return the share of the time in which it wants a core that it waits for one."""
        return self.waited / (self.waited + self.cpu) if self.waited else 0.0

    @property
    def share(self) -> float | None:
        """Return the share of its cores that it used; None: not known."""
        return self.cpu / self.cores if self.cores else None


class Link(msgspec.Struct, frozen=True):
    """What a network interface moved, in bits per second."""

    name: str
    sent: float
    received: float
    rate: float
    """What it can move in each direction."""

    @property
    def share(self) -> float:
        """Return the share of its rate that it used, in the direction with more."""
        return max(self.sent, self.received) / self.rate


class NodeUse(msgspec.Struct, frozen=True):
    """What a node used."""

    name: str
    cores: int
    busy: float
    """Cores on which something ran."""
    own: float
    """Cores that the job's processes used, on all nodes that are the same machine."""
    iowait: float = 0.0
    link: Link | None = None
    """Its busiest network interface whose rate is known."""
    gpu_use: float | None = None
    """Mean use of its GPUs, from 0 to 1; None: it has none."""


class Situation(msgspec.Struct, frozen=True):
    """What a job used."""

    processes: Sequence[ProcessUse]
    nodes: Sequence[NodeUse]
    synchronous: bool = False
    """Whether the workers make each step together."""
    step_seconds: Mapping[str, float] = {}
    """Median step time of each worker, ``worker 0``."""
    fastest_step: float = 0.0
    """Seconds of the fastest step of any worker; 0: not known."""
    start_seconds: float = 0.0
    """From the job's start to its first step; 0: not known."""
    all_seconds: float = 0.0

    def role(self, role: str) -> list[ProcessUse]:
        """Return the processes of a role."""
        return [process for process in self.processes if process.role == role]

    def node(self, name: str) -> NodeUse | None:
        """Return a node; None: it was not measured."""
        return next((node for node in self.nodes if node.name == name), None)


def spoken(process: str) -> str:
    """Return ``ps 0`` for ``ps:0``."""
    return process.replace(":", " ")


def uses(nodes: Mapping[str, Node], placement: Placement | None, site: Site) -> tuple[list[ProcessUse], list[NodeUse]]:
    """Return what processes and nodes used over all rates of `nodes`.

    Args:
        nodes: what the monitors measured.
        placement: where the processes are; None: not known.
        site: network_gbit.
    """
    placed = {process.name: process for process in placement.processes} if placement else {}
    processes = []
    for node, measured in nodes.items():
        for name in sorted({name for rate in measured.rates for name in rate.processes}):
            cpu = mean([rate.processes[name] for rate in measured.rates if name in rate.processes])
            where = placed.get(name)
            cores = min(filter(None, (len(where.cores) if where else 0, measured.cores.get(name, 0))), default=0)
            gpus = len(where.gpus) if where else 0
            waited = mean([rate.waited[name] for rate in measured.rates if name in rate.waited])
            processes.append(ProcessUse(spoken(name), name.partition(":")[0], node, cpu, cores, gpus, waited))
    machines = {node: measured.start.machine or node for node, measured in nodes.items() if measured.start}
    found = []
    for node, measured in nodes.items():
        if measured.start and measured.rates:
            own = sum(process.cpu for process in processes if machines.get(process.node) == machines[node])
            found.append(_node(node, measured.start, measured.rates, own, site))
    return processes, found


def _node(name: str, start: Start, rates: Sequence[Rates], own: float, site: Site) -> NodeUse:
    gpus = [gpu.use for rate in rates for gpu in rate.gpus if gpu.use is not None]
    return NodeUse(
        name=name,
        cores=start.cores,
        busy=mean([rate.busy for rate in rates]),
        own=own,
        iowait=mean([rate.iowait for rate in rates]),
        link=_busiest_link(rates, start.interfaces, site.network_gbit),
        gpu_use=mean(gpus) if gpus else None,
    )


def _busiest_link(rates: Sequence[Rates], mbits: Mapping[str, int], otherwise_gbit: float | None) -> Link | None:
    """Return the interface that used the largest share of its rate; None if no rate is known."""
    links = []
    for name in {name for rate in rates for name in rate.network} - {LOOPBACK}:
        moved = [rate.network[name] for rate in rates if name in rate.network]
        bits = otherwise_gbit * 1e9 if otherwise_gbit else mbits.get(name, 0) * 1e6
        if bits:
            links.append(Link(name, 8 * mean([m.sent for m in moved]), 8 * mean([m.received for m in moved]), bits))
    return max(links, key=lambda link: link.share, default=None)

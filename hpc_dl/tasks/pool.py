"""Pool: the cores, GPUs and memory of all nodes. Each is given to one task at a time."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Container, Iterable, Sequence

import msgspec

from hpc_dl.errors import UserError, near_match
from hpc_dl.spec.nodelist import expand


class Node(msgspec.Struct, frozen=True):
    """What a node has for the tasks. `gpus` are in the words of CUDA_VISIBLE_DEVICES, `memory` is in MiB."""

    name: str
    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()
    memory: int = 0


class Demand(msgspec.Struct, frozen=True):
    """What a task wants for itself on each of its `nodes`; `node` as in `Task`, `memory` in MiB."""

    cores: int = 1
    gpus: int = 0
    memory: int = 0
    node: str = ""
    nodes: int = 1


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task got of one node."""

    node: str
    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()
    memory: int = 0


class _Free:
    """What is free on a node now."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cores = list(range(len(node.cores)))
        self.gpus = list(range(len(node.gpus)))
        self.memory = node.memory

    def fits(self, demand: Demand) -> bool:
        return (
            len(self.cores) >= demand.cores
            and len(self.gpus) >= demand.gpus
            and self.memory >= demand.memory
            and _allows(demand.node, self.node.name)
        )

    def has_of(self, demand: Demand) -> tuple[int, int, int]:
        """Return how much of a demand is free."""
        return min(len(self.gpus), demand.gpus), min(len(self.cores), demand.cores), min(self.memory, demand.memory)

    def take(self, demand: Demand) -> Share:
        cores, self.cores = self.cores[: demand.cores], self.cores[demand.cores :]
        gpus, self.gpus = self.gpus[: demand.gpus], self.gpus[demand.gpus :]
        self.memory -= demand.memory
        node = self.node
        return Share(node.name, tuple(node.cores[i] for i in cores), tuple(node.gpus[i] for i in gpus), demand.memory)


class Pool:
    """Gives shares of nodes and takes them back.

    Raises:
        UserError: there is no node.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._free = {node.name: _Free(node) for node in nodes}
        if not self._free:
            raise UserError("no node to run tasks on")
        self.nodes = [free.node for free in self._free.values()]

    @property
    def names(self) -> list[str]:
        """Return the names of the nodes that are not lost."""
        return list(self._free)

    def take(self, demand: Demand, kept: Container[str] = ()) -> tuple[Share, ...]:
        """Take a task's shares, of nodes that are not `kept` for others; empty if too few nodes have room."""
        fit = [free for name, free in self._free.items() if name not in kept and free.fits(demand)]
        if len(fit) < demand.nodes:
            return ()

        # GPU tasks fill nodes up, so that larger ones find room. Other tasks are spread over the nodes.
        def order(one: _Free) -> tuple[int, ...]:
            return (len(one.gpus), -len(one.cores)) if demand.gpus else (-len(one.cores),)

        if demand.nodes == 1:
            return (min(fit, key=order).take(demand),)
        chosen = sorted(fit, key=order)[: demand.nodes]
        return tuple(free.take(demand) for free in fit if free in chosen)

    def give_back(self, share: Share) -> None:
        """Take a share back, unless its node is gone."""
        free = self._free.get(share.node)
        if free is None:
            return
        for core in share.cores:
            bisect.insort(free.cores, free.node.cores.index(core))
        for gpu in share.gpus:
            bisect.insort(free.gpus, free.node.gpus.index(gpu))
        free.memory += share.memory

    def keep(self, demand: Demand, kept: Container[str] = ()) -> list[str]:
        """Return the nodes to keep free for a demand that fits nowhere now: the nodes with most of what it wants.

        What is free on a kept node only grows. Another node replaces it only if it has more free, or as much and comes
        first. So the choice settles, and the demand is met at the latest when the tasks on these nodes have ended.
        """
        able = [free for free in self._free.values() if _has_room(free.node, demand)]
        if len(able) < demand.nodes:
            return []  # nodes were lost, so the demand can't be met any more
        best = sorted(able, key=lambda one: one.has_of(demand), reverse=True)
        return [free.node.name for free in best if free.node.name not in kept][: demand.nodes]

    def lose(self, name: str) -> None:
        """Drop a node that is gone."""
        self._free.pop(name, None)

    def problem(self, demand: Demand) -> str:
        """Return why a demand can never be met, even when all is free; empty if it can."""
        return problem([free.node for free in self._free.values()], demand)


def problem(nodes: Sequence[Node], demand: Demand) -> str:
    """Return why these nodes can never meet a demand, even when all of them are free; empty if they can."""
    here = [node for node in nodes if _allows(demand.node, node.name)]
    if not here:
        names = [node.name for node in nodes]
        return f"node {demand.node!r} is none of this run{near_match(demand.node, names)}"
    able = sum(_has_room(node, demand) for node in here)
    if able >= demand.nodes:
        return ""
    if demand.nodes > len(here):
        which = f" called {demand.node}" if demand.node else ""
        return f"wants {demand.nodes} nodes at once; this run has {len(here)}{which}"
    if able:
        return f"wants {demand.nodes} nodes at once; {able} of this run have what it wants of each"
    for what, wants, most in (
        ("cores", demand.cores, max(len(node.cores) for node in here)),
        ("GPUs", demand.gpus, max(len(node.gpus) for node in here)),
        ("MiB of memory", demand.memory, max(node.memory for node in here)),
    ):
        if wants > most:
            return f"wants {wants} {what}; the most that a node has is {most}"
    return "no node has all that it wants together"


def _has_room(node: Node, demand: Demand) -> bool:
    """Return whether a demand can be met when all of the node is free."""
    return (
        len(node.cores) >= demand.cores
        and len(node.gpus) >= demand.gpus
        and node.memory >= demand.memory
        and _allows(demand.node, node.name)
    )


def _allows(wanted: str, name: str) -> bool:
    return not wanted or wanted == name or name in _expanded(wanted)


@functools.lru_cache(maxsize=4096)
def _expanded(wanted: str) -> frozenset[str]:
    try:
        return frozenset(expand(wanted))
    except UserError:
        return frozenset()  # no node has such a name

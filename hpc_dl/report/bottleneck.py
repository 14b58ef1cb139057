"""What limits a job, from measured figures alone. Each rule looks for one cause; where none holds, nothing is named."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence

from hpc_dl.report.model import Finding
from hpc_dl.report.situation import Link, ProcessUse, Situation

_FULL_LINK = 0.85  # of its rate: headers and acknowledgements take the rest
_IN_TURNS = 0.9  # of its rate, both directions together
_FULL_CORES = 0.9
_FULL_NODE = 0.95
_WAITING = 0.3  # of the time in which a process wants a core
_STARVED = 0.2  # threads that wait for a core
_FULL_GPU = 0.9
_IDLE = 0.7
_OTHERS = 0.25  # of a node's cores that other programs use
_SLOWER = 1.5  # times the median of the others
_DISK_WAIT = 0.15  # of a node's cores
_LONG_START = 120.0  # seconds
_START_SHARE = 0.4


def findings(now: Situation) -> list[Finding]:
    """Return what limits a job, the likeliest cause first; none if no figure is at a limit."""
    found = [finding for rule in _RULES for finding in rule(now)]
    # Computing is what a job is for: it is named if nothing else is.
    return found or list(_computing(now))


def _network(now: Situation) -> Iterator[Finding]:
    servers = {process.node: process for process in now.role("ps")}
    idle = statistics.median([_use(now, worker) for worker in now.role("worker")] or [1.0]) < _IDLE
    full = {node.name: node.link for node in now.nodes if node.link and _is_full(node.link, idle)}
    for name, link in full.items():
        if name in servers:
            yield Finding(
                f"{servers[name].name}'s network",
                f"Node {name} {_told(link)}.{_waiting(now)}",
                "More parameter servers on other nodes (ps), fewer bytes (compression, n_fetch, n_push), or a mode of "
                "all-reduce spread the traffic.",
            )
    if full.keys() & servers.keys():
        return  # the other nodes' traffic is with these
    if len(full) > 1 and len(full) == len(now.nodes):
        name, link = max(full.items(), key=lambda pair: pair[1].share)
        why = f"Node {name} {_told(link)}, and the others are alike."
        yield Finding("the network of all nodes", why, "Fewer bytes (compression) or larger batches need less of it.")
        return
    for name, link in full.items():
        names = ", ".join(process.name for process in now.processes if process.node == name)
        why = f"It {_told(link)}. On it: {names}."
        yield Finding(f"node {name}'s network", why, "See why it is slower than those of other nodes, or leave it out.")


def _is_full(link: Link, idle: bool) -> bool:
    """Return whether a link is full. Idle workers that send and receive in turns fill half of each direction."""
    return link.share >= _FULL_LINK or (idle and (link.sent + link.received) / link.rate >= _IN_TURNS)


def _told(link: Link) -> str:
    sent, received = (f"{bits / link.rate:.0%}" for bits in (link.sent, link.received))
    return f"sends {sent} and receives {received} of the {_bits(link.rate)} of {link.name}"


def _waiting(now: Situation) -> str:
    """Return the sentence on how much of a step is waiting, if step times are known."""
    if not now.step_seconds or not now.fastest_step:
        return ""
    usual = statistics.median(now.step_seconds.values())
    share = 1 - now.fastest_step / usual
    return f" A step takes {_ms(usual)}, the fastest took {_ms(now.fastest_step)}: up to {share:.0%} of it is waiting."


def _server_cores(now: Situation) -> Iterator[Finding]:
    for server in now.role("ps"):
        if (server.share or 0.0) >= _FULL_CORES:
            yield Finding(
                f"{server.name}'s CPU",
                f"It uses {server.cpu:.2g} of its {server.cores} cores.",
                "More cores for each parameter server (ps_cores) or more parameter servers (ps) share its work.",
            )


def _starved(now: Situation) -> Iterator[Finding]:
    full = {node.name for node in now.nodes if node.busy >= _FULL_NODE * node.cores}
    for process in now.processes:
        # Of a process that uses all of its cores, more threads than cores wait.
        if process.node in full or (process.share or 0.0) >= _FULL_CORES or process.waited < _STARVED:
            continue
        if process.waiting >= _WAITING:
            yield Finding(
                f"{process.name}'s CPU",
                f"It uses {process.cpu:.2g} cores, and waits for a core {process.waiting:.0%} of the time in which it "
                "could compute, though its node has free ones.",
                "See which limit it has, such as a CPU quota, or which programs share its cores.",
            )


def _other_programs(now: Situation) -> Iterator[Finding]:
    others = {
        node.name: node.busy - node.own
        for node in now.nodes
        if node.busy >= _FULL_NODE * node.cores and node.busy - node.own >= _OTHERS * node.cores
    }
    if others:
        yield Finding(
            f"other programs on {_named(others)}",
            f"All cores are busy there, {max(others.values()):.1f} of them with what is not of this job.",
            "On Slurm, whole nodes (slurm = {exclusive = true}) have no other jobs.",
        )


def _slow_worker(now: Situation) -> Iterator[Finding]:
    workers = now.role("worker")
    if len(workers) < 3:
        return
    for worker in workers:
        others = [other for other in workers if other is not worker]
        used, theirs = _use(now, worker), statistics.median(_use(now, other) for other in others)
        if now.synchronous:
            if used >= _SLOWER * theirs and used >= 0.5 and theirs < _IDLE:
                why = f"It computes {used:.0%} of the time, the others {theirs:.0%}: they wait for it in each step."
                remedy = "See what slows its node, or let steps go on without the slowest (backup_workers)."
                yield Finding(f"{worker.name} on node {worker.node}", why, remedy)
            continue
        steps = [now.step_seconds[other.name] for other in others if other.name in now.step_seconds]
        own = now.step_seconds.get(worker.name, 0.0)
        if steps and own >= _SLOWER * statistics.median(steps):
            waits = used < _IDLE * theirs
            why = (
                f"A step takes {_ms(own)}, that of the others {_ms(statistics.median(steps))}; "
                f"it computes {used:.0%} of the time, the others {theirs:.0%}"
            )
            what = f"the network of {worker.name}" if waits else worker.name
            yield Finding(f"{what} on node {worker.node}", f"{why}.", "See what slows its node, or leave it out.")


def _use(now: Situation, worker: ProcessUse) -> float:
    """Return the share of the time in which a worker computes: that of its GPUs, else that of its cores."""
    node = now.node(worker.node)
    if worker.gpus and node and node.gpu_use is not None:
        return node.gpu_use
    return worker.cpu if worker.share is None else worker.share


def _input(now: Situation) -> Iterator[Finding]:
    waits = {node.name: node.iowait for node in now.nodes if node.iowait >= _DISK_WAIT * node.cores}
    if waits:
        yield Finding(
            f"the disk of {_named(waits)}",
            f"{max(waits.values()):.1f} cores wait for a disk there.",
            "Copy the data set to the nodes' own disks first (stage), or pack it into fewer files.",
        )
    for worker in now.role("worker"):
        if worker.gpus and _use(now, worker) < _IDLE and (worker.share or 0.0) >= _FULL_CORES:
            yield Finding(
                f"the input of {worker.name}",
                f"Its GPUs compute {_use(now, worker):.0%} of the time, and it uses all of its {worker.cores} cores.",
                "More cores for each worker (cores) prepare more images.",
            )


def _start(now: Situation) -> Iterator[Finding]:
    if now.start_seconds >= _LONG_START and now.start_seconds >= _START_SHARE * now.all_seconds:
        yield Finding(
            "the start",
            f"{now.start_seconds:.0f} of {now.all_seconds:.0f} seconds passed before the first step.",
            "The processes' logs say what took so long, such as imports from a shared disk, or a late node.",
        )


def _computing(now: Situation) -> Iterator[Finding]:
    remedy = "That is what a job is for. More workers train faster."
    workers = now.role("worker")
    gpus = [node.gpu_use for node in now.nodes if node.gpu_use is not None]
    if gpus and min(gpus) >= _FULL_GPU:
        yield Finding("the workers' GPUs", f"They compute {min(gpus):.0%} of the time.", remedy)
    elif workers and not gpus and all((worker.share or 0.0) >= _FULL_CORES for worker in workers):
        cpu, cores = sum(worker.cpu for worker in workers), sum(worker.cores for worker in workers)
        yield Finding("the workers' cores", f"They use {cpu:.3g} of {cores} cores.", remedy)
    elif not gpus and (own := {n.name: n.own for n in now.nodes if n.busy >= _FULL_NODE * n.cores}):
        why = f"All cores are busy there, {max(own.values()):.1f} of them with this job."
        yield Finding(f"the cores of {_named(own)}", why, "That is what a job is for. More nodes or GPUs train faster.")


_RULES: Sequence[Callable[[Situation], Iterator[Finding]]] = (
    _network,
    _server_cores,
    _starved,
    _other_programs,
    _slow_worker,
    _input,
    _start,
)


def _named(nodes: Collection[str]) -> str:
    """Return ``node n1``, or ``nodes n1, n2 and 3 more``."""
    shown, more = list(nodes)[:3], len(nodes) - 3
    return f"node{'s' * (len(nodes) > 1)} {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")


def _bits(rate: float) -> str:
    return f"{rate / 1e9:.4g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.4g} Mbit/s"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"

"""Shares of a node's cores for its processes. Pure functions."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterable, Sequence

from hpc_dl.spec.placement import Role


def share_cores(
    cores: Sequence[int],
    roles: Sequence[Role],
    ps_cores: int | None = None,
    threads: int = 1,
    near: Sequence[Collection[int]] = (),
    sockets: Sequence[int] = (),
) -> list[tuple[int, ...]]:
    """Share out a node's cores: `ps_cores` to each ps and chief, the rest evenly to the workers.

    If there are enough physical cores, no two processes share one. If there are fewer CPUs than processes, no process
    is bound.

    Args:
        cores: CPU numbers in the order of the node's sockets. Shares are runs, to keep a process on one socket.
        roles: of the node's processes.
        ps_cores: CPUs of each ps and chief; None: as many as a worker.
        threads: CPUs of a physical core; they are neighbours in `cores`.
        near: for each process, the CPUs next to its GPUs; empty where it has none, or they are not known.
        sockets: the socket of each of `cores`; empty: the node is taken to have two.
    """
    unit = threads if threads > 1 and len(cores) % threads == 0 else 1
    sizes = _sizes(len(cores) // unit, roles, ps_cores and -(-ps_cores // unit))
    if not sizes and unit > 1:
        unit, sizes = 1, _sizes(len(cores), roles, ps_cores)
    if not sizes:
        return [()] * len(roles)
    units = [tuple(cores[start : start + unit]) for start in range(0, len(cores), unit)]
    wanted = [{place for place, unit in enumerate(units) if not cpus.isdisjoint(unit)} for cpus in map(set, near)]
    tells = any(0 < len(places) < len(units) for places in wanted)
    halves = [2 * start >= len(cores) for start in range(0, len(cores), unit)]
    shares = _near(sockets[::unit] or halves, sizes, wanted) if tells else _runs(range(len(units)), sizes)
    return [tuple(cpu for place in sorted(share) for cpu in units[place]) for share in shares]


def _sizes(units: int, roles: Sequence[Role], ps_units: int | None) -> list[int]:
    """Return how many units each process gets; empty if there are not enough."""
    helpers = sum(role != "worker" for role in roles)
    each = ps_units or units // len(roles)
    left, workers = units - helpers * each, len(roles) - helpers
    if not each or left < workers:
        return []
    share, extra = divmod(left, workers or 1)
    shares = iter([share + (worker < extra) for worker in range(workers)])
    return [next(shares) if role == "worker" else each for role in roles]


def _runs(places: Sequence[int], sizes: Iterable[int]) -> list[list[int]]:
    """Return one run of places after the other."""
    ends = list(itertools.accumulate(sizes))
    return [list(places[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _near(sockets: Sequence[int], sizes: Sequence[int], wanted: Sequence[set[int]]) -> list[list[int]]:
    """Share out units, by their sockets, so that each process has as many of its `wanted` ones as there are.

    Processes that want the same ones have equal parts of them. What such a process still lacks it takes from units that
    no process wants, on the same socket if it can, the nearest first. Processes that want none, such as a ps, get what
    is left.
    """
    free = set(range(len(sockets)))
    shares: list[list[int]] = [[] for _ in sizes]
    groups: dict[frozenset[int], list[int]] = collections.defaultdict(list)
    for process, places in enumerate(wanted):
        if places:
            groups[frozenset(places)].append(process)
    for same, members in sorted(groups.items(), key=lambda group: len(group[0])):  # a part comes before the whole
        here = sorted(same & free)
        even, more = divmod(len(here), len(members))
        enough = sum(sizes[process] for process in members) <= len(here)
        parts = [sizes[p] if enough else min(sizes[p], even + (nth < more)) for nth, p in enumerate(members)]
        for process, run in zip(members, _runs(here, parts), strict=True):
            shares[process] = run
            free.difference_update(run)
    claimed = set[int]().union(*wanted)
    for process in sorted(range(len(sizes)), key=lambda process: not wanted[process]):
        around = wanted[process]
        own = {sockets[place] for place in around or free}
        far = {place: min((abs(place - other) for other in around), default=0) for place in free}
        best = sorted(free, key=lambda place: (place in claimed, sockets[place] not in own, far[place], place))
        rest = best[: sizes[process] - len(shares[process])]
        shares[process] += rest
        free.difference_update(rest)
    return shares

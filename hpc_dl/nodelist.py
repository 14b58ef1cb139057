"""Slurm's node lists: ``nvb[16,19,25]`` to names and back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hpc_dl.errors import UserError


def expand(nodelist: str) -> list[str]:
    """Return the node names of a node list in its own order, as ``scontrol show hostnames`` does.

    Raises:
        UserError: the list is empty, malformed or names a node twice.
    """
    # Here and not above: it takes 40 ms that most commands need not pay.
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    if odd := re.search(r"[^\w.,\[\]-]", nodelist):
        raise UserError(f"node list: unexpected {odd[0]!r}\n  {nodelist}\n  {' ' * odd.start()}^")
    names: list[str] = []
    try:
        for part in _split(nodelist):
            names.extend(NodeSet(part, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise UserError(f"node list {nodelist!r}: {error}") from None
    if not names:
        raise UserError("node list: empty; expected for example 'nvb[16,19,25]'")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"node list {nodelist!r}: names {name!r} twice")
        seen.add(name)
    return names


def fold(names: Iterable[str]) -> str:
    """Return node names as a node list."""
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    return str(NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP))


def _split(nodelist: str) -> list[str]:
    """Split at the commas outside brackets, which keeps the list's order where NodeSet would sort."""
    parts = [""]
    depth = 0
    for char in nodelist:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part]

"""Partitions and nodes of a Slurm cluster, parsed from the output of its commands, and a site made from them."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.schedulers.cluster import Cluster, Node, Partition, nodes_in
from hpc_dl.schedulers.slurm.commands import ask, insist
from hpc_dl.schedulers.slurm.sbatch_options import minutes
from hpc_dl.spec.cores import cores_in
from hpc_dl.spec.layers import Layer, build
from hpc_dl.spec.nodelist import expand, fold
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_checks import check

# %P marks the default partition with a star; %R would not.
_SINFO = ("sinfo", "--noheader", "--all", "--Node", "--format=%N|%P|%T|%c|%X|%m|%G|%Y|%Z")
# A "+" follows numbers that differ between nodes.
_NUMBER = r"\|(\d+)\+?"
_ROW = re.compile(rf"([\w.-]+)\|([^|]+)\|([^|]*){_NUMBER * 3}\|([^|]*)(?:{_NUMBER * 2})?", re.ASCII)
_CONFIG = ("scontrol", "show", "config")
_GRACE = Site(cores=1).grace


def cluster(environ: Mapping[str, str]) -> Cluster:
    """Return partitions, nodes and KillWait of a Slurm; parts that it does not answer are empty."""
    return Cluster(
        parse_partitions(ask(environ, "scontrol", "show", "partition", "--oneliner").out),
        nodes(environ),
        parse_kill_wait(ask(environ, *_CONFIG).out),
    )


def nodes(environ: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the nodes of a Slurm, once for each partition; none if it does not answer."""
    return parse_nodes(ask(environ, *_SINFO).out)


def describe(environ: Mapping[str, str], name: str, partition: str = "") -> Site:
    """Return a site made from Slurm's description of a partition.

    If its nodes differ, the most frequent kind counts.

    Args:
        environ: the environment of Slurm's commands.
        name: the cluster's name.
        partition: one or several with commas, of which the first one counts; empty: the default one.

    Raises:
        UserError: Slurm does not answer, names no node, or has no such partition.
    """
    found = parse_nodes(insist(environ, *_SINFO, what="sinfo"))
    site = described(found, name, partition, parse_kill_wait(ask(environ, *_CONFIG).out))
    return with_cores(site, node_fields(environ, site))


def node_fields(environ: Mapping[str, str], site: Site) -> dict[str, str]:
    """Return what ``scontrol show node`` says of the first node of a site; empty if it does not answer."""
    first = expand(site.nodes)[0]
    return dict(re.findall(r"\b([A-Z]\w+)=(\S+)", ask(environ, "scontrol", "show", "node", first, "--oneliner").out))


def with_cores(site: Site, fields: Mapping[str, str]) -> Site:
    """Return a site with the cores that jobs get of a node: sinfo counts those that Slurm keeps for the system too.

    Args:
        site: made from sinfo.
        fields: what ``scontrol show node`` says of one of its nodes.
    """
    if fields.get("CPUTot") != str(site.cores):
        return site  # another kind of node, or no answer
    found = re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", fields.get("CPUSpecList", ""))
    reserved = found[0] if found else ""
    usable = fields.get("CPUEfctv", "")  # Slurm 20.11 does not say it
    cores = int(usable) if usable.isdigit() else site.cores - len(cores_in(reserved))
    return replace(site, cores=max(cores, 1), reserved_cores=reserved)


def described(found: Sequence[Node], name: str, partition: str = "", kill_wait: int | None = None) -> Site:
    """Return the site that `describe` returns, from nodes and KillWait.

    Raises:
        UserError: there is no node, or no such partition.
    """
    if not found:
        raise UserError("sinfo names no node: write a site file in env/sites")
    known = dict.fromkeys(node.partition for node in found)
    default = next((node.partition for node in found if node.default), found[0].partition)
    wanted = (partition or default).split(",")
    if unknown := [one for one in wanted if one not in known]:
        near = near_match(unknown[0], known)
        raise UserError(f"partition = {partition!r}: Slurm has no {unknown[0]!r}{near}; it has {allowed(known)}")
    kinds: dict[object, list[Node]] = collections.defaultdict(list)
    for node in nodes_in(found, wanted[0]):
        kinds[node.cores, node.threads, node.sockets, node.memory_mb, tuple(node.gpus.items())].append(node)
    usual = max(kinds.values(), key=len)
    kind, gpus = next(iter(usual[0].gpus.items()), ("", 0))
    values = {
        "name": name,
        "cluster": name,
        "description": f"made from sinfo: partition {wanted[0]}",
        "nodes": fold([node.name for node in usual]),
        "cores": usual[0].cores,
        "threads_per_core": usual[0].threads,
        "memory_gb": usual[0].memory_mb / 1024,
        "partition": partition or default,
        "gpus": gpus,
        "gpu_type": kind,
        "grace": min(_GRACE, kill_wait or _GRACE),
    }
    return build(Site, [Layer(values, "sinfo")], "site", check)


def parse_partitions(text: str) -> dict[str, Partition]:
    """Return the partitions in the output of ``scontrol show partition --oneliner``."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if name := fields.get("PartitionName"):
            found[name] = Partition(
                name,
                fields.get("State", "UP"),
                fields.get("Default") == "YES",
                _minutes(fields.get("MaxTime", "")),
                _number(fields, "MaxNodes"),
                fields.get("OverSubscribe") == "EXCLUSIVE",
            )
    return found


def _number(fields: Mapping[str, str], key: str) -> float:
    value = fields.get(key, "")
    return int(value) if value.isdigit() else float("inf")


def _minutes(text: str) -> float:
    return minutes(text) if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text) else float("inf")


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes in sinfo's lines (man sinfo).

    A line is ``name|partition|state|cpus|sockets|memory in MB|gres``, mostly with
    ``|cores of a socket|threads of a core``.
    """
    found = []
    for row in filter(None, map(_ROW.fullmatch, map(str.strip, text.splitlines()))):
        name, partition, state, cores, sockets, memory, gres, of_socket, of_core = row.groups()
        gpus, default = parse_gres(gres), partition.endswith("*")
        # An administrator may count a core as one CPU although it has several threads (man slurm.conf, CPUs).
        counted = int(cores) == int(sockets) * int(of_socket or 1) * int(of_core or 1)
        threads = int(of_core or 1) if counted else 1
        found.append(
            Node(name, partition.rstrip("*"), state, int(cores), int(memory), gpus, int(sockets), default, threads)
        )
    return tuple(found)


def parse_gres(text: str) -> dict[str, int]:
    """Return the GPUs by type in a gres such as ``gpu:k80:4(S:0-1),gpu:v100:2``."""
    gpus: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        if found := re.fullmatch(r"gpu(?::([^:]+))?:(\d+)", part):
            gpus[found[1] or ""] = gpus.get(found[1] or "", 0) + int(found[2])
    return gpus


def parse_kill_wait(text: str) -> int | None:
    """Return the seconds of KillWait in the output of ``scontrol show config``."""
    found = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None

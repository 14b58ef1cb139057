"""What the private cluster looks like, and its slurm.conf and other files. Nothing here touches the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster.root import FOLDER_VARIABLE, root_problem

FILES = ("slurm.conf", "gres.conf", "cgroup.conf")
ACCOUNTING_FILE = "slurmdbd.conf"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# Values that slurm.conf(5) reads as they stand, and values that it reads in quotes. Anything else is read as syntax.
_PLAIN = re.compile(r"[\w./:,+@=\[\]()~-]+", re.ASCII)
_QUOTABLE = re.compile(r"[\w./:,+@=\[\]()~ -]+", re.ASCII)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(f"private cluster: {message}")


def _check_name(what: str, name: str) -> None:
    _check(bool(_NAME.fullmatch(name)), f"{what} {name!r}: a letter, then letters, digits, '-' or '_' are allowed")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind, named ``<prefix>1`` to ``<prefix><count>``, with the domain behind if there is one.

    `memory_mb` is in MiB, as Slurm's RealMemory. CPUs, GPUs and memory need not exist on the host. A physical core
    has `threads` of the CPUs.
    """

    prefix: str = "mini"
    count: int = 2
    cpus: int = 16
    gpus: int = 4
    gpu_type: str = "k80"
    memory_mb: int = 64_000
    domain: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        _check_name("node prefix", self.prefix)
        _check_name("GPU type", self.gpu_type)
        for label in filter(None, self.domain.split(".")):
            _check_name("domain", label)
        _check(1 <= self.count <= 1000, f"{self.count} nodes {self.prefix!r}: 1 to 1000 are allowed")
        _check(1 <= self.cpus <= 1024, f"{self.cpus} CPUs on nodes {self.prefix!r}: 1 to 1024 are allowed")
        _check(0 <= self.gpus <= 64, f"{self.gpus} GPUs on nodes {self.prefix!r}: 0 to 64 are allowed")
        _check(
            1 <= self.threads <= 8 and self.cpus % self.threads == 0,
            f"{self.threads} threads in each core of {self.cpus} CPUs on nodes {self.prefix!r}: they don't fit",
        )
        _check(self.memory_mb >= self.cpus, f"{self.memory_mb} MiB on nodes {self.prefix!r}: too little memory")

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        domain = f".{self.domain}" if self.domain else ""
        return tuple(f"{self.prefix}{i}{domain}" for i in range(1, self.count + 1))


@dataclass(frozen=True)
class Partition:
    """A partition: `nodes` is a node list such as ``mini[1-2]``, `max_time` as in slurm.conf's MaxTime."""

    name: str
    nodes: str = "ALL"
    max_time: str = "INFINITE"

    def __post_init__(self) -> None:
        _check_name("partition", self.name)


@dataclass(frozen=True)
class ClusterConfig:
    """The whole cluster.

    The first partition is the default one. With `accounting` it has a slurmdbd, and sacct remembers jobs until the
    cluster ends. A line of `extra` goes to slurm.conf as it stands; it replaces our line with the same key, except for
    nodes and partitions.

    Raises:
        UserError: A number out of range, a bad name, a node or partition twice, an extra line that is no ``KEY=value``.
    """

    groups: tuple[NodeGroup, ...] = (NodeGroup(),)
    partitions: tuple[Partition, ...] = (Partition("main"),)
    extra: tuple[str, ...] = ()
    name: str = "minicluster"
    accounting: bool = False

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check(bool(self.groups), "no nodes")
        _check(bool(self.partitions), "no partition")
        for what, names in (("node", list(self.names)), ("partition", [p.name for p in self.partitions])):
            twice = sorted({name for name in names if names.count(name) > 1})
            _check(not twice, f"{what} {', '.join(twice)}: more than one has this name")
        for line in self.extra:
            _check(bool(re.fullmatch(r"\w+=.+", line)), f"extra line {line!r}: KEY=value on one line is expected")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all nodes."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def memory_per_cpu_mb(self) -> int:
        """The default memory for each CPU, in MiB. It is so small that a job may take all CPUs of any node."""
        return min(group.memory_mb // group.cpus for group in self.groups)


@dataclass(frozen=True)
class Host:
    """Where a node is on the network. `enter` is the prefix of its slurmd's command, which puts slurmd there."""

    address: str = "127.0.0.1"
    name: str = "localhost"
    enter: tuple[str, ...] = ()


HERE = Host()


@dataclass(frozen=True)
class Place:
    """What is known only on the machine where the cluster starts.

    `version` is Slurm's year and month. `plugin_dir` is the folder of Slurm's plugins, if it is not the one built into
    Slurm. `accounting_port` and `user_name` are for slurmdbd. `controller` and `hosts` say where slurmctld and the
    nodes are.
    """

    root: Path
    user: str
    controller_port: int
    node_ports: Mapping[str, int]
    version: tuple[int, int]
    plugin_dir: Path | None = None
    user_name: str = ""
    accounting_port: int = 0
    controller: Host = HERE
    hosts: Mapping[str, Host] = field(default_factory=dict)

    def host(self, node: str) -> Host:
        """Return where a node is."""
        return self.hosts.get(node, HERE)


class _Verbatim(str):
    __slots__ = ()


def conf_value(value: object) -> object:
    """Return a value as slurm.conf takes it: quoted if it has blanks.

    Raises:
        UserError: The value has a character that would be read as syntax: quotes, ``#``, a line break …
    """
    if isinstance(value, _Verbatim) or _PLAIN.fullmatch(str(value)):
        return value
    _check(bool(_QUOTABLE.fullmatch(str(value))), f"{str(value)!r} can't be written to slurm.conf")
    return f'"{value}"'


def render(config: ClusterConfig, place: Place) -> dict[str, str]:
    """Return the text of each configuration file by name, rendered from ``templates/minicluster``.

    Raises:
        UserError: The root folder's path is not usable, or a value can't be written to slurm.conf.
    """
    import jinja2

    from hpc_dl.shipped_files import share

    problem = root_problem(place.root, max(map(len, config.names)))
    _check(not problem, f"{place.root}: {problem}; set {FOLDER_VARIABLE} to another folder")
    environment = jinja2.Environment(  # noqa: S701 - `finalize` checks and quotes every value
        loader=jinja2.FileSystemLoader(str(share() / "templates" / "minicluster")),
        undefined=jinja2.StrictUndefined,
        finalize=conf_value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["verbatim"] = _Verbatim
    names = (*FILES, ACCOUNTING_FILE) if config.accounting else FILES
    texts = {name: environment.get_template(f"{name}.j2").render(config=config, place=place) for name in names}
    texts["slurm.conf"] = _without_replaced(texts["slurm.conf"], config.extra)
    return texts


def _without_replaced(text: str, extra: tuple[str, ...]) -> str:
    """Drop our lines that an extra line replaces: Slurm's commands complain about a key that comes twice."""
    replaced = {line.partition("=")[0].lower() for line in extra} - {"nodename", "partitionname"}
    lines = text.splitlines(keepends=True)
    ours = len(lines) - len(extra)
    kept = [line for i, line in enumerate(lines) if i >= ours or line.partition("=")[0].lower() not in replaced]
    return "".join(kept)

"""Placement: which process runs on which node, with which address, GPUs and cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from hpc_dl.spec.nodelist import fold_numbers

Role = Literal["ps", "chief", "worker"]


class NodeFacts(msgspec.Struct, frozen=True):
    """What a job may use on one node: told by the site for a preview, by the node itself in the job."""

    node: str
    gpus: tuple[str, ...] = ()
    """GPUs as the vendor's variable names them, in the order of the local GPU numbers."""
    cores: tuple[int, ...] = ()
    """CPU numbers in the order of sockets and physical cores; empty if processes are not bound, as on shared cores."""
    busy_ports: frozenset[int] = frozenset()
    threads: int = 1
    """CPUs in a physical core; they are neighbours in `cores`."""
    gpu_cores: tuple[tuple[int, ...], ...] = ()
    """CPU numbers next to each of `gpus`; empty if not known."""
    sockets: tuple[int, ...] = ()
    """The socket of each of `cores`; empty if not known."""
    host: str = ""
    """The name or address at which the others reach it; empty: what the site says."""


class Process(msgspec.Struct, frozen=True):
    """One process of the job."""

    role: Role
    index: int
    """The task_index: number within its role, from 0."""
    node: str
    host: str
    port: int
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    threads: int = 1
    """How many threads it may keep busy."""
    sees: tuple[str, ...] = ()
    """All GPUs that it sees, where these are more than its own."""

    @property
    def name(self) -> str:
        """Return ``worker:3``."""
        return f"{self.role}:{self.index}"

    @property
    def address(self) -> str:
        """Return ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def visible_gpus(self) -> str:
        """Return its own GPUs as CUDA_VISIBLE_DEVICES or its like lists them; empty if it has none."""
        return ",".join(self.gpus)

    @property
    def core_list(self) -> str:
        """Return the cores as ``taskset -c`` reads them: ``0-3,8``; empty if the process is not bound."""
        return fold_numbers(sorted(self.cores))

    @property
    def summary(self) -> str:
        """Return ``worker 0 (GPU 0, cores 5-10, nvb19-ib0:2221)``."""
        gpus = f"GPU {self.visible_gpus}" if self.gpus else "no GPU"
        cores = f", cores {self.core_list}" if self.cores else ""
        return f"{self.role} {self.index} ({gpus}{cores}, {self.address})"


class Placement(msgspec.Struct, frozen=True):
    """All processes of a job."""

    nodes: tuple[str, ...]
    processes: tuple[Process, ...]

    def by_node(self) -> dict[str, list[Process]]:
        """Return each node's processes, in the order of `nodes`."""
        table: dict[str, list[Process]] = {node: [] for node in self.nodes}
        for process in self.processes:
            table[process.node].append(process)
        return table

    def cluster(self) -> dict[str, list[str]]:
        """Return the cluster spec: role to addresses in the order of task_index."""
        spec: dict[str, list[str]] = {}
        for process in sorted(self.processes, key=lambda p: (p.role, p.index)):
            spec.setdefault(process.role, []).append(process.address)
        return spec


def tf_config(cluster: Mapping[str, Sequence[str]], role: str, index: int) -> str:
    """Return the value of TF_CONFIG for one process (TensorFlow guide, "Distributed training", TF_CONFIG)."""
    return msgspec.json.encode({"cluster": cluster, "task": {"type": role, "index": index}}).decode()


def classic_flags(cluster: Mapping[str, Sequence[str]], role: str, index: int) -> list[str]:
    """Return the flags that scripts took before TF_CONFIG."""
    hosts = [f"--{kind}_hosts={','.join(cluster.get(kind, []))}" for kind in ("ps", "worker")]
    return [*hosts, f"--job_name={role}", f"--task_index={index}"]

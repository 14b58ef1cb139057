"""Partitions, nodes and settings of a Slurm, from the text of its commands."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

import msgspec

from hpc_dl.processes import for_slurms_commands

_PATIENCE = 30  # seconds; a controller that is away is asked again for up to a minute
# States in which a node takes no jobs (man sinfo, "NODE STATE CODES"); the flags * # $ @ ! follow them.
_OUT = ("DOWN", "DRAIN", "FAIL", "MAINT", "UNKNOWN", "POWERING_DOWN", "NO_RESPOND", "INVAL", "REBOOT")


class Partition(msgspec.Struct, frozen=True):
    """One partition (man scontrol, "show partition")."""

    name: str
    state: str = "UP"
    default: bool = False
    max_minutes: float = float("inf")
    max_nodes: float = float("inf")


class Node(msgspec.Struct, frozen=True):
    """One node, once for each partition that it is in (man sinfo)."""

    name: str
    partition: str
    state: str
    cores: int
    memory_mb: int
    gpus: dict[str, int] = {}
    """Type to number; the type is empty where gres has none."""

    @property
    def up(self) -> bool:
        """Return whether it takes jobs, now or when others have ended."""
        return not self.state.upper().startswith(_OUT) and "*" not in self.state

    def has_gpus(self, number: int, kind: str = "") -> bool:
        """Return whether it has so many GPUs of a type; any type counts where none is asked for."""
        return (self.gpus.get(kind, 0) if kind else sum(self.gpus.values())) >= number


class Slurm(msgspec.Struct, frozen=True):
    """What Slurm says of itself."""

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]
    kill_wait: int | None = None
    """Seconds between SIGTERM and SIGKILL of a job that is cancelled."""


def ask_slurm() -> Slurm:
    """Ask the Slurm that answers here."""
    return Slurm(
        parse_partitions(_run("scontrol", "show", "partition", "--oneliner")),
        parse_nodes(_run("sinfo", "--noheader", "--all", "--Node", "--format=%N|%R|%T|%c|%m|%G")),
        parse_kill_wait(_run("scontrol", "show", "config")),
    )


def _run(*command: str) -> str:
    try:
        environ = for_slurms_commands(os.environ)
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, timeout=_PATIENCE
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


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
            )
    return found


def _number(fields: Mapping[str, str], key: str) -> float:
    value = fields.get(key, "")
    return int(value) if value.isdigit() else float("inf")


def _minutes(text: str) -> float:
    from hpc_dl.planning.sbatch_options import minutes

    return minutes(text) if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text) else float("inf")


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes in sinfo's lines ``name|partition|state|cpus|memory in MB|gres``."""
    found = []
    for line in text.splitlines():
        if line.count("|") != 5:
            continue
        name, partition, state, cpus, memory, gres = line.strip().split("|")
        numbers = [re.match(r"\d+", value) for value in (cpus, memory)]
        cores, megabytes = (int(match[0]) if match else 0 for match in numbers)
        found.append(Node(name, partition, state, cores, megabytes, parse_gres(gres)))
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

"""Starts the monitor of a node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence

from hpc_dl.processes import die_with_parent, python_module
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process


def monitor_command(run: RunFolder, job: JobSpec, node: str, names: Iterable[str]) -> list[str]:
    """Return the command that measures a node and processes of the job there; empty if the job wants no monitor."""
    if not job.monitor:
        return []
    options = [f"--node={node}", f"--run={run.path}", f"--attempt={run.attempt}", f"--every={job.monitor:g}"]
    file = run.monitor / f"{node}.jsonl"
    return [*python_module(sys.executable), "hpc_dl.monitor", *options, "--", str(file), *names]


def measured_by(rank: Process, placement: Placement) -> list[str]:
    """Return the processes that the launcher of an MPI rank measures: those of its node if it is the first there."""
    there = placement.by_node()[rank.node]
    first = min(process.index for process in there)
    return [process.name for process in there] if rank.index == first else []


def start_monitor(command: Sequence[str]) -> None:
    """Start a monitor that dies with this process. It has the signals blocked that this process has."""
    if not command:
        return
    try:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent())
    except OSError as error:
        print(f"hpc-dl: the monitor does not start: {error.strerror}", file=sys.stderr, flush=True)

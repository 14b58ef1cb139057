"""Steps of the job around us: how an agent is started on a node, and how the steps of a task are ended."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpc_dl.schedulers.slurm.commands import ask
from hpc_dl.schedulers.slurm.version import OVERLAP_SHARES_ALL, version

_PATIENCE = 20.0  # seconds: longer, and the agent would seem dead


def srun_command(node: str, cores: int, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs an agent on a node of this allocation (man srun).

    With --overlap the agent gets all of the job's GPUs on the node, and a task that calls srun itself can use them too.
    Its cores must be requested. The agent is no MPI rank. `options` are further ones of the site.
    """
    # Before that version, an agent without --mem=0 would leave no memory to the steps of the tasks.
    memory = [] if version() >= OVERLAP_SHARES_ALL else ["--mem=0"]
    return [
        "srun",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={node}",
        f"--cpus-per-task={cores}",
        *memory,
        "--mpi=none",
        "--export=ALL",
        *options,
        *command,
    ]


def kill_steps(steps: Sequence[str]) -> None:
    """Kill steps, named ``JOB.STEP``; errors about steps that have ended already don't matter."""
    ask(os.environ, "scancel", "--quiet", "--signal=KILL", *steps, patience=_PATIENCE)

"""Slurm's numbers of a task, such as SLURM_PROCID, set for each process of a job.

Slurm starts one launcher on each node, and numbers the launchers. TensorFlow's SlurmClusterResolver, PyTorch Lightning
and JAX need numbers of the processes. These are counted node by node, as ``srun --distribution=block`` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from hpc_dl.spec.placement import Placement

_NUMBERS = (
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS", "SLURM_TASK_PID", "SLURM_CPUS_PER_TASK",
    "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE",
    "SLURM_TRES_PER_TASK",  # the same as SLURM_CPUS_PER_TASK: srun refuses two that differ
    "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST",
)  # fmt: skip
# Variables of the launcher as an MPI process. Children that inherit them would all be the same rank.
_MPI = ("PMI_", "PMIX_")
_MPI_SETTINGS = "PMIX_MCA_"


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that does not make its process an MPI rank."""
    return {k: v for k, v in environ.items() if k.startswith(_MPI_SETTINGS) or not k.startswith(_MPI)}


def without_numbers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without Slurm's numbers: those of a launcher are not those of its processes."""
    return {key: value for key, value in environ.items() if key not in _NUMBERS}


def numbers(environ: Mapping[str, str], placement: Placement, name: str) -> dict[str, str]:
    """Return Slurm's numbers for one process; none outside of Slurm.

    Args:
        environ: the environment of its launcher.
        placement: all processes of the job.
        name: which process, such as ``worker:3``.
    """
    if "SLURM_JOB_ID" not in environ:
        return {}
    return _numbers(placement).get(name, {}) | {"SLURM_STEP_NODELIST": environ.get("SLURM_JOB_NODELIST", "")}


def _numbers(placement: Placement) -> dict[str, dict[str, str]]:
    """Return the numbers of each process by its name."""
    by_node = placement.by_node().values()
    counts = [len(processes) for processes in by_node]
    total, per_node = str(sum(counts)), _per_node(counts)
    common = {
        "SLURM_NTASKS": total,
        "SLURM_NPROCS": total,
        "SLURM_STEP_NUM_TASKS": total,
        "SLURM_TASKS_PER_NODE": per_node,
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_STEP_NUM_NODES": str(len(counts)),
    }
    if len(set(counts)) == 1:
        common["SLURM_NTASKS_PER_NODE"] = str(counts[0])
    found: dict[str, dict[str, str]] = {}
    for node, processes in enumerate(by_node):
        first = len(found)
        for local, process in enumerate(processes):
            found[process.name] = common | {
                "SLURM_PROCID": str(first + local),
                "SLURM_LOCALID": str(local),
                "SLURM_NODEID": str(node),
                "SLURM_GTIDS": ",".join(map(str, range(first, first + len(processes)))),
                "SLURM_CPUS_PER_TASK": str(process.threads),
            }
    return found


def _per_node(counts: list[int]) -> str:
    """Return ``2(x3),1`` for 2, 2, 2, 1 tasks (man srun, SLURM_TASKS_PER_NODE)."""
    runs = [(count, len(list(same))) for count, same in itertools.groupby(counts)]
    return ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)

"""Environment of a task: its GPUs and cores. Inside a Slurm job it confines the task's ``srun`` and ``mpirun`` to them.

A task sees SLURM_* variables as if its own nodes and cores were the whole job. srun takes its nodes from
SLURM_HOSTFILE. Before each rank it runs SLURM_TASK_PROLOG (templates/prolog.sh.j2), which sets the rank's GPUs and
cores (man srun). Some versions of srun refuse --nodes beside SLURM_HOSTFILE: there, templates/srun.sh.j2 comes first on
PATH.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_dl.gpus import variables, without_lists
from hpc_dl.schedulers.slurm.environment import without_step
from hpc_dl.schedulers.slurm.steps import kill_steps
from hpc_dl.schedulers.slurm.version import HOSTFILE_EXCLUDES_NODES, OVERLAP_SHARES_ALL, version
from hpc_dl.tasks.messages import Order
from hpc_dl.tasks.pool import Share

PROLOG = "prolog"  # names in the records folder
HOSTS = "hosts"
BIN = "bin"


class Environment:
    """Makes the environments of the tasks that an agent starts.

    Args:
        folder: the records folder.
        environ: the agent's environment.
        step: the agent is a Slurm step, so tasks may start steps of their own.
        gpu_vendor: decides the variable that gives GPUs to a task.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], step: bool, gpu_vendor: str = "nvidia") -> None:
        self._gpu_vendor = gpu_vendor
        self._step = step
        self._hosts = folder / HOSTS
        self._node_cores = int(environ.get("SLURM_CPUS_ON_NODE") or 1)
        self._written: set[Path] = set()
        own = without_lists(environ, gpu_vendor)
        if step:
            own = {**without_step(own), "SLURM_OVERLAP": "1", "SLURM_TASK_PROLOG": str(folder / PROLOG)}
            if version() >= HOSTFILE_EXCLUDES_NODES:
                own["PATH"] = f"{folder / BIN}:{own.get('PATH', os.defpath)}"
            elif version() < OVERLAP_SHARES_ALL:
                # Here steps wait for each other's memory and GPUs, so they ask for none. The prolog sets a rank's GPUs.
                own = {key: value for key, value in own.items() if not key.startswith("SLURM_MEM_PER_")}
                own |= {"SLURM_MEM_PER_NODE": "0", "SLURM_GRES": "none"}
        self._own = {os.fsencode(key): os.fsencode(value) for key, value in own.items()}

    def of(self, order: Order) -> dict[bytes, bytes]:
        """Return the environment of a task.

        Raises:
            OSError: its host file can't be written.
        """
        here = order.shares[0]
        nodes = ",".join(share.node for share in order.shares)
        values = {
            # Empty for a task without GPUs: if it were unset, it would see all GPUs.
            **variables(self._gpu_vendor, here.gpus),
            "HPC_DL_TASK": str(order.task.number),
            "HPC_DL_TASK_ATTEMPT": str(order.attempt),
            "HPC_DL_TASK_CORES": _joined(here.cores),
            "HPC_DL_TASK_GPUS": ",".join(here.gpus),
            "HPC_DL_TASK_NODELIST": nodes,
            **(self._slurm(order, nodes) if self._step else {}),
            **dict(order.task.env),
        }
        return {**self._own, **{key.encode(): value.encode() for key, value in values.items()}}

    def _slurm(self, order: Order, nodes: str) -> dict[str, str]:
        count, cores = str(len(order.shares)), len(order.shares[0].cores)
        each = f"{cores}(x{count})"
        ranks = str(cores * len(order.shares))
        return {
            "SLURM_HOSTFILE": str(self._hostfile(order)),
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_NODELIST": nodes,
            "SLURM_JOB_NUM_NODES": count,
            "SLURM_NNODES": count,
            "SLURM_NTASKS": ranks,
            "SLURM_NPROCS": ranks,
            "SLURM_TASKS_PER_NODE": each,
            "SLURM_JOB_CPUS_PER_NODE": each,
            "HPC_DL_TASK_SHARES": "\n".join(_share_line(share, order.bind) for share in order.shares),
            "HPC_DL_TASK_STEPS": str(self._steps(order.task.number)),
        }

    def _hostfile(self, order: Order) -> Path:
        """Return the host file: one line for each rank that srun may start, the nodes in turn.

        Each node has as many lines as it has cores, so a task may start more ranks than its own cores.
        """
        slots = max(self._node_cores, len(order.shares[0].cores))
        wide = len(order.shares) > 1
        path = self._hosts / (f"task-{order.task.number}" if wide else f"{order.shares[0].node}-{slots}")
        if wide or path not in self._written:
            path.write_text("".join(f"{share.node}\n" for share in order.shares) * slots)
            self._written.add(path)
        return path

    def _steps(self, task: int) -> Path:
        return self._hosts / f"steps-{task}"

    def end_steps(self, task: int) -> None:
        """End the Slurm steps that a task has left behind. The prolog has recorded its steps."""
        if not self._step:
            return
        (self._hosts / f"task-{task}").unlink(missing_ok=True)  # the prolog lets no rank start from now on
        if not (path := self._steps(task)).exists():
            return
        steps = path.read_text().split()
        path.unlink()
        kill_steps(steps)


def _share_line(share: Share, bind: bool) -> str:
    return f"{share.node} {_joined(share.cores)} {'bind' if bind else 'free'} {','.join(share.gpus)}"


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))

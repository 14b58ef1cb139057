"""submitit's description of the environment that a function runs in, for processes of our jobs."""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path

from submitit import JobEnvironment

from hpc_dl.executor.job import FunctionPaths
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.placement import Placement, Process


class HpcDlJobEnvironment(JobEnvironment):
    """What ``submitit.JobEnvironment()`` is in a process of ours. Parameter servers are not counted as tasks."""

    @classmethod
    def name(cls) -> str:
        """Return what the variable SUBMITIT_EXECUTOR holds."""
        return "hpc_dl"

    @property
    def job_id(self) -> str:
        """Return the job's number, or ``12_3`` for an element of an array."""
        return _run().job_id

    @property
    def raw_job_id(self) -> str:
        """Return the number that Slurm has for the job itself."""
        return os.environ.get("SLURM_JOB_ID", self.job_id)

    @property
    def array_job_id(self) -> str | None:
        """Return the array's number; None if the job is no element of one."""
        array, _, _ = self.job_id.rpartition("_")
        return array or None

    @property
    def array_task_id(self) -> str | None:
        """Return the element's number in its array; None if the job is no element of one."""
        return self.job_id.rpartition("_")[2] if self.array_job_id else None

    @property
    def hostnames(self) -> list[str]:
        """Return the address of each node."""
        hosts = {process.node: process.host for process in _placement().processes}
        return [hosts.get(node, node) for node in _placement().nodes]

    @property
    def hostname(self) -> str:
        """Return this machine's name."""
        return socket.gethostname()

    @property
    def num_tasks(self) -> int:
        """Return the number of processes that run the function."""
        return len(_tasks())

    @property
    def num_nodes(self) -> int:
        """Return the number of nodes."""
        return len(_placement().nodes)

    @property
    def node(self) -> int:
        """Return the number of this node in the job."""
        return _placement().nodes.index(_own().node)

    @property
    def global_rank(self) -> int:
        """Return the number of this task in the job."""
        return _tasks().index(_own())

    @property
    def local_rank(self) -> int:
        """Return the number of this task on its node."""
        return [task for task in _tasks() if task.node == _own().node].index(_own())

    @property
    def paths(self) -> FunctionPaths:
        """Return the files of this task."""
        return FunctionPaths(_run(), _own().name, self.global_rank)


def _run() -> RunFolder:
    return RunFolder(Path(os.environ["HPC_DL_RUN"]), int(os.environ["HPC_DL_ATTEMPT"]))


@functools.cache
def _placement() -> Placement:
    return _run().read_placement()


@functools.cache
def _tasks() -> list[Process]:
    tasks = [process for process in _placement().processes if process.role != "ps"]
    return sorted(tasks, key=lambda process: (process.role, process.index))  # the chief comes first


def _own() -> Process:
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    return next(process for process in _tasks() if process.name == f"{task['type']}:{task['index']}")

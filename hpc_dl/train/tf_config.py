"""The processes of a training run, read from TF_CONFIG (https://www.tensorflow.org/guide/distributed_training)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from hpc_dl.errors import UserError

CHIEF = "worker-0"
"""The task that initialises, saves and evaluates."""


@dataclass(frozen=True)
class Cluster:
    """The addresses (host:port) of all processes of a run, and which of them this one is."""

    ps: tuple[str, ...] = ()
    workers: tuple[str, ...] = ("localhost:0",)
    task_type: str = "worker"
    task_index: int = 0

    @property
    def task(self) -> str:
        """This process's name in file names: ``worker-3``."""
        return f"{self.task_type}-{self.task_index}"

    @property
    def is_chief(self) -> bool:
        """Whether this process initialises, saves and evaluates: worker 0."""
        return self.task == CHIEF

    def others(self) -> dict[str, str]:
        """Return the addresses of all workers but this process, by task name."""
        workers = {f"worker-{index}": address for index, address in enumerate(self.workers)}
        return {task: address for task, address in workers.items() if task != self.task}


def from_tf_config(text: str | None) -> Cluster:
    """Read the value of TF_CONFIG. None or an empty one means a cluster of one worker.

    Raises:
        UserError: it is not JSON of the form ``{"cluster": {"ps": […], "worker": […]}, "task": {"type", "index"}}``.
    """
    if not text:
        return Cluster()
    try:
        config = json.loads(text)
        jobs = {str(job): tuple(str(address) for address in addresses) for job, addresses in config["cluster"].items()}
        task_type, task_index = str(config["task"]["type"]), int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "TF_CONFIG: it must be JSON such as "
            '{"cluster": {"ps": ["host:port"], "worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}; '
            f"found {text!r} ({type(error).__name__}: {error})"
        ) from error
    if unknown := jobs.keys() - {"ps", "worker"}:
        raise UserError(f"TF_CONFIG: unknown job {min(unknown)!r}; allowed are 'ps', 'worker' (worker 0 is the chief)")
    for address in (address for addresses in jobs.values() for address in addresses):
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise UserError(f"TF_CONFIG: {address!r} is not an address; it must be host:port")
    if not jobs.get("worker"):
        raise UserError("TF_CONFIG: the cluster has no worker")
    if task_type not in jobs or not 0 <= task_index < len(jobs[task_type]):
        raise UserError(f"TF_CONFIG: task {task_type} {task_index} is not in the cluster")
    return Cluster(jobs.get("ps", ()), jobs["worker"], task_type, task_index)

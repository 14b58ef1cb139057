"""The modes: how the processes of a job train together. Each mode is one row of `MODES`, which describes it fully.

A new mode is a new row, and a module with `run(options, cluster, metrics, stop) -> exit code`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

_COMPRESSIONS = ("none", "fp16", "1bit")
_SEVERAL = ("nodes", "workers")
_PS = ("ps", "ps_cores", "ps_nodes", "ps_partition")
_PARAMETER_SERVERS = (*_SEVERAL, *_PS, "chief", "restart_timeout", "compression", "trace_steps")
_ALL_REDUCE = (*_SEVERAL, "compression", "scale_lr", "warmup_steps", "fusion_mb")
_OWN_PACE = ("staleness", "n_fetch", "n_push")


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to a mode."""

    summary: str
    """One sentence for people."""
    module: str
    """The module of the training program that runs it."""
    learning_rate: float
    """The initial learning rate of a job that names none. Late gradients need a lower one."""
    keys: tuple[str, ...]
    """The job keys that this mode uses and that not every mode uses."""
    worker_per: Literal["gpu", "node", "job"] = "gpu"
    """What gets one worker each, if the job does not set the workers per node."""
    compressions: tuple[str, ...] = _COMPRESSIONS
    """The ways in which it can compress gradients before they are sent."""
    synchronous: bool = False
    """Whether one step takes the gradients of several workers."""
    restarts_alone: bool = False
    """Whether a worker that died is started again while the others go on; else all processes are started again."""
    goes_on_without: bool = False
    """Whether the others go on without a worker that died too often."""
    ranks: bool = False
    """Whether an MPI launcher starts the workers, as ranks of one program."""
    template: str = "tasks/line.j2"
    """The template of its lines in the task file."""

    @property
    def parameter_servers(self) -> bool:
        """Return whether it has parameter servers."""
        return "ps" in self.keys


MODES: dict[str, Mode] = {
    "async": Mode(
        summary="Each worker, one per GPU, sends its gradients to the parameter servers whenever it has some.",
        module="hpc_dl.train.modes.parameter_servers",
        learning_rate=0.01,
        keys=(*_PARAMETER_SERVERS, *_OWN_PACE),
        restarts_alone=True,
        goes_on_without=True,
    ),
    "mixed": Mode(
        summary="Each worker, one per node, averages the gradients of a tower per GPU; between nodes it is async.",
        module="hpc_dl.train.modes.parameter_servers",
        learning_rate=0.01,
        keys=(*_PARAMETER_SERVERS, *_OWN_PACE, "towers"),
        worker_per="node",
        restarts_alone=True,
        goes_on_without=True,
    ),
    "sync": Mode(
        summary="Each step takes the mean of all workers' gradients, or of the first ones if there are backup workers.",
        module="hpc_dl.train.modes.parameter_servers",
        learning_rate=0.05,
        keys=(*_PARAMETER_SERVERS, "backup_workers"),
        synchronous=True,
        restarts_alone=True,
    ),
    "multiworker": Mode(
        summary="No parameter servers: all workers apply the mean of their gradients, by TensorFlow's ring over gRPC.",
        module="hpc_dl.train.modes.multiworker",
        learning_rate=0.05,
        keys=_ALL_REDUCE,
        compressions=("none", "fp16"),
        synchronous=True,
    ),
    "horovod": Mode(
        summary="No parameter servers: all workers apply the mean of their gradients, by Horovod over MPI.",
        module="hpc_dl.train.modes.horovod",
        learning_rate=0.05,
        keys=(*_ALL_REDUCE, "cycle_ms"),
        compressions=("none", "fp16"),
        synchronous=True,
        ranks=True,
        template="tasks/ranks.j2",
    ),
    "single": Mode(
        summary="One process, the baseline of every comparison; with several GPUs, a tower on each.",
        module="hpc_dl.train.modes.single",
        learning_rate=0.05,
        keys=("towers", "trace_steps"),
        worker_per="job",
        compressions=("none",),
    ),
}

if TYPE_CHECKING:
    ModeName = str
else:
    ModeName = Literal[tuple(MODES)]

KEYS = tuple(dict.fromkeys(key for mode in MODES.values() for key in mode.keys))
"""The job keys that only some modes use."""


def modes_with(key: str) -> list[str]:
    """Return the names of the modes that use a job key."""
    return [name for name, mode in MODES.items() if key not in KEYS or key in mode.keys]


def unused(mode: str, keys: Iterable[str]) -> list[str]:
    """Return those of `keys` that a mode does not use."""
    return [key for key in keys if key in KEYS and key not in MODES[mode].keys]

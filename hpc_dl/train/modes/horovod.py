"""Mode ``horovod``: all-reduce through MPI, one rank per GPU (A. Sergeev, M. Del Balso, "Horovod", 2018)."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any

import numpy as np
import tensorflow as tf

from hpc_dl.errors import JobError, PeerLostError, UserError
from hpc_dl.train.modes import all_reduce
from hpc_dl.train.options import Options
from hpc_dl.train.peers import waiting
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster

try:
    import horovod.tensorflow as hvd
    import mpi4py

    mpi4py.rc.initialize = False  # `run` starts MPI, with a timeout
    from mpi4py import MPI
except ImportError as missing:
    raise UserError(
        f"--mode: 'horovod' needs Horovod and mpi4py ({missing}); `make setup-horovod` builds them"
    ) from None

tf1 = tf.compat.v1

_EQUAL = 1e-4  # how much the parameters of two ranks may differ, relative to the largest
_FIRST_CAUSE = 2.0  # seconds, see multiworker.py


def run(options: Options, cluster: Cluster, metrics: Metrics, stop: Stop) -> int:
    """Do this rank's part and return its exit code.

    Raises:
        UserError: TF_CONFIG and MPI do not agree on who takes part.
        PeerLostError: contact with another rank was lost.
        JobError: the ranks' parameters differ at the end.
    """
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", str(int(options.fusion_mb * 2**20)))
    os.environ.setdefault("HOROVOD_CYCLE_TIME", str(options.cycle_ms))
    with waiting(f"the start of MPI: all {len(cluster.workers)} ranks take part", options.start_timeout):
        MPI.Init_thread()  # Horovod finds MPI running, and leaves it to us to end it
        hvd.init()
    if (hvd.rank(), hvd.size()) != (cluster.task_index, len(cluster.workers)):
        raise UserError(
            f"--mode: 'horovod' is rank {hvd.rank()} of {hvd.size()} for MPI, but worker {cluster.task_index} of "
            f"{len(cluster.workers)} in TF_CONFIG; start all workers by one mpirun or srun"
        )
    metrics.event("server")
    try:
        return all_reduce.work(Ranks(options), options, cluster, metrics, stop)
    except (tf.errors.OpError, MPI.Exception) as error:
        # Horovod and MPI have no error for a lost rank, so any error of their operations counts as one.
        if isinstance(error, tf.errors.OpError) and not re.search("Horovod|MPI_", _message(error)):
            raise
        time.sleep(_FIRST_CAUSE)
        raise PeerLostError(f"{cluster.task}: contact with another rank was lost: {type(error).__name__}") from error


def _message(error: Any) -> str:
    """Return what happened in which operation, without the source lines that built the operation."""
    return str(error.message).partition("Original stack trace")[0]


class Ranks:
    """A group that talks through MPI.

    Args:
        options: `compression`.
    """

    def __init__(self, options: Options) -> None:
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self._compression = hvd.Compression.fp16 if options.compression == "fp16" else hvd.Compression.none

    def mean(self, tensors: list[Any]) -> list[Any]:
        """Build the mean of each tensor. Horovod itself combines small tensors."""
        return [
            hvd.allreduce(tensor, op=hvd.Average, compression=self._compression, name=f"mean_{number}")
            for number, tensor in enumerate(tensors)
        ]

    def broadcast(self, variables: list[Any]) -> Any:
        """Build the operation that copies rank 0's variables to all others."""
        return tf.group(
            [
                tf1.assign(variable, hvd.broadcast(variable.read_value(), 0, name=f"start_{number}"))
                for number, variable in enumerate(variables)
            ]
        )

    def leave(self, session: Any, variables: list[Any]) -> dict[str, Any]:
        """Compare the parameters of all ranks, gather where they ran, and end MPI.

        Raises:
            JobError: parameters differ by more than rounding.
        """
        world = MPI.COMM_WORLD
        mine = np.concatenate([value.ravel() for value in session.run(variables)])
        first = mine.copy()
        world.Bcast(first, 0)
        spread = float(world.allreduce(float(np.max(np.abs(mine - first))), MPI.MAX))
        nodes = world.allgather(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        hvd.shutdown()
        # This process ends with `os._exit`. Without Finalize, mpirun would take that for a failure.
        MPI.Finalize()
        if not spread <= _EQUAL * max(1.0, float(np.max(np.abs(first)))):
            raise JobError(f"the ranks' parameters differ by up to {spread:g} at the end of the training")
        return {"nodes": nodes, "spread": spread}

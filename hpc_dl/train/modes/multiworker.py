"""Mode ``multiworker``: TensorFlow's own ring all-reduce over gRPC, for sites without MPI.

It uses the collective operations of `tf.distribute.MultiWorkerMirroredStrategy` in the same graph as the other modes.
So all modes train the same network with the same loop.
"""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from hpc_dl.errors import PeerLostError, UserError
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.modes import all_reduce
from hpc_dl.train.options import Options
from hpc_dl.train.peers import Peers, Watch
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import CHIEF, Cluster

tf1 = tf.compat.v1

_GROUP = 1  # the only group of processes of a run
# Seconds that a process waits before it ends for a lost peer, so that the launcher of that peer reports first.
_FIRST_CAUSE = 2.0


def run(options: Options, cluster: Cluster, metrics: Metrics, stop: Stop) -> int:
    """Do this worker's part and return its exit code.

    Raises:
        UserError: TF_CONFIG names parameter servers.
        PeerLostError: the server can't start, or contact with another worker was lost.
    """
    if cluster.ps:
        raise UserError("--mode: 'multiworker' has no ps, but TF_CONFIG names some; did you mean 'async'?")
    task = f"/job:worker/task:{cluster.task_index}"
    group = Collectives(cluster.task_index, len(cluster.workers), options)
    if group.size == 1:  # nobody to talk to
        return all_reduce.work(group, options, cluster, metrics, stop)
    config = session.config()
    config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
    server = session.serve({"worker": cluster.workers}, cluster, config)
    metrics.event("server")
    attempt = Attempt(options.run_dir)
    others = Peers(watched(cluster), attempt, options.start_timeout, away=None)
    group.watch = Watch(attempt, (others, 0))
    try:
        return all_reduce.work(group, options, cluster, metrics, stop, server.target, task)
    except tf.errors.OpError as error:
        if not (why := session.lost_contact(error, cluster.others().values())):
            raise
        time.sleep(_FIRST_CAUSE)
        raise PeerLostError(f"{cluster.task}: contact with another worker was lost: {why}") from error


def watched(cluster: Cluster) -> dict[str, str]:
    """Return the addresses of the peers that a worker watches, by task name.

    The chief watches all workers. The others watch the chief and the next worker in the ring, since they may be cut off
    from that one alone. That makes three connections per worker, however many workers there are. A worker that has lost
    a peer ends, and then the workers that watch it end too.
    """
    others = cluster.others()
    if cluster.is_chief:
        return others
    after = f"worker-{(cluster.task_index + 1) % len(cluster.workers)}"
    return {task: others[task] for task in (CHIEF, after)}


class Collectives:
    """A group that talks through TensorFlow's servers.

    Args:
        rank: index of this worker.
        size: number of workers.
        options: `fusion_mb` and `compression`.
    """

    def __init__(self, rank: int, size: int, options: Options) -> None:
        self.rank, self.size = rank, size
        self.watch: Watch | None = None
        self._options = options
        # An operation's instance_key is the same in all workers, since they build the same graph.
        self._common = {"group_size": size, "group_key": _GROUP, "communication_hint": "ring"}
        self._device = f"/job:worker/task:{rank}/device:CPU:0"
        self._key = 0

    def mean(self, tensors: list[Any]) -> list[Any]:
        """Build the means of float tensors: one ring per `fusion_mb` of data, not one per tensor."""
        if self.size == 1:
            return tensors
        means: list[Any] = []
        with tf1.device(self._device):
            for bucket in buckets(tensors, self._options.fusion_mb * 2**20):
                packed = tf.concat([tf.reshape(tensor, [-1]) for tensor in bucket], 0)
                parts = tf.split(self._mean(packed), [tensor.shape.num_elements() for tensor in bucket])
                means += [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
        return means

    def _mean(self, vector: Any) -> Any:
        sent = tf.cast(vector, tf.float16) if self._options.compression == "fp16" else vector
        # Divided before the sum, which else may leave the range of float16.
        sent = sent / tf.constant(self.size, sent.dtype)
        total = tf.raw_ops.CollectiveReduce(
            input=sent,
            merge_op="Add",
            final_op="Id",
            subdiv_offsets=[0],
            instance_key=self._next_key(),
            **self._common,
        )
        return tf.cast(total, vector.dtype)

    def broadcast(self, variables: list[Any]) -> Any:
        """Build the operation that copies rank 0's variables to all others."""
        if self.size == 1:
            return tf.no_op()
        with tf1.device(self._device):
            return tf.group([self._copy(variable) for variable in variables])

    def _copy(self, variable: Any) -> Any:
        common = {**self._common, "instance_key": self._next_key(), "shape": variable.shape}
        if self.rank == 0:
            return tf.raw_ops.CollectiveBcastSend(input=variable.read_value(), **common)
        value = tf.raw_ops.CollectiveBcastRecv(T=variable.dtype.base_dtype, **common)
        return tf1.assign(variable, value)

    def leave(self, session: Any, variables: list[Any]) -> dict[str, Any]:  # noqa: ARG002 - see Group
        """Wait for all others: a neighbour may still fetch its part of the last step from here."""
        if self.watch is not None:
            self.watch.end()
            try:
                with tf1.device(self._device):
                    barrier = self._mean(tf.zeros([1]))
                session.run(barrier)
            except tf.errors.OpError:
                pass  # a worker that has left has made its last step
        return {}

    def _next_key(self) -> int:
        self._key += 1
        return self._key


def buckets(tensors: list[Any], limit: float) -> list[list[Any]]:
    """Return tensors in groups of at most `limit` bytes, in order. A larger tensor is alone in its group."""
    groups: list[list[Any]] = []
    filled = 0.0
    for tensor in tensors:
        size = tensor.shape.num_elements() * tensor.dtype.size
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0.0
        groups[-1].append(tensor)
        filled += size
    return groups

"""Which parameter server holds which variable."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


class ByBytes:
    """Puts each variable on the parameter server that holds the fewest bytes so far.

    With five servers, the usual round robin would put all kernels of a ResNet on the same server, since each layer has
    five variables: kernel, scale, offset, two averages.
    """

    def __init__(self, servers: int) -> None:
        self.load = [0] * servers

    def __call__(self, operation: Any) -> int:
        """Return the index of the server for a variable's operation."""
        index = self.load.index(min(self.load))
        shape = tf.TensorShape(operation.get_attr("shape"))
        self.load[index] += (shape.num_elements() or 0) * tf.as_dtype(operation.get_attr("dtype")).size
        return index


def device(cluster: Cluster) -> Any:
    """Return the device function of a worker: variables on the parameter servers, all else on itself."""
    return tf1.train.replica_device_setter(
        cluster=tf.train.ClusterSpec({"ps": cluster.ps, "worker": cluster.workers}),
        worker_device=f"/job:worker/task:{cluster.task_index}",
        ps_strategy=ByBytes(len(cluster.ps)),
    )

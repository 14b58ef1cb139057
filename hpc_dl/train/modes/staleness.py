"""Stale synchronous parallel: no worker is more than s steps ahead of the slowest.

Q. Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", 2013. Each worker has
a clock on the first parameter server, which counts its steps. A worker that is too far ahead polls the clocks until it
may go on.
"""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.graph.shared_variables import shared_variable
from hpc_dl.train.loop import StepFunction
from hpc_dl.train.options import Options
from hpc_dl.train.peers import Peers
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1

_POLL = 0.01  # seconds


class Staleness:
    """Holds a worker back while it is too far ahead. It does not wait for workers that are gone."""

    def __init__(self, cluster: Cluster, attempt: Attempt, bound: int) -> None:
        """Build the operations in the current graph; `bound` is s, in steps."""
        self._cluster, self._attempt, self._bound = cluster, attempt, bound
        index, workers = cluster.task_index, len(cluster.workers)
        with tf1.device("/job:ps/task:0"):
            clocks = shared_variable("clocks", tf.zeros([workers], tf.int64))
            own = tf.one_hot(index, workers, dtype=tf.int64)
            # A restarted worker sets its clock to the highest one: the others must not wait until it has caught up. At
            # the start of the training its clock is 0 and stays so: the others wait for it.
            missed = tf.where(clocks[index] > 0, tf.reduce_max(clocks) - clocks[index], tf.zeros([], tf.int64))
            self._join = clocks.assign_add(own * missed).op
            self._tick = (clocks.assign_add(own),)
            self._look = (clocks.read_value(), tf1.train.get_global_step().read_value())

    def bounded(self, step: StepFunction, remote: Any, options: Options, stop: Stop) -> StepFunction:
        """Return `step` with a wait after it while this worker is too far ahead."""
        index, bound = self._cluster.task_index, self._bound
        tick, look = session.function(remote, self._tick), session.function(remote, self._look)
        addresses = self._cluster.others()
        # Nobody waits for a worker that is being restarted: it begins with fresh variables.
        others = Peers(addresses, self._attempt, options.start_timeout, away=None)
        remote.run(self._join)

        def slow(clocks: Any) -> set[str]:
            return {task for task in addresses if clocks[index] - clocks[int(task.rpartition("-")[2])] > bound}

        def step_and_wait() -> tuple[int, float, float]:
            global_step, loss, accuracy = step()
            (clocks,) = tick()
            while slow(clocks) and global_step < options.steps and not stop.requested:
                others.look()
                if slow(clocks) <= others.gone():
                    break
                time.sleep(_POLL)
                clocks, global_step = look()
            return global_step, loss, accuracy

        return step_and_wait

"""Mode ``sync``: the parameter servers wait for the gradients of n-k of n workers and take one step with their mean.

J. Chen et al., "Revisiting Distributed Synchronous SGD", 2016: with k backup workers, a step is as fast as the n-k
fastest, and who comes later has its gradient dropped.

Each variable has an accumulator beside it, which drops gradients of an older step by itself. A worker sends all its
gradients, then its vote; then it waits for a token with the next step. The chief, in a thread of its own so that it
may be the slow one itself, waits for n-k votes, applies the means, and sends the tokens. Unlike TensorFlow's
`SyncReplicasOptimizer`, each worker has tokens of its own and takes the newest, so that a slow worker's old ones don't
make fast workers late; and dropped gradients are counted: votes sent less votes taken.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.train import session
from hpc_dl.train.cluster import Cluster
from hpc_dl.train.graph import Apply, Gradients
from hpc_dl.train.peers import Watch
from hpc_dl.train.rendezvous import POLL
from hpc_dl.train.shared import shared_variable
from hpc_dl.train.stop import Stop

tf1 = tf.compat.v1


class Sync:
    """The exchange of gradients in mode ``sync``, one object per worker."""

    def __init__(self, cluster: Cluster, backup_workers: int) -> None:
        """Raise UserError if no worker would be left to wait for."""
        workers = len(cluster.workers)
        if backup_workers >= workers:
            raise UserError(
                f"--backup-workers: {backup_workers} is not allowed; it must be less than the {workers} workers"
            )
        self._cluster, self._backup_workers = cluster, backup_workers
        self._taken = 0
        self._thread: threading.Thread | None = None

    def __call__(self, gradients: Gradients, updates: list[Any], apply_gradients: Apply) -> Any:
        """Build the worker's step and, in the same graph, the chief's; return the step in the worker's token."""
        index, workers = self._cluster.task_index, len(self._cluster.workers)
        global_step = tf1.train.get_global_step()
        with tf1.device(f"/job:worker/task:{index}/device:CPU:0"):
            # The step that this worker's gradients belong to.
            local_step = tf1.get_variable(
                "local_step", (), tf.int64, tf1.zeros_initializer(), trainable=False, collections=["local_variables"]
            )
            now = local_step.read_value()
        accumulators, sent = [], []
        for gradient, variable in gradients:
            with tf1.device(variable.device):
                name = f"gradients/{variable.op.name}"
                accumulators.append(tf1.ConditionalAccumulator(variable.dtype, variable.shape, name, name))
            sent.append(accumulators[-1].apply_grad(gradient, now))
        with tf1.device("/job:ps/task:0"):
            votes = tf1.ConditionalAccumulator(tf.float32, (), "votes", "votes", reduction_type="SUM")
            self._votes = shared_variable("votes_sent", tf.zeros([], tf.int64))
            # Not limited: the chief must not wait where a lost worker takes no tokens any more; a token is 8 bytes.
            queues = [tf1.FIFOQueue(-1, tf.int64, [()], shared_name=f"tokens{worker}") for worker in range(workers)]
            with tf.control_dependencies([*sent, *updates]):
                voted = [votes.apply_grad(1.0, now), self._votes.assign_add(1)]
            own = queues[index]
            with tf.control_dependencies(voted):
                token = own.dequeue_many(tf.maximum(own.size(), 1))[-1]
            self._first_token = local_step.assign(own.dequeue()).op
            self._wake = own.enqueue(global_step)

            # The chief's. All gradients of the voters are there; who has sent a part without a vote is in some means.
            taken = votes.take_grad(workers - self._backup_workers)
            with tf.control_dependencies([taken]):
                means = [(a.take_grad(1), variable) for a, (_, variable) in zip(accumulators, gradients, strict=True)]
            step = apply_gradients(means, [])
            with tf.control_dependencies([queue.enqueue(step) for queue in queues]):
                self._aggregate = (tf.identity(step), tf.identity(taken))
            self._begin = [a.set_global_step(global_step) for a in (votes, *accumulators)]
            self._first_tokens = [queue.enqueue(global_step) for queue in queues]
        with tf.control_dependencies([local_step.assign(token).op]):
            return tf.identity(token)

    def start(self, remote: Any, steps: int, start_timeout: float, stop: Stop) -> None:
        """Begin: the chief lets the others start and takes steps from now on; this worker gets its first token."""
        if self._cluster.is_chief:
            remote.run(self._begin)
            remote.run(self._first_tokens)
            self._thread = threading.Thread(
                target=self._take_steps, args=(remote, steps, start_timeout), name="take-steps", daemon=True
            )
            self._thread.start()
        # A worker waits for a token when SIGTERM comes, and after that nobody may send one.
        threading.Thread(target=self._wake_up, args=(remote, stop), name="wake-up", daemon=True).start()
        remote.run(self._first_token)

    def dropped(self, remote: Any) -> int:
        """Return how many gradients were dropped, when all workers are done."""
        if self._thread:
            self._thread.join()
        return int(remote.run(self._votes)) - self._taken

    def _take_steps(self, remote: Any, steps: int, start_timeout: float) -> None:
        workers = {f"worker {index}": address for index, address in enumerate(self._cluster.workers) if index}
        watch = Watch(workers, start_timeout, self._backup_workers)
        aggregate = session.function(remote, self._aggregate)
        step = int(remote.run(tf1.train.get_global_step(remote.graph)))
        try:
            while step < steps:
                step, votes = aggregate()
                self._taken += int(votes)
        except tf.errors.OpError as error:
            print(f"error: worker 0 can't take steps any more: {error.message}", file=sys.stderr, flush=True)
            os._exit(1)
        watch.end()

    def _wake_up(self, remote: Any, stop: Stop) -> None:
        while not stop.requested:
            time.sleep(POLL)
        remote.run(self._wake)

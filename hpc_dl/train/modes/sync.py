"""Mode ``sync``: the parameter servers wait for the gradients of n-k of n workers and take one step with their mean.

J. Chen et al., "Revisiting Distributed Synchronous SGD", 2016: with k backup workers, a step is as fast as the n-k
fastest workers. The gradients of slower workers are dropped.

Each variable has an accumulator on the same server, which drops gradients of an older step by itself. A worker sends
all its gradients, then its vote. Then it waits for a token, which holds the next step. A thread of the chief waits for
n-k votes, applies the means, and sends the tokens; it is a thread so that the chief may be a slow worker itself.

Two things differ from TensorFlow's `SyncReplicasOptimizer`. Each worker has its own queue of tokens and takes the
newest, so that old tokens of a slow worker don't delay fast ones. And dropped gradients are counted: votes sent less
votes taken.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import tensorflow as tf

from hpc_dl.errors import LOST, UserError
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.graph.shared_variables import shared_variable
from hpc_dl.train.graph.training import Apply, Gradients
from hpc_dl.train.modes.rendezvous import POLL
from hpc_dl.train.options import Options
from hpc_dl.train.peers import Peers, Watch
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


class Sync:
    """The exchange of gradients in mode ``sync``, one object per worker."""

    def __init__(self, cluster: Cluster, attempt: Attempt, options: Options) -> None:
        """Raise UserError if all workers would be backup workers."""
        workers, backup_workers = len(cluster.workers), options.backup_workers
        if backup_workers >= workers:
            raise UserError(
                f"--backup-workers: {backup_workers} is not allowed; it must be less than the {workers} workers"
            )
        self._cluster, self._attempt, self._options = cluster, attempt, options
        self._thread: threading.Thread | None = None

    def __call__(self, gradients: Gradients, updates: list[Any], apply_gradients: Apply) -> Any:
        """Build the worker's part of a step and, in the same graph, the chief's. Return the step in the next token."""
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
            sent_votes, taken_votes = (
                shared_variable(f"votes_{name}", tf.zeros([], tf.int64)) for name in ("sent", "taken")
            )
            self._dropped = sent_votes.read_value() - taken_votes.read_value()
            # Not limited: the chief must not wait for a lost worker that takes no tokens any more. A token is 8 bytes.
            queues = [tf1.FIFOQueue(-1, tf.int64, [()], shared_name=f"tokens{worker}") for worker in range(workers)]
            with tf.control_dependencies([*sent, *updates]):
                voted = [votes.apply_grad(1.0, now), sent_votes.assign_add(1)]
            own = queues[index]

            # Not the last token: that may be an older one, which this worker gave itself.
            def newest_token() -> Any:
                return tf.reduce_max(own.dequeue_many(tf.maximum(own.size(), 1)))

            with tf.control_dependencies(voted):
                token = newest_token()
            self._wake = own.enqueue(global_step.read_value())
            with tf.control_dependencies([self._wake]):
                self._join = local_step.assign(newest_token()).op

            # The chief's part. All gradients of the voters have arrived. A worker that has not voted may have sent some
            # of its gradients. Then it contributes to some variables' means and not to others.
            taken = votes.take_grad(workers - self._options.backup_workers)
            with tf.control_dependencies([taken_votes.assign_add(tf.cast(taken, tf.int64))]):
                means = [(a.take_grad(1), variable) for a, (_, variable) in zip(accumulators, gradients, strict=True)]
            step = apply_gradients(means, [])
            with tf.control_dependencies([queue.enqueue(step) for queue in queues]):
                self._aggregate = (tf.identity(step),)
            self._begin = [a.set_global_step(global_step) for a in (votes, *accumulators)]
            self._wake_all = [queue.enqueue(global_step.read_value()) for queue in queues]
        with tf.control_dependencies([local_step.assign(token).op]):
            return tf.identity(token)

    def start(self, remote: Any, stop: Stop, again: bool) -> None:
        """Begin, at first or after a restart. From now on the chief takes steps. A worker gives itself its first token.

        Args:
            remote: the session.
            stop: SIGTERM.
            again: this is a restarted chief, which sends tokens to all workers. Its predecessor may have been killed
                after a step, before it sent the tokens for which the workers wait. A worker that gets one token too
                many computes that step twice, and may vote twice for it.
        """
        if self._cluster.is_chief:
            remote.run(self._begin)
            if again:
                remote.run(self._wake_all)
            self._thread = threading.Thread(target=self._take_steps, args=(remote,), name="take-steps", daemon=True)
            self._thread.start()
        # A worker may wait for a token when SIGTERM comes, and nobody may send one any more.
        threading.Thread(target=self._wake_up, args=(remote, stop), name="wake-up", daemon=True).start()
        remote.run(self._join)

    def dropped(self, remote: Any) -> int:
        """Return how many gradients were dropped. Call this when all workers are done."""
        if self._thread:
            self._thread.join()
        return int(remote.run(self._dropped))

    def _take_steps(self, remote: Any) -> None:
        options = self._options
        workers = Peers(self._cluster.others(), self._attempt, options.start_timeout, options.restart_timeout)
        watch = Watch(self._attempt, (workers, options.backup_workers))
        aggregate = session.function(remote, self._aggregate)
        step = int(remote.run(tf1.train.get_global_step(remote.graph)))
        try:
            while step < options.steps:
                (step,) = aggregate()
        except tf.errors.OpError as error:
            print(
                f"error: worker 0 can't take steps any more: {session.first_line(error)}", file=sys.stderr, flush=True
            )
            os._exit(LOST if session.lost_contact(error, self._cluster.ps) else 1)
        watch.end()

    def _wake_up(self, remote: Any, stop: Stop) -> None:
        while not stop.requested:
            time.sleep(POLL)
        remote.run(self._wake)

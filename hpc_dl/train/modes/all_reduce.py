"""The common part of the all-reduce modes: all workers hold all parameters, and apply the mean of their gradients.

A step takes the batches of all workers together. A ring sends 2 (N-1)/N times the parameters per worker and step,
however many workers there are (P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", 2009).
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import tensorflow as tf

from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.saving import Saving
from hpc_dl.train.evaluation import evaluated, finish
from hpc_dl.train.graph import training
from hpc_dl.train.loop import train
from hpc_dl.train.options import Options
from hpc_dl.train.peers import waiting
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import EXIT_CODE, Stop, time_to_save
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


class Group(Protocol):
    """The workers of a run, as one of them sees them."""

    rank: int
    size: int

    def mean(self, tensors: list[Any]) -> list[Any]:
        """Build the operations that give the mean of each tensor over all workers, in the same shape."""

    def broadcast(self, variables: list[Any]) -> Any:
        """Build the operation that gives all workers the values of rank 0."""

    def leave(self, session: Any, variables: list[Any]) -> dict[str, Any]:
        """Wait until all workers have made their last step; return what the result says about the group.

        Args:
            session: the session that trained.
            variables: the trained parameters.
        """


def work(
    group: Group,
    options: Options,
    cluster: Cluster,
    metrics: Metrics,
    stop: Stop,
    target: str = "",
    device: training.Device = None,
) -> int:
    """Train as one worker of a group and return the exit code; rank 0 also restores, saves, evaluates and reports.

    Args:
        group: how the workers exchange tensors.
        options: what to train.
        cluster: the processes of the run; this one's index is its rank.
        metrics: where to report.
        stop: SIGTERM.
        target: address of the session's server. Empty: the session has this process alone.
        device: where operations go.
    """
    with tf.Graph().as_default():
        vote = tf1.placeholder(tf.float32, [])
        votes: list[Any] = []

        def exchange(gradients: training.Gradients, updates: list[Any], apply_gradients: training.Apply) -> Any:
            # The vote travels with the smallest gradient: by itself it would cost another exchange.
            tensors = [tf.convert_to_tensor(gradient) for gradient, _ in gradients]
            carrier = min(range(len(tensors)), key=lambda i: tensors[i].shape.num_elements())
            shape = tensors[carrier].shape
            tensors[carrier] = tf.concat([tf.reshape(tensors[carrier], [-1]), [vote]], 0)
            means = group.mean(tensors)
            votes.append(means[carrier][-1])
            means[carrier] = tf.reshape(means[carrier][:-1], shape)
            variables = [variable for _, variable in gradients]
            return apply_gradients(list(zip(means, variables, strict=True)), updates)

        train_graph = training.training(options, group.size, group.rank, device, exchange, group.size)
        with tf1.device(device):
            saving = Saving(options, Attempt(options.run_dir), metrics, stop)
            init = tf1.global_variables_initializer()
            start = group.broadcast(tf1.global_variables())
        with waiting(f"a session with all {group.size} workers", options.start_timeout):
            local = session.start(target)
        if not (cluster.is_chief and saving.restore(local)):
            local.run(init)
        local.run(start)
        local.run(train_graph.start_input)
        metrics.event("session")

        # All workers stop after the same step: with its gradients, each tells whether it has got SIGTERM.
        agreed = Stop()
        outputs = local.make_callable([*train_graph.outputs, *votes], feed_list=[vote])

        def step() -> tuple[int, float, float]:
            number, loss, accuracy, share = outputs(float(stop.requested))
            agreed.requested = share > 0
            return number, loss, accuracy

        start_step = int(local.run(train_graph.global_step))
        stop.grace = time_to_save()
        save = evaluated(options, metrics, lambda n: saving.save(local, n)) if cluster.is_chief else None
        progress = train(step, start_step, options, metrics, agreed, save)
        checkpoint = saving.save_last(local, progress.step) if cluster.is_chief else ""
        details = group.leave(local, tf1.trainable_variables())
        stop.grace = 0.0
    if agreed.requested:
        saved = f" at step {progress.step}, which is saved" if cluster.is_chief else ""
        print(f"ended by SIGTERM{saved}", file=sys.stderr, flush=True)
        return EXIT_CODE
    if cluster.is_chief:
        finish(
            options,
            cluster,
            metrics,
            progress,
            checkpoint,
            train_graph.parameters,
            replicas=group.size,
            details=details,
        )
    else:
        metrics.event("done")
    return 0

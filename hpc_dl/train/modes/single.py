"""Mode ``single``: one process, the baseline of every comparison."""

from __future__ import annotations

import sys

import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.saving import Saving
from hpc_dl.train.evaluation import evaluated, finish
from hpc_dl.train.graph import training
from hpc_dl.train.loop import train
from hpc_dl.train.options import Options
from hpc_dl.train.reporting import trace
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import EXIT_CODE, Stop, time_to_save
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


def run(options: Options, cluster: Cluster, metrics: Metrics, stop: Stop) -> int:
    """Train, evaluate, write the result; return the exit code.

    Raises:
        UserError: TF_CONFIG names more processes than this one.
    """
    if cluster.ps or len(cluster.workers) > 1:
        raise UserError("--mode: 'single' is one process, but TF_CONFIG names more; did you mean 'async'?")
    with tf.Graph().as_default():
        train_graph = training.training(options)
        saving = Saving(options, Attempt(options.run_dir), metrics, stop)
        init = tf1.global_variables_initializer()
        local = session.start(cpus=options.tower_count)
        if not saving.restore(local):
            local.run(init)
        local.run(train_graph.start_input)
        metrics.event("session")
        start_step = int(local.run(train_graph.global_step))
        step = trace.step_function(local, train_graph.outputs, options, cluster.task)
        stop.grace = time_to_save()
        save = evaluated(options, metrics, lambda n: saving.save(local, n))
        progress = train(step, start_step, options, metrics, stop, save)
        checkpoint = saving.save_last(local, progress.step)
        stop.grace = 0.0
    if stop.requested:
        print(f"ended by SIGTERM at step {progress.step}, which is saved", file=sys.stderr, flush=True)
        return EXIT_CODE
    finish(options, cluster, metrics, progress, checkpoint, train_graph.parameters)
    return 0

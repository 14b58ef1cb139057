"""Modes ``async``, ``mixed`` and ``sync``: between-graph replication with parameter servers.

Each worker builds the same graph, with the variables on the parameter servers. In ``async`` it applies its gradients
to them whenever it has some, without waiting for others (Downpour SGD: J. Dean et al., "Large Scale Distributed Deep
Networks", 2012). ``mixed`` is the same with workers of several towers (towers.py); for ``sync`` see sync.py.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hpc_dl.errors import JobError, UserError
from hpc_dl.train import graph, placement, session, trace
from hpc_dl.train.checkpoint import Checkpoints
from hpc_dl.train.cluster import Cluster
from hpc_dl.train.compression import compressed
from hpc_dl.train.downpour import Downpour
from hpc_dl.train.loop import train
from hpc_dl.train.metrics import Metrics
from hpc_dl.train.options import Options
from hpc_dl.train.parameter_server import serve
from hpc_dl.train.peers import Watch
from hpc_dl.train.rendezvous import Rendezvous
from hpc_dl.train.result import evaluated, finish
from hpc_dl.train.shared import shared_variables
from hpc_dl.train.staleness import Staleness
from hpc_dl.train.stop import EXIT_CODE, Stop
from hpc_dl.train.sync import Sync

tf1 = tf.compat.v1

_INITIALISED_POLL = 0.5  # seconds; TensorFlow's own session manager looks every 30


def run(options: Options, cluster: Cluster, metrics: Metrics, stop: Stop) -> int:
    """Do this process's part and return its exit code.

    Raises:
        UserError: TF_CONFIG names no parameter server.
        JobError: the server can't start, or contact with a peer was lost.
    """
    if not cluster.ps:
        raise UserError(f"--mode: {options.mode!r} needs TF_CONFIG with at least one 'ps' and one 'worker'")
    jobs = {"ps": cluster.ps, "worker": cluster.workers}
    is_ps = cluster.task_type == "ps"
    try:
        config = session.config(gpus=not is_ps, cpus=1 if is_ps else options.towers)
        server = tf1.train.Server(jobs, cluster.task_type, cluster.task_index, config=config)
    except tf.errors.OpError as error:
        address = jobs[cluster.task_type][cluster.task_index]
        raise JobError(f"{cluster.task}: no server at {address}, is the port taken? {error.message}") from error
    metrics.event("server")
    if is_ps:
        return serve(server, cluster, metrics, stop, options.start_timeout)
    needed = {f"ps {index}": address for index, address in enumerate(cluster.ps)}
    if options.mode == "sync" and not cluster.is_chief:
        needed["worker 0"] = cluster.workers[0]  # who takes the steps
    watch = Watch(needed, options.start_timeout)
    try:
        return _work(server, options, cluster, metrics, stop, watch)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        # What TensorFlow raises when a ps is gone, or a new one without our session is in its place.
        first_line = (error.message or "no message").splitlines()[0]
        raise JobError(f"{cluster.task}: contact with a ps was lost: {type(error).__name__}: {first_line}") from error


def _work(server: Any, options: Options, cluster: Cluster, metrics: Metrics, stop: Stop, watch: Watch) -> int:
    """Train as one worker; the chief also initialises, saves, and ends the run."""
    with tf.Graph().as_default():
        device = placement.device(cluster)
        sync = Sync(cluster, options.backup_workers) if options.mode == "sync" else None
        exchange = compressed(sync or graph.at_once, options.compression)
        own_copy = options.n_fetch > 1 or options.n_push > 1
        downpour = Downpour(options, f"/job:worker/task:{cluster.task_index}", exchange) if own_copy else None
        train_graph = graph.training(
            options,
            len(cluster.workers),
            cluster.task_index,
            device,
            downpour or exchange,
            own=downpour.own if downpour else None,
        )
        staleness = Staleness(cluster, options.staleness) if options.staleness is not None else None
        with tf1.device(device):
            checkpoints = Checkpoints(options.run_dir, options.start_from)
            init = tf1.global_variables_initializer()
            init_shared = tf1.variables_initializer(shared_variables())
            init_local = tf1.local_variables_initializer()
            uninitialised = tf1.report_uninitialized_variables([*tf1.global_variables(), *shared_variables()])
        rendezvous = Rendezvous(cluster)
        filters = ("/job:ps", f"/job:worker/task:{cluster.task_index}")
        remote = session.start(server.target, device_filters=filters)
        if cluster.is_chief:
            # A restarted chief finds the variables as they are, and goes on with them.
            if len(remote.run(uninitialised)):
                remote.run(init_shared)
                if not checkpoints.restore(remote):
                    remote.run(init)
        else:
            _wait_for_chief(remote, uninitialised, options.start_timeout)
        remote.run([init_local, train_graph.start_input])
        if sync:
            sync.start(remote, options.steps, options.start_timeout, stop)
        metrics.event("session")

        start_step = int(remote.run(train_graph.global_step))
        step = trace.step_function(remote, train_graph.outputs, options, cluster.task)
        if downpour:
            step = downpour.scheduled(step, remote, start_step)
        if staleness:
            step = staleness.bounded(step, remote, options, stop)
        if not cluster.is_chief:
            progress = train(step, start_step, options, metrics, stop)
            watch.end()
            rendezvous.report(remote)
            metrics.event("done")
            return EXIT_CODE if stop.requested else 0

        stop.grace = 10.0
        save = evaluated(options, metrics, lambda n: checkpoints.save(remote, n))
        progress = train(step, start_step, options, metrics, stop, save)
        lost = rendezvous.wait_for_workers(remote, stop)
        final_step = int(remote.run(train_graph.global_step))
        checkpoint = checkpoints.save(remote, final_step)
        dropped = sync.dropped(remote) if sync and not stop.requested else 0
        stop.grace = 0.0
        watch.end()
        rendezvous.release_ps(remote)
    if stop.requested:
        print(f"ended by SIGTERM at step {final_step}, which is saved", file=sys.stderr, flush=True)
        return EXIT_CODE
    progress = replace(progress, step=final_step)  # the others' last steps included
    replicas = len(cluster.workers) - options.backup_workers if options.mode == "sync" else 1
    details = {"dropped_gradients": dropped}
    finish(options, cluster, metrics, progress, checkpoint, train_graph.parameters, lost, replicas, details)
    return 0


def _wait_for_chief(remote: Any, uninitialised: Any, start_timeout: float) -> None:
    deadline = time.monotonic() + start_timeout
    while len(remote.run(uninitialised)):
        if time.monotonic() > deadline:
            raise JobError(f"the chief has not initialised the variables within {start_timeout:g} s")
        time.sleep(_INITIALISED_POLL)

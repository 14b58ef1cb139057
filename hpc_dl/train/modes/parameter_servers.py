"""Modes ``async``, ``mixed`` and ``sync``: between-graph replication with parameter servers.

Each worker builds the same graph, with the variables on the parameter servers. In ``async`` a worker applies its
gradients to them as soon as it has computed them, without waiting for others (Downpour SGD: J. Dean et al., "Large
Scale Distributed Deep Networks", 2012). ``mixed`` is the same with several towers per worker (towers.py). For ``sync``
see sync.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import tensorflow as tf

from hpc_dl.errors import PeerLostError, UserError
from hpc_dl.spec.modes import MODES
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.saving import Saving
from hpc_dl.train.checkpoints.store import has_saved
from hpc_dl.train.evaluation import evaluated, finish
from hpc_dl.train.graph import training, variable_devices
from hpc_dl.train.graph.compression import compressed
from hpc_dl.train.graph.downpour import Downpour
from hpc_dl.train.loop import train
from hpc_dl.train.modes.ps_process import serve
from hpc_dl.train.modes.rendezvous import Rendezvous
from hpc_dl.train.modes.staleness import Staleness
from hpc_dl.train.modes.sync import Sync
from hpc_dl.train.options import Options
from hpc_dl.train.peers import GONE, Peers, Watch, waiting
from hpc_dl.train.reporting import trace
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import EXIT_CODE, Stop, time_to_save
from hpc_dl.train.tf_config import CHIEF, Cluster

tf1 = tf.compat.v1


def run(options: Options, cluster: Cluster, metrics: Metrics, stop: Stop) -> int:
    """Do this process's part and return its exit code.

    Raises:
        UserError: TF_CONFIG names no parameter server.
        PeerLostError: the server can't start, or contact with a peer was lost.
    """
    if not cluster.ps:
        raise UserError(f"--mode: {options.mode!r} needs TF_CONFIG with at least one 'ps' and one 'worker'")
    jobs = {"ps": cluster.ps, "worker": cluster.workers}
    is_ps = cluster.task_type == "ps"
    config = session.config(gpus=not is_ps, cpus=1 if is_ps else options.tower_count)
    server = session.serve(jobs, cluster, config)
    metrics.event("server")
    if is_ps:
        return serve(server, cluster, metrics, stop, options)
    attempt = Attempt(options.run_dir)
    servers = _servers(options, cluster, attempt)
    watch = Watch(attempt, (servers, 0), *_taker_of_steps(options, cluster, attempt))
    try:
        return _work(server, options, cluster, metrics, stop, attempt, watch)
    except tf.errors.OpError as error:
        if not (why := session.lost_contact(error, cluster.ps)):
            raise
        raise PeerLostError(f"{cluster.task}: contact with a ps was lost: {why}") from error


def _servers(options: Options, cluster: Cluster, attempt: Attempt) -> Peers:
    """Return the parameter servers as peers. No worker can go on without them."""
    addresses = {f"ps-{index}": address for index, address in enumerate(cluster.ps)}
    # A chief that has saved in this attempt had contact with all servers. If it was killed after it had released them,
    # and is restarted, it does not wait long for them.
    were_here = cluster.is_chief and attempt.owns_folder and has_saved(options.run_dir, attempt.number)
    return Peers(addresses, attempt, GONE if were_here else options.start_timeout, away=None)


def _taker_of_steps(options: Options, cluster: Cluster, attempt: Attempt) -> list[tuple[Peers, int]]:
    """Return the chief as a further peer to watch, for the other workers of mode sync: it takes their steps."""
    if not MODES[options.mode].synchronous or cluster.is_chief:
        return []
    chief = {CHIEF: cluster.workers[0]}
    return [(Peers(chief, attempt, options.start_timeout, options.restart_timeout), 0)]


def _work(
    server: Any,
    options: Options,
    cluster: Cluster,
    metrics: Metrics,
    stop: Stop,
    attempt: Attempt,
    watch: Watch,
) -> int:
    """Train as one worker; the chief also initialises, saves, and ends the run."""
    with tf.Graph().as_default():
        device = variable_devices.device(cluster)
        sync = Sync(cluster, attempt, options) if MODES[options.mode].synchronous else None
        exchange = compressed(sync or training.at_once, options.compression)
        own_copy = options.n_fetch > 1 or options.n_push > 1
        downpour = Downpour(options, f"/job:worker/task:{cluster.task_index}", exchange) if own_copy else None
        train_graph = training.training(
            options,
            len(cluster.workers),
            cluster.task_index,
            device,
            downpour or exchange,
            own=downpour.own if downpour else None,
        )
        staleness = Staleness(cluster, attempt, options.staleness) if options.staleness is not None else None
        with tf1.device(device):
            saving = Saving(options, attempt, metrics, stop)
            init = tf1.global_variables_initializer()
            init_local = tf1.local_variables_initializer()
            rendezvous = Rendezvous(cluster, attempt)
        filters = ("/job:ps", f"/job:worker/task:{cluster.task_index}")
        with waiting(f"a session with the ps at {', '.join(cluster.ps)}", options.start_timeout):
            remote = session.start(server.target, device_filters=filters)
        joins_again = False
        if cluster.is_chief:
            joins_again = not rendezvous.initialise(remote, lambda: saving.restore(remote) or remote.run(init))
        else:
            rendezvous.wait_for_chief(remote, options.start_timeout)
        rendezvous.join(remote)
        remote.run([init_local, train_graph.start_input])
        if sync:
            sync.start(remote, stop, joins_again)
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
            if not stop.requested:
                rendezvous.report(remote)
            metrics.event("done")
            return EXIT_CODE if stop.requested else 0

        stop.grace = time_to_save()
        save = evaluated(options, metrics, lambda n: saving.save(remote, n))
        progress = train(step, start_step, options, metrics, stop, save)
        lost = rendezvous.wait_for_workers(remote, stop)
        final_step = int(remote.run(train_graph.global_step))
        checkpoint = saving.save_last(remote, final_step)
        dropped = sync.dropped(remote) if sync and not stop.requested else 0
        stop.grace = 0.0
        watch.end()
        rendezvous.release_ps(remote)
    if stop.requested:
        print(f"ended by SIGTERM at step {final_step}, which is saved", file=sys.stderr, flush=True)
        return EXIT_CODE
    progress = replace(progress, step=final_step)  # includes the other workers' last steps
    replicas = len(cluster.workers) - options.backup_workers if sync else 1
    details = {"dropped_gradients": dropped}
    finish(options, cluster, metrics, progress, checkpoint, train_graph.parameters, lost, replicas, details)
    return 0

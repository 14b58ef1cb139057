"""A parameter server: holds variables, and ends when the training ends."""

from __future__ import annotations

import sys
import time
from typing import Any

import tensorflow as tf

from hpc_dl.errors import PeerLostError
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.modes.rendezvous import POLL, done_queue
from hpc_dl.train.options import Options
from hpc_dl.train.peers import Peers
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.reporting.traffic import sent_received
from hpc_dl.train.stop import EXIT_CODE, Stop, time_to_save
from hpc_dl.train.tf_config import CHIEF, Cluster

tf1 = tf.compat.v1

_REPORT = 10.0  # seconds between two lines of metrics


def serve(server: Any, cluster: Cluster, metrics: Metrics, stop: Stop, options: Options) -> int:
    """Serve until the chief says that training is done, and return the exit code.

    Raises:
        PeerLostError: all workers are gone before the training is done.
    """
    stop.grace = time_to_save()  # the chief may still save the variables that are here
    with tf.Graph().as_default():
        waiting = done_queue(cluster.task_index).size()
        filters = (f"/job:ps/task:{cluster.task_index}",)
        local = session.start(server.target, gpus=False, device_filters=filters)
        workers = Peers(cluster.others(), Attempt(options.run_dir), options.start_timeout, options.restart_timeout)
        next_report = time.monotonic() + _REPORT
        while not local.run(waiting):
            time.sleep(POLL)
            sent_received(keep=True)  # a worker that leaves closes its connection
            if time.monotonic() > next_report:
                metrics.traffic()
                next_report += _REPORT
            workers.look()
            if stop.requested and workers.silent:
                break
            if len(workers.gone()) == len(workers.addresses):
                why = workers.describe(CHIEF)
                raise PeerLostError(f"ps {cluster.task_index}: no worker answers, and training was not finished: {why}")
    metrics.traffic()
    metrics.event("done")
    if stop.requested:
        print("ended by SIGTERM", file=sys.stderr, flush=True)
        return EXIT_CODE
    return 0

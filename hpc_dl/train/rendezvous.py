"""How the processes of a ps cluster tell each other that they are done: queues that lie on the parameter servers.

`Server.join` never returns, so a parameter server has no end of its own; it ends when the chief puts something into
its ``done`` queue. Sizes are polled instead of waiting in `dequeue`, which would hold the process past a SIGTERM.
"""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from hpc_dl.train.cluster import Cluster
from hpc_dl.train.peers import GONE, reachable
from hpc_dl.train.stop import Stop

tf1 = tf.compat.v1

POLL = 0.2  # seconds
_CAPACITY = 10_000  # never full, also when processes were restarted and report again


def done_queue(ps_index: int) -> Any:
    """Return the queue that tells a parameter server to end; on that server, the same from every process."""
    with tf1.device(f"/job:ps/task:{ps_index}"):
        return tf1.FIFOQueue(_CAPACITY, tf.int32, shapes=[()], shared_name=f"done{ps_index}")


class Rendezvous:
    """A worker's side: report that it is done; the chief's: wait for the reports, and release the ps."""

    def __init__(self, cluster: Cluster) -> None:
        """Build the operations in the current graph."""
        self._cluster = cluster
        with tf1.device("/job:ps/task:0"):
            reports = tf1.FIFOQueue(_CAPACITY, tf.int32, shapes=[()], shared_name="reports")
            self._report = reports.enqueue(cluster.task_index)
            self._waiting = reports.size()
            self._next = reports.dequeue()
        self._release = [done_queue(index).enqueue(0) for index in range(len(cluster.ps))]

    def report(self, session: Any) -> None:
        """Say that this worker is done."""
        session.run(self._report)

    def wait_for_workers(self, session: Any, stop: Stop) -> list[int]:
        """Wait until each other worker has reported or is gone, and return the indices of those that are gone.

        On SIGTERM, which has come to the others as well, it returns at once those that have not reported.
        """
        missing = set(range(1, len(self._cluster.workers)))
        seen = dict.fromkeys(missing, time.monotonic())
        while missing and not stop.requested:
            for _ in range(session.run(self._waiting)):
                missing.discard(int(session.run(self._next)))
            for index in missing:
                if reachable(self._cluster.workers[index]):
                    seen[index] = time.monotonic()
            if all(time.monotonic() - seen[index] > GONE for index in missing):
                break
            time.sleep(POLL)
        return sorted(missing)

    def release_ps(self, session: Any) -> None:
        """Let all parameter servers end."""
        for operation in self._release:
            session.run(operation)

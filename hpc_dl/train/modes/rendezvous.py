"""How the processes of a ps cluster tell each other that they are ready and done, through the parameter servers.

`Server.join` never returns, so a parameter server does not use it. It ends when the chief puts something into its
``done`` queue. It polls the size of the queue: waiting in `dequeue` would hold the process past a SIGTERM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hpc_dl.errors import PeerLostError
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.graph.shared_variables import shared_variable, shared_variables
from hpc_dl.train.peers import GONE, Peers
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import CHIEF, Cluster

tf1 = tf.compat.v1

POLL = 0.2  # seconds
_INITIALISED_POLL = 0.5  # seconds; TensorFlow's own session manager looks every 30
_CAPACITY = 10_000  # never full, even if restarted processes report again


def done_queue(ps_index: int) -> Any:
    """Return the queue that tells a parameter server to end. It lies on that server; all processes share it."""
    with tf1.device(f"/job:ps/task:{ps_index}"):
        return tf1.FIFOQueue(_CAPACITY, tf.int32, shapes=[()], shared_name=f"done{ps_index}")


class Rendezvous:
    """The workers wait until the chief has initialised the variables. The chief waits until they report their end.

    The variables for this lie on the first ps, so that they outlive each worker, the chief included.
    """

    def __init__(self, cluster: Cluster, attempt: Attempt) -> None:
        """Build operations in the current graph, after all other shared variables."""
        self._cluster, self._attempt = cluster, attempt
        with tf1.device("/job:ps/task:0"):
            ended = shared_variable("ended", tf.zeros([len(cluster.workers)], tf.int32))
            ready = tf1.get_variable("ready", initializer=True, trainable=False, collections=[])
            self._ended = ended.read_value()
            self._join, self._report = (tf1.scatter_update(ended, cluster.task_index, value) for value in (0, 1))
        self._init_shared = tf1.variables_initializer(shared_variables())
        self._init_ready = ready.initializer
        self._missing = tf1.report_uninitialized_variables([*tf1.global_variables(), *shared_variables(), ready])
        self._release = [done_queue(index).enqueue(0) for index in range(len(cluster.ps))]

    def initialise(self, session: Any, restore_or_init: Callable[[], object]) -> bool:
        """Initialise all variables, unless that was done before. Return whether it was done now.

        A restarted chief finds the variables initialised, and goes on with them. A chief that was killed in this
        function may have initialised some of them, so ``ready`` is set last.
        """
        if not len(session.run(self._missing)):
            return False
        session.run(self._init_shared)
        restore_or_init()
        session.run(self._init_ready)
        return True

    def wait_for_chief(self, session: Any, start_timeout: float) -> None:
        """Wait until the chief has initialised the variables.

        Raises:
            PeerLostError: the chief has not done so in `start_timeout` seconds, or is gone.
        """
        chief = Peers({CHIEF: self._cluster.workers[0]}, self._attempt, start_timeout, away=start_timeout)
        deadline = time.monotonic() + start_timeout
        while len(session.run(self._missing)):
            chief.look()
            if chief.gone():
                raise PeerLostError(f"the chief has not initialised the variables: {chief.describe(CHIEF)}")
            if time.monotonic() > deadline:
                raise PeerLostError(f"the chief has not initialised the variables within {start_timeout:g} s")
            time.sleep(_INITIALISED_POLL)

    def join(self, session: Any) -> None:
        """Take part from now on. If this worker reported its end before it was restarted, that is withdrawn."""
        session.run(self._join)

    def report(self, session: Any) -> None:
        """Report that this worker is done."""
        session.run(self._report)

    def wait_for_workers(self, session: Any, stop: Stop) -> list[int]:
        """Wait until every other worker has reported or is gone; return the indices of workers that have not reported.

        On SIGTERM, which the others have got too, it returns at once. A worker that is being restarted has nothing left
        to do, and is not waited for.
        """
        peers = Peers(self._cluster.others(), self._attempt, GONE, away=None)
        while True:
            ended = session.run(self._ended)
            missing = {task for task in peers.addresses if not ended[int(task.rpartition("-")[2])]}
            if not missing or stop.requested or missing <= peers.gone():
                return sorted(int(task.rpartition("-")[2]) for task in missing)
            peers.look()
            time.sleep(POLL)

    def release_ps(self, session: Any) -> None:
        """Let all parameter servers end."""
        for operation in self._release:
            session.run(operation)

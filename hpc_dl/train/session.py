"""TensorFlow's sessions and servers, in one process or in a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from hpc_dl.errors import PeerLostError, UserError
from hpc_dl.train.peers import problem
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1

_open: list[Any] = []  # a session closes itself when nothing refers to it


def config(gpus: bool = True, device_filters: tuple[str, ...] = (), cpus: int = 1) -> Any:
    """Return the ConfigProto of a session or server.

    Args:
        gpus: whether this process may use the GPUs that it sees.
        device_filters: the only processes that this one connects to. Without filters, a dead worker stops all others.
        cpus: number of logical CPU devices. Without GPUs, each tower has one.

    Raises:
        UserError: TF_NUM_INTRAOP_THREADS or TF_NUM_INTEROP_THREADS is not a number.
    """
    return tf1.ConfigProto(
        intra_op_parallelism_threads=_threads("TF_NUM_INTRAOP_THREADS"),
        inter_op_parallelism_threads=_threads("TF_NUM_INTEROP_THREADS"),
        device_count={"CPU": cpus} if gpus else {"CPU": cpus, "GPU": 0},
        gpu_options=tf1.GPUOptions(allow_growth=True),  # two processes may share a GPU
        allow_soft_placement=True,
        device_filters=device_filters,
    )


def start(target: str = "", gpus: bool = True, device_filters: tuple[str, ...] = (), cpus: int = 1) -> Any:
    """Return a new session of the current graph. It stays open until the process ends.

    Closing takes over a second, and in a cluster it contacts parameter servers that may have left.

    Args:
        target: a server's address. Empty: the session has this process alone.
        gpus: see `config`.
        device_filters: see `config`.
        cpus: see `config`.
    """
    session = tf1.Session(target, config=config(gpus, device_filters, cpus))
    _open.append(session)
    if target:
        session.run(tf.no_op())  # waits for the other processes of the session; else the first step would wait
    return session


def serve(jobs: dict[str, tuple[str, ...]], cluster: Cluster, config: Any) -> Any:
    """Start this process's server.

    Args:
        jobs: addresses by the job's name.
        cluster: tells which of the addresses is this process's.
        config: see `config`.

    Raises:
        PeerLostError: the address can't be used. A restart gets new ports, or the same ones when they are free again.
    """
    try:
        return tf1.train.Server(jobs, cluster.task_type, cluster.task_index, config=config)
    except tf.errors.OpError as error:
        address = jobs[cluster.task_type][cluster.task_index]
        raise PeerLostError(
            f"{cluster.task}: no server at {address}, is the port taken? {first_line(error)}"
        ) from error


def lost_contact(error: Any, addresses: Iterable[str]) -> str:
    """Return in one line which process at `addresses` is gone; empty if the TensorFlow error has another cause.

    A process that can't be reached is gone. If all can be reached, three kinds of error still mean that one is gone,
    such as the error of a new process at its address, which does not know our session.
    """
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    silent = {address: why for address in addresses if (why := problem(address))}
    if silent:
        return "; ".join(f"{address}: {why.strerror or why}" for address, why in silent.items())
    return first_line(error) if isinstance(error, kinds) else ""


def first_line(error: Any) -> str:
    """Return a TensorFlow error in one line."""
    lines = (line for line in (error.message or "").splitlines() if line and line != "Graph execution error:")
    return f"{type(error).__name__}: {next(lines, 'no message')}"


def _threads(variable: str) -> int:
    text = os.environ.get(variable, "0")  # 0: as many as there are cores
    if not text.isdigit():
        raise UserError(f"{variable}: {text!r} is not allowed; it must be a number of threads, 0 for all cores")
    return int(text)


def function(session: Any, outputs: tuple[Any, ...]) -> Any:
    """Return a function that runs `outputs` without the look-up of names that `Session.run` does each time."""
    return session.make_callable(list(outputs))

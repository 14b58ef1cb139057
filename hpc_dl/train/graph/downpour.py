"""Downpour SGD with local copies of the variables, fetched and pushed every few steps.

J. Dean et al., "Large Scale Distributed Deep Networks", 2012, algorithm 7.1: every n_fetch steps a worker fetches the
parameters. Each step updates its own copy at once, by plain gradient descent. Every n_push steps the worker sends the
sum of its gradients to the parameter servers. Only the parameter servers use momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hpc_dl.train import session
from hpc_dl.train.graph import training
from hpc_dl.train.graph.training import Apply, Exchange, Gradients
from hpc_dl.train.loop import StepFunction
from hpc_dl.train.options import Options

tf1 = tf.compat.v1

_LOCAL = {"trainable": False, "collections": ["local_variables"]}


class Downpour:
    """The exchange of a worker that has its own copy of the network, and the schedule of its steps."""

    def __init__(self, options: Options, device: str, exchange: Exchange) -> None:
        """Prepare. `device` is this worker's, and `exchange` is what to do with the sums of gradients."""
        self._options, self._device, self._exchange = options, device, exchange
        self._pairs: list[tuple[Any, Any]] = []  # (own variable, variable on the ps)

    def own(self, network: Any, build: Callable[[], Any]) -> Any:
        """Return this worker's copy of `network`, made by `build`."""

        def local(next_creator: Any, **settings: Any) -> Any:
            return next_creator(**{**settings, "collections": _LOCAL["collections"]})

        with tf1.device(self._device), tf1.variable_creator_scope(local):
            copy = build()
        self._pairs = list(zip(copy.weights, network.weights, strict=True))
        return copy

    def __call__(self, gradients: Gradients, updates: list[Any], apply_gradients: Apply) -> Any:
        """Build the three parts: a step on the copy, a fetch, a push. Return 0: only a push knows the global step."""
        there = {id(own): variable for own, variable in self._pairs}
        trained = {id(own) for _, own in gradients}
        with tf1.device(self._device):
            rate = tf1.get_variable("local_rate", (), tf.float32, **_LOCAL)
            sums = [
                tf1.get_variable(f"sum/{own.op.name}", initializer=tf.zeros(own.shape), **_LOCAL)
                for _, own in gradients
            ]
            moves = [
                own.assign_sub(rate * gradient)
                for gradient, own in training.decayed(gradients, self._options.weight_decay)
            ]
            added = [one.assign_add(gradient) for one, (gradient, _) in zip(sums, gradients, strict=True)]

        fresh = training.rate(self._options, tf1.train.get_global_step())
        self._fetch = [rate.assign(fresh), *(own.assign(training.read(variable)) for own, variable in self._pairs)]
        # The ps take the batch norm averages of the worker that pushed last.
        averages = [variable.assign(own) for own, variable in self._pairs if id(own) not in trained]
        pushed = [(training.read(one), there[id(own)]) for one, (_, own) in zip(sums, gradients, strict=True)]
        step = self._exchange(pushed, averages, apply_gradients)
        with tf.control_dependencies([step]):
            cleared = [one.assign(tf.zeros(one.shape)) for one in sums]
        with tf.control_dependencies(cleared):
            self._push = (tf.identity(step),)
        with tf.control_dependencies([*moves, *added, *updates]), tf1.device(self._device):
            return tf.constant(0)

    def scheduled(self, step: StepFunction, remote: Any, start_step: int) -> StepFunction:
        """Return a step function that fetches before `step` and pushes after it, each when it is due."""
        fetch = session.function(remote, tuple(tf.nest.map_structure(lambda op: op.op, self._fetch)))
        push = session.function(remote, self._push)
        made, global_step = 0, start_step

        def fetch_step_push() -> tuple[int, float, float]:
            nonlocal made, global_step
            if made % self._options.n_fetch == 0:
                fetch()
            _, loss, accuracy = step()
            made += 1
            if made % self._options.n_push == 0:
                (global_step,) = push()
            return global_step, loss, accuracy

        return fetch_step_push

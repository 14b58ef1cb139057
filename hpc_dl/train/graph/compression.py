"""Smaller gradients on their way to the parameter servers, where they become float32 again.

``fp16``: half the bytes. ``1bit``: F. Seide et al., "1-Bit Stochastic Gradient Descent and its Application to
Data-Parallel Distributed Training of Speech DNNs", 2014: the signs, eight in a byte, and one mean each for what is
above and below 0; what that loses is added to the worker's next gradient (error feedback). It costs computing time, so
it pays on slow networks. Vectors (biases, batch norm) stay as they are in ``1bit``: they are few and would suffer most.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hpc_dl.train.graph.training import Apply, Exchange, Gradients

tf1 = tf.compat.v1

_BITS = [128, 64, 32, 16, 8, 4, 2, 1]


def compressed(exchange: Exchange, compression: str) -> Exchange:
    """Return `exchange` with gradients that were compressed before they left the worker.

    Args:
        exchange: what to do with the gradients.
        compression: none, fp16 or 1bit.
    """
    if compression == "none":
        return exchange

    def small(gradients: Gradients, updates: list[Any], apply_gradients: Apply) -> Any:
        received, errors = [], []
        for gradient, variable in gradients:
            dense = tf.convert_to_tensor(gradient)
            if compression == "fp16":
                dense = half(dense, variable.device)
            elif len(variable.shape) > 1:
                dense, error = one_bit(dense, variable.device, f"one_bit_error/{variable.op.name}")
                errors.append(error)
            received.append((dense, variable))
        return exchange(received, [*updates, *errors], apply_gradients)

    return small


def half(gradient: Any, receiver: str) -> Any:
    """Return `gradient` after a journey to device `receiver` as float16; too large values become the largest one."""
    sent = tf.saturate_cast(gradient, tf.float16)
    with tf1.device(receiver):
        return tf.cast(sent, tf.float32)


def one_bit(gradient: Any, receiver: str, name: str) -> tuple[Any, Any]:
    """Return `gradient` after a journey to device `receiver` as bits, and the update of the error that stays here.

    Args:
        gradient: float32, any shape.
        receiver: device of the parameter server.
        name: of the variable with the error, which is local to this worker.
    """
    with tf1.device(gradient.device):
        error = tf1.get_variable(
            name, initializer=tf.zeros(gradient.shape), trainable=False, collections=["local_variables"]
        )
        wanted = gradient + error.read_value()
        above = wanted >= 0
        means = tf.stack([_mean(wanted, ~above), _mean(wanted, above)])
        packed = pack(above)
        update = error.assign(wanted - tf.where(above, means[1], means[0])).op
    with tf1.device(receiver):
        return tf.where(unpack(packed, gradient.shape), means[1], means[0]), update


def _mean(values: Any, chosen: Any) -> Any:
    count = tf.math.count_nonzero(chosen, dtype=values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(chosen, values, 0.0)), count)


def pack(flags: Any) -> Any:
    """Return booleans of any shape as uint8, eight in each, the last one filled up."""
    flat = tf.reshape(tf.cast(flags, tf.float32), [-1])
    missing = -flags.shape.num_elements() % 8
    eights = tf.reshape(tf.pad(flat, [[0, missing]]), [-1, 8])
    return tf.cast(tf.linalg.matvec(eights, tf.constant(_BITS, tf.float32)), tf.uint8)


def unpack(packed: Any, shape: Any) -> Any:
    """Return the booleans of `shape` that `pack` has packed."""
    flags = tf.bitwise.bitwise_and(packed[:, None], tf.constant(_BITS, tf.uint8)) > 0
    return tf.reshape(tf.reshape(flags, [-1])[: shape.num_elements()], shape)

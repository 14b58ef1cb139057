"""Compression of gradients on their way to the parameter servers, where they become float32 again.

``fp16`` halves the bytes. ``1bit`` (F. Seide et al., "1-Bit Stochastic Gradient Descent and its Application to
Data-Parallel Distributed Training of Speech DNNs", 2014) sends the signs, eight in a byte, and two means: of the values
above and below 0. The error is added to the worker's next gradient (error feedback). ``1bit`` costs computing time, so
it pays on slow networks. It leaves vectors (biases, batch norm) as they are: they are small and would suffer most.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hpc_dl.train.graph.training import Apply, Exchange, Gradients

tf1 = tf.compat.v1

_BITS = [128, 64, 32, 16, 8, 4, 2, 1]


def compressed(exchange: Exchange, compression: str) -> Exchange:
    """Return an exchange whose gradients are compressed before they leave the worker.

    Args:
        exchange: what to do with the gradients after that.
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
    """Send `gradient` to device `receiver` as float16; return it there. Too large values become the largest float16."""
    sent = tf.saturate_cast(gradient, tf.float16)
    with tf1.device(receiver):
        return tf.cast(sent, tf.float32)


def one_bit(gradient: Any, receiver: str, name: str) -> tuple[Any, Any]:
    """Send `gradient` to device `receiver` as bits. Return what arrives there, and the update of the error here.

    Args:
        gradient: float32, any shape.
        receiver: device of the parameter server.
        name: name of the variable that holds the error; it is local to this worker.
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
    """Return booleans of any shape as uint8, eight in each; the last one is padded."""
    flat = tf.reshape(tf.cast(flags, tf.float32), [-1])
    missing = -flags.shape.num_elements() % 8
    eights = tf.reshape(tf.pad(flat, [[0, missing]]), [-1, 8])
    return tf.cast(tf.linalg.matvec(eights, tf.constant(_BITS, tf.float32)), tf.uint8)


def unpack(packed: Any, shape: Any) -> Any:
    """Return the booleans that `pack` has packed, in their `shape`."""
    flags = tf.bitwise.bitwise_and(packed[:, None], tf.constant(_BITS, tf.uint8)) > 0
    return tf.reshape(tf.reshape(flags, [-1])[: shape.num_elements()], shape)

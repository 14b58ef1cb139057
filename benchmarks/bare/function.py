"""Mode ``single``: a `tf.function` in a Python loop."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from benchmarks.bare import parts
from hpc_dl.models.keras import keras

tf.config.threading.set_intra_op_parallelism_threads(parts.threads)
tf.config.threading.set_inter_op_parallelism_threads(parts.threads)
model = parts.network()
optimizer = keras.optimizers.legacy.SGD(parts.RATE, momentum=parts.MOMENTUM, nesterov=True)
iterator = iter(parts.batches())


@tf.function  # type: ignore[untyped-decorator]
def step() -> Any:
    images, labels = next(iterator)
    with tf.GradientTape() as tape:
        loss = parts.mean_loss(model(images, training=True), labels)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(parts.decayed(gradients, model.trainable_variables))
    return optimizer.iterations, loss


parts.run(lambda: step()[0])

"""Mode ``multiworker``: `MultiWorkerMirroredStrategy` with a custom loop."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context  # `tf` does not export it

from benchmarks.bare import parts
from hpc_dl.models.keras import keras

tf.config.threading.set_intra_op_parallelism_threads(parts.threads)
tf.config.threading.set_inter_op_parallelism_threads(parts.threads)
context.context().configure_coordination_service("")  # its heartbeats time out while the other program has its turn
ring = tf.distribute.experimental.CommunicationOptions(
    implementation=tf.distribute.experimental.CommunicationImplementation.RING
)
strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=ring)
with strategy.scope():
    model = parts.network()
    optimizer = keras.optimizers.legacy.SGD(parts.RATE, momentum=parts.MOMENTUM, nesterov=True)
iterator = iter(strategy.distribute_datasets_from_function(lambda _: parts.batches()))


def replica(images: Any, labels: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = parts.mean_loss(model(images, training=True), labels) / parts.workers
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(parts.decayed(gradients, model.trainable_variables))
    return loss


@tf.function  # type: ignore[untyped-decorator]
def step() -> Any:
    loss = strategy.run(replica, args=next(iterator))
    return optimizer.iterations.read_value(), loss


parts.run(lambda: step()[0])

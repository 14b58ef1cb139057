"""Mode ``horovod``: `DistributedOptimizer` in a plain session."""

from __future__ import annotations

import horovod.tensorflow as hvd
import tensorflow as tf

from benchmarks.bare import parts

tf1 = tf.compat.v1

hvd.init()
with tf.Graph().as_default():
    *outputs, start_input = parts.graph_step(hvd.DistributedOptimizer(parts.graph_optimizer()))
    broadcast = hvd.broadcast_global_variables(0)
    session = tf1.Session(config=parts.session_config())
    session.run([tf1.global_variables_initializer(), start_input])
    session.run(broadcast)
    parts.run(lambda: session.run(outputs)[0])

"""Mode ``sync``: TensorFlow's `SyncReplicasOptimizer` in a `MonitoredTrainingSession`."""

from __future__ import annotations

import tensorflow as tf

from benchmarks.bare import parts

tf1 = tf.compat.v1

server = tf1.train.Server(parts.cluster, parts.job, parts.index, config=parts.session_config())
if parts.job == "ps":
    server.join()
with tf.Graph().as_default():
    worker, is_chief = f"/job:worker/task:{parts.index}", parts.index == 0
    with tf1.device(tf1.train.replica_device_setter(cluster=parts.cluster, worker_device=worker)):
        optimizer = tf1.train.SyncReplicasOptimizer(parts.graph_optimizer(), parts.workers)
        *outputs, start_input = parts.graph_step(optimizer)
    tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, start_input)
    session = tf1.train.MonitoredTrainingSession(
        server.target,
        is_chief,
        hooks=[optimizer.make_session_run_hook(is_chief, num_tokens=0)],
        config=parts.session_config(device_filters=["/job:ps", worker]),
        log_step_count_steps=0,
    )
    parts.run(lambda: session.run(outputs)[0])

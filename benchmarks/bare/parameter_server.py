"""Modes ``async`` and ``mixed``: between-graph replication in a plain session."""

from __future__ import annotations

import time

import tensorflow as tf

from benchmarks.bare import parts

tf1 = tf.compat.v1

cpus = {"CPU": parts.options.towers}
server = tf1.train.Server(parts.cluster, parts.job, parts.index, config=parts.session_config(device_count=cpus))
if parts.job == "ps":
    server.join()
with tf.Graph().as_default():
    worker = f"/job:worker/task:{parts.index}"
    with tf1.device(tf1.train.replica_device_setter(cluster=parts.cluster, worker_device=worker)):
        *outputs, start_input = parts.graph_step(parts.graph_optimizer())
        init = tf1.global_variables_initializer()
        missing = tf1.report_uninitialized_variables()
    session = tf1.Session(server.target, config=parts.session_config(device_filters=["/job:ps", worker]))
    if parts.index == 0:
        session.run(init)
    while len(session.run(missing)):
        time.sleep(0.5)
    session.run(start_input)
    parts.run(lambda: session.run(outputs)[0])

"""Scripts as users have them: Horovod's and TensorFlow's own ways to train, with nothing of ours in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.submission.handle import Job

Submit = Callable[..., Job]

_MODEL = """
import json, os
import numpy as np
import tensorflow as tf

images = np.random.default_rng(0).random((64, 4), dtype=np.float32)
labels = images.argmax(axis=1)

def model():
    layers = [tf.keras.layers.Dense(8, activation="relu", input_shape=(4,)), tf.keras.layers.Dense(4)]
    return tf.keras.Sequential(layers)

def loss():
    return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

def dataset():
    return tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(16)

def report(**values):
    with open(os.path.join(os.environ["HPC_DL_RUN"], "result.json"), "w") as file:
        json.dump(values, file)
"""

# The names of Horovod's tensorflow2_keras_mnist.py.
_HOROVOD_FIT = """
import horovod.tensorflow.keras as hvd

hvd.init()
rate = 0.01 * hvd.size()
optimizer = hvd.DistributedOptimizer(
    tf.optimizers.Adam(rate), backward_passes_per_step=1, average_aggregated_gradients=True)
fitted = model()
fitted.compile(loss=loss(), optimizer=optimizer, metrics=["accuracy"], experimental_run_tf_function=False)
history = fitted.fit(dataset(), steps_per_epoch=4, epochs=2, verbose=0, callbacks=[
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    hvd.callbacks.MetricAverageCallback(),
    hvd.callbacks.LearningRateWarmupCallback(initial_lr=rate, warmup_epochs=1, verbose=1),
])
"""

# The names of Horovod's tensorflow2_mnist.py.
_HOROVOD_TAPE = """
import horovod.tensorflow as hvd

taped, optimizer = model(), tf.optimizers.Adam(0.01 * hvd.size())

@tf.function
def step(images, labels, first):
    with tf.GradientTape() as tape:
        value = loss()(labels, taped(images, training=True))
    tape = hvd.DistributedGradientTape(tape)
    gradients = tape.gradient(value, taped.trainable_variables)
    optimizer.apply_gradients(zip(gradients, taped.trainable_variables))
    if first:
        hvd.broadcast_variables(taped.variables, root_rank=0)
        hvd.broadcast_variables(optimizer.variables(), root_rank=0)
    return value

values = [float(step(*batch, number == 0)) for number, batch in enumerate(dataset().take(4))]
if hvd.rank() == 0:
    rates = [float(rate) for rate in history.history["lr"]]
    report(ranks=hvd.size(), epochs=len(history.history["loss"]), rates=rates, steps=len(values))
"""

_MULTIWORKER = """
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    fitted = model()
    fitted.compile(loss=loss(), optimizer=tf.keras.optimizers.SGD(0.1), metrics=["accuracy"])
history = fitted.fit(dataset(), epochs=2, steps_per_epoch=4, verbose=0)
if strategy.cluster_resolver.task_id == 0:
    report(replicas=strategy.num_replicas_in_sync, epochs=len(history.history["loss"]))
"""

# What TensorFlow's guide says of one program for all tasks.
_COORDINATOR = """
resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if resolver.task_type in ("worker", "ps"):
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc")
    server.join()

strategy = tf.distribute.ParameterServerStrategy(resolver)
with strategy.scope():
    fitted = model()
    fitted.compile(loss=loss(), optimizer=tf.keras.optimizers.legacy.SGD(0.1), steps_per_execution=2)
history = fitted.fit(dataset(), epochs=2, steps_per_epoch=4, verbose=0)

with strategy.scope():
    count = tf.Variable(0.0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
batches = iter(coordinator.create_per_worker_dataset(lambda: dataset()))

@tf.function
def step(iterator):
    def replica(batch):
        count.assign_add(1.0)
        return tf.reduce_mean(fitted(batch[0]))
    return strategy.run(replica, args=(next(iterator),))

for _ in range(8):
    coordinator.schedule(step, args=(batches,))
coordinator.join()
workers = len(resolver.cluster_spec().job_tasks("worker"))
report(workers=workers, epochs=len(history.history["loss"]), count=float(count))
"""

_WHICH_KERAS = """
import json, os, sys
import tensorflow as tf
with open(os.path.join(os.environ["HPC_DL_RUN"], "result.json"), "w") as file:
    json.dump({"keras": tf.keras.Model.__module__.partition(".")[0]}, file)
"""


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Submit]:
    """Return a function that submits a script to this machine; jobs that still run end with the test."""
    jobs: list[Job] = []

    def start(text: str, **settings: Any) -> Job:
        (tmp_path / "own.py").write_text(text)
        jobs.append(hpc_dl.submit(site="local", workdir=str(tmp_path), script="own.py", gpus=0, **settings))
        return jobs[-1]

    yield start
    for job in jobs:
        job.cancel()
        job.wait(timeout=100)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("horovod")
def test_horovods_optimizer_callbacks_and_tape_work_as_in_its_examples(submit: Submit) -> None:
    result = submit(_MODEL + _HOROVOD_FIT + _HOROVOD_TAPE, mode="horovod", nodes=2).result(timeout=230)
    assert (result["ranks"], result["epochs"], result["steps"]) == (2, 2, 4)
    assert result["rates"][0] == pytest.approx(0.02)  # what the warm-up ends with


@pytest.mark.timeout(240)
def test_a_multi_worker_mirrored_fit_works_as_in_tensorflows_guide(submit: Submit) -> None:
    result = submit(_MODEL + _MULTIWORKER, mode="multiworker", nodes=2).result(timeout=230)
    assert result == {"replicas": 2, "epochs": 2}


@pytest.mark.timeout(240)
def test_a_cluster_coordinator_works_with_a_core_for_each_process_and_its_job_ends(submit: Submit) -> None:
    job = submit(_MODEL + _COORDINATOR, mode="async", nodes=2, ps=2, chief=True)
    assert job.result(timeout=230) == {"workers": 2, "epochs": 2, "count": 8.0}


@pytest.mark.timeout(240)
def test_a_single_process_has_the_keras_of_tensorflow_and_others_the_one_that_they_can_train(submit: Submit) -> None:
    jobs = {
        "keras": submit(_WHICH_KERAS, mode="single"),
        "tf_keras": submit(_WHICH_KERAS, mode="multiworker"),
    }
    assert {name: job.result(timeout=110)["keras"] for name, job in jobs.items()} == {name: name for name in jobs}
    assert submit(_WHICH_KERAS, mode="multiworker", env={"TF_USE_LEGACY_KERAS": "0"}).result(timeout=110) == {
        "keras": "keras"
    }

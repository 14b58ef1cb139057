"""The graphs of training and evaluation. Names of variables are the same in every mode (see checkpoints/store.py)."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hpc_dl import models
from hpc_dl.data import describe
from hpc_dl.data.pipeline import test_batches, train_batches
from hpc_dl.errors import UserError
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.graph.towers import Step, compute, read_once
from hpc_dl.train.options import Options

tf1 = tf.compat.v1

Device = str | Callable[[Any], str] | None
Gradients = list[tuple[Any, Any]]  # (gradient, variable)
Apply = Callable[[Gradients, list[Any]], Any]
"""apply(gradients, updates) -> new global step. Applies the gradients, runs `updates`, then increments the step."""
Exchange = Callable[[Gradients, list[Any], Apply], Any]
"""exchange(gradients, updates, apply) -> global step. How a mode combines workers' gradients before it calls apply."""


@dataclass(frozen=True)
class TrainGraph:
    """The graph of one worker. Running `outputs` makes a step: global step after it, loss and accuracy of its batch."""

    outputs: tuple[Any, Any, Any]
    global_step: Any
    start_input: Any
    parameters: int


def at_once(gradients: Gradients, updates: list[Any], apply_gradients: Apply) -> Any:
    """Apply a worker's gradients as they are, without waiting for other workers."""
    return apply_gradients(gradients, updates)


def training(
    options: Options,
    workers: int = 1,
    index: int = 0,
    device: Device = None,
    exchange: Exchange = at_once,
    replicas: int = 1,
    own: Callable[[Any, Callable[[], Any]], Any] | None = None,
) -> TrainGraph:
    """Build the training graph of one worker in the current graph.

    Args:
        options: model, data, optimizer, towers.
        workers: number of workers that share the data.
        index: index of this worker.
        device: where operations go: a device name or function, as `tf.compat.v1.device` takes it.
        exchange: what to do with the gradients.
        replicas: number of batches in one global step, for the learning rate.
        own: own(shared, build) -> the network that this worker computes. `shared` has the shared variables; `build`
            makes another network. Without it the worker computes `shared`.
    """
    tf1.set_random_seed(options.seed)
    random.seed(options.seed)  # Keras draws the seeds of initialisers from here
    dataset = describe(options.data)
    with tf1.device(device):
        with tf1.device("/cpu:0"):
            seed = _order_seed(options)
            batches = train_batches(options.data, options.data_dir, options.worker_batch, seed, workers, index)
            iterator = tf1.data.make_initializable_iterator(batches)
            images, labels = iterator.get_next()
        global_step = tf1.train.get_or_create_global_step()

        def build() -> Any:
            with read_once(options.tower_count, images.device):
                return models.build(options.model, dataset.shape, dataset.classes)

        shared = build()
        model = own(shared, build) if own else shared
        with tf1.device(global_step.device):  # on the ps, where they are used: two messages fewer per step
            settings = rate(options, global_step, replicas), tf.constant(options.momentum)
        optimizer = tf1.train.MomentumOptimizer(*settings, use_nesterov=True)

        def tower(images: Any, labels: Any, towers: int) -> Step:
            logits, updates = apply(model, images)
            loss = tf.reduce_mean(cross_entropy(logits, labels))
            accuracy = tf.reduce_mean(tf.cast(correct(logits, labels), tf.float32))
            scaled = loss / towers if towers > 1 else loss
            return Step(optimizer.compute_gradients(scaled, model.trainable_variables), updates, scaled, accuracy)

        def apply_gradients(gradients: Gradients, updates: list[Any]) -> Any:
            trained = optimizer.apply_gradients(decayed(gradients, options.weight_decay))
            with tf.control_dependencies([trained, *updates]):
                counted = tf1.assign_add(global_step, options.n_push)
            with tf.control_dependencies([counted]):
                return tf.identity(counted)

        done = compute(tower, images, labels, options.tower_count)
        step = exchange(done.gradients, done.updates, apply_gradients)
    return TrainGraph((step, done.loss, done.accuracy), global_step, iterator.initializer, count(model))


@dataclass(frozen=True)
class TestGraph:
    """Running `outputs` evaluates the next batch: sum of losses, confusion matrix [true class, predicted class]."""

    outputs: tuple[Any, Any]
    start_input: Any


def testing(options: Options) -> TestGraph:
    """Build the evaluation graph in the current graph: the network in inference mode, each test image once."""
    dataset = describe(options.data)
    with tf1.device("/cpu:0"):
        iterator = tf1.data.make_initializable_iterator(test_batches(options.data, options.data_dir, options.batch))
        images, labels = iterator.get_next()
    tf1.train.get_or_create_global_step()
    logits = models.build(options.model, dataset.shape, dataset.classes)(images, training=False)
    losses = tf.reduce_sum(cross_entropy(logits, labels))
    confusion = tf.math.confusion_matrix(labels, tf.argmax(logits, axis=-1), dataset.classes)
    return TestGraph((losses, confusion), iterator.initializer)


def apply(model: Any, images: Any) -> tuple[Any, list[Any]]:
    """Return the model's logits in training, and the operations that update its batch norm averages.

    Raises:
        UserError: the model has regularisers of its own, which would be ignored.
    """
    if model.losses:
        raise UserError(f"model {model.name!r} has regularisers of its own: leave them out and use --weight-decay")
    # A functional model was called before, on its placeholders. The updates of that call are not ours.
    before = {id(update) for update in model.updates}
    logits = model(images, training=True)
    return logits, [update for update in model.updates if id(update) not in before]


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the loss of each image [batch]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def correct(logits: Any, labels: Any) -> Any:
    """Return whether each image [batch] is classified right."""
    return tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)


def rate(options: Options, global_step: Any, replicas: int = 1) -> Any:
    """Return the learning rate. It is divided by 10 at each boundary.

    With `scale_lr` it is multiplied by `replicas`; the factor grows linearly from 1 during `warmup_steps` (P. Goyal et
    al., "Accurate, large minibatch SGD", 2017, 2.2).
    """
    if replicas > 1 and options.scale_lr:
        steps = tf.cast(global_step, tf.float32)
        share = tf.minimum(1.0, (steps + 1) / options.warmup_steps) if options.warmup_steps else 1.0
        return (1 + (replicas - 1) * share) * rate(options, global_step)
    if not options.lr_boundaries:
        return tf.constant(options.initial_rate)
    values = [options.initial_rate / 10**n for n in range(len(options.lr_boundaries) + 1)]
    passed = global_step >= tf.constant(options.lr_boundaries, tf.int64)
    return tf.gather(values, tf.math.count_nonzero(passed))


def decayed(gradients: Gradients, weight_decay: float) -> Gradients:
    """Add the gradient of L2 weight decay on kernels, on each variable's device: on the ps it costs no traffic."""
    return [(_decay(gradient, variable, weight_decay), variable) for gradient, variable in gradients]


def _decay(gradient: Any, variable: Any, weight_decay: float) -> Any:
    if not weight_decay or "kernel" not in variable.name.rpartition("/")[2]:
        return gradient
    with tf1.device(variable.device):
        return gradient + weight_decay * read(variable)


def read(variable: Any) -> Any:
    """Return a variable's value on its own device, not the cached value of a worker."""
    with tf1.device(variable.device):
        return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def count(model: Any) -> int:
    """Return the number of trained parameters."""
    return sum(int(variable.shape.num_elements()) for variable in model.trainable_variables)


def _order_seed(options: Options) -> int:
    """Return the seed of the images' order and augmentation. Each attempt, and each run to start from, has another one.

    With one seed, a job that is requeued again and again would train only on the first images of its order.
    """
    start = f"{Attempt(options.run_dir).number} {options.start_from or ''}"
    return options.seed if start == "0 " else zlib.crc32(f"{options.seed} {start}".encode()) >> 1

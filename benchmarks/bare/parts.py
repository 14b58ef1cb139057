"""What the bare programs share: network, input, optimizer and output. Each program has its own step."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from hpc_dl import models
from hpc_dl.data import describe
from hpc_dl.data.pipeline import train_batches

tf1 = tf.compat.v1

_parser = argparse.ArgumentParser()
_parser.add_argument("--model", required=True)
_parser.add_argument("--data-dir", required=True, type=Path)
_parser.add_argument("--batch", required=True, type=int)
_parser.add_argument("--towers", required=True, type=int)
_parser.add_argument("--log-every", required=True, type=int)
options = _parser.parse_args()

_config = json.loads(os.environ["TF_CONFIG"])
cluster: dict[str, list[str]] = _config["cluster"]
job: str = _config["task"]["type"]
index: int = _config["task"]["index"]
workers = len(cluster["worker"])
threads = int(os.environ["TF_NUM_INTRAOP_THREADS"])

RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4


def session_config(**settings: Any) -> Any:
    return tf1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads, **settings)


def batches() -> Any:
    """Return this worker's endless batches of images and labels."""
    return train_batches("digits", options.data_dir, options.batch * options.towers, 0, workers, index)


def network() -> Any:
    dataset = describe("digits")
    return models.build(options.model, dataset.shape, dataset.classes)


def mean_loss(logits: Any, labels: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def decayed(gradients: list[Any], variables: list[Any]) -> list[Any]:
    """Return pairs of gradient, with weight decay on kernels, and variable."""
    return [
        (gradient + DECAY * variable if "kernel" in variable.name else gradient, variable)
        for gradient, variable in zip(gradients, variables, strict=True)
    ]


def graph_optimizer() -> Any:
    return tf1.train.MomentumOptimizer(RATE, MOMENTUM, use_nesterov=True)


def graph_step(optimizer: Any) -> tuple[Any, Any, Any]:
    """Build one worker's step in a graph. Return the global step after it, its loss, and what starts the input."""
    with tf1.device("/cpu:0"):
        iterator = tf1.data.make_initializable_iterator(batches())
        images, labels = iterator.get_next()
    global_step = tf1.train.get_or_create_global_step()
    towers = options.towers
    losses, gradients, updates = [], [], []
    # Without the cache, each tower would fetch the variables.
    with tf1.variable_creator_scope(lambda make, **how: make(**{**how, "caching_device": images.device})):
        model = network()
    for tower, part in enumerate(zip(tf.split(images, towers), tf.split(labels, towers), strict=True)):
        with tf1.device(f"/device:CPU:{tower}"):
            others = {id(update) for update in model.updates}  # such as the updates of the model's placeholder
            losses.append(mean_loss(model(part[0], training=True), part[1]) / towers)
            updates.append([update for update in model.updates if id(update) not in others])
            gradients.append([g for g, _ in optimizer.compute_gradients(losses[-1], model.trainable_variables)])
    sums = [tf.add_n(of_one) for of_one in zip(*gradients, strict=True)]
    with tf1.control_dependencies(updates[0]):
        train = optimizer.apply_gradients(decayed(sums, model.trainable_variables), global_step)
    with tf1.control_dependencies([train]):
        return tf.identity(global_step.read_value()), tf.add_n(losses), iterator.initializer


def run(step: Callable[[], Any]) -> None:
    """Make steps until this process is killed. `step` returns the global step; worker 0 prints some of them."""
    made = 0
    while True:
        number = step()
        made += 1
        if made % options.log_every == 0 and index == 0:
            print(json.dumps({"step": int(number), "time": time.time()}), flush=True)

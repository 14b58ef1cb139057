"""Towers: the copies of a network that one worker computes, each on its own GPU and its own part of the batch.

Algorithm 1 of "Image Recognition with Deep Learning Techniques and TensorFlow" (UPC/BSC, 2016): the loss of each of
n towers is scaled by 1/n and their gradients are added up. So a worker sends the gradient of one large batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hpc_dl.errors import UserError

tf1 = tf.compat.v1


@dataclass(frozen=True)
class Step:
    """What a tower computes on its part of the batch, or all towers together on the whole batch."""

    gradients: list[tuple[Any, Any]]
    """(gradient of the loss, variable)."""
    updates: list[Any]
    """Updates of batch norm averages."""
    loss: Any
    accuracy: Any


def devices(towers: int) -> list[str]:
    """Return the device of each tower: GPUs where there are some, else logical CPU devices (see session.config).

    Raises:
        UserError: there are fewer GPUs than towers.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < towers:
        raise UserError(f"--towers: {towers} is not allowed; this process has {gpus} GPUs")
    return [f"/device:{'GPU' if gpus else 'CPU'}:{tower}" for tower in range(towers)]


def read_once(towers: int, device: str) -> Any:
    """Return a scope whose variables are read once per step, into a cache on `device` for all towers of a worker."""

    def make(next_creator: Any, **settings: Any) -> Any:
        return next_creator(**{**settings, "caching_device": device})

    return tf1.variable_creator_scope(make) if towers > 1 else contextlib.nullcontext()


def compute(one: Callable[[Any, Any, int], Step], images: Any, labels: Any, towers: int) -> Step:
    """Split a batch among the towers and average what they compute.

    Args:
        one: builds a tower from its images, its labels and the number of towers, by which it divides its loss.
        images: [towers * batch, height, width, channels].
        labels: [towers * batch].
        towers: number of towers.

    Returns:
        Gradients, loss and accuracy of the whole batch, and the first tower's updates of batch norm averages.
    """
    if towers == 1:
        return one(images, labels, 1)
    steps = []
    parts = zip(devices(towers), tf.split(images, towers), tf.split(labels, towers), strict=True)
    for device, own_images, own_labels in parts:
        with tf1.device(device):
            steps.append(one(own_images, own_labels, towers))
    variables = [variable for _, variable in steps[0].gradients]
    sums = [tf.add_n(of_one) for of_one in zip(*([g for g, _ in step.gradients] for step in steps), strict=True)]
    return Step(
        list(zip(sums, variables, strict=True)),
        steps[0].updates,
        tf.add_n([step.loss for step in steps]),
        tf.add_n([step.accuracy for step in steps]) / towers,
    )

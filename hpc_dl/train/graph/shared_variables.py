"""Variables that all workers share through a parameter server and that are not part of a checkpoint."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

tf1 = tf.compat.v1

_COLLECTION = "hpc_dl/shared"


def shared_variable(name: str, value: Any) -> Any:
    """Return a new shared variable on the device of the current scope. The chief initialises it."""
    return tf1.get_variable(name, initializer=value, trainable=False, collections=[_COLLECTION])


def shared_variables() -> list[Any]:
    """Return all shared variables of the current graph."""
    variables: list[Any] = tf1.get_collection(_COLLECTION)
    return variables

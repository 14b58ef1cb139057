"""The Keras of all networks: Keras 2, whose layers work in the graphs of between-graph replication."""

from __future__ import annotations

from typing import Any

from hpc_dl.errors import UserError


def load() -> Any:
    """Return the `tf_keras` package where it is installed, else `tf.keras` (the same up to TensorFlow 2.15).

    Raises:
        UserError: only Keras 3 is there.
    """
    try:
        import tf_keras
    except ModuleNotFoundError:
        from tensorflow import keras

        if not keras.__version__.startswith("2."):
            raise UserError(f"Keras {keras.__version__} can't build graphs: install the package tf-keras") from None
        return keras
    return tf_keras


keras: Any = load()

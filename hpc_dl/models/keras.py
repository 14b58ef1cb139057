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

        version = getattr(keras, "__version__", "2")  # TensorFlow 2.13 to 2.15 do not say it
        if not version.startswith("2"):
            raise UserError(f"Keras {version} can't build graphs: install the package tf-keras") from None
        return keras
    return tf_keras


keras: Any = load()

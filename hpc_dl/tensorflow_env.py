"""What TensorFlow reads from the environment when it is imported."""

from __future__ import annotations

import importlib.util
import os


def before_import() -> None:
    """Set it; what the user has set stays. To be called before TensorFlow is imported for the first time."""
    # No log lines that only its authors can use.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # tf.keras is the Keras 2 that our graphs need, and the import of Keras 3 is spared, a quarter of TensorFlow's.
    for key, value in legacy_keras().items():
        os.environ.setdefault(key, value)


def legacy_keras() -> dict[str, str]:
    """Return the variable that makes tf.keras Keras 2; nothing where that is not installed, or TensorFlow has it."""
    return {"TF_USE_LEGACY_KERAS": "1"} if importlib.util.find_spec("tf_keras") else {}

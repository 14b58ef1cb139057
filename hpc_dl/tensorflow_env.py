"""Environment variables that TensorFlow reads when it is imported."""

from __future__ import annotations

import importlib.util
import os


def before_import() -> None:
    """Set these variables where the user has not. Call this before TensorFlow is imported for the first time."""
    # Hide log lines that are of use to TensorFlow's authors only.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # Our graphs need Keras 2 as tf.keras. Without Keras 3 the import also takes a quarter less time.
    for key, value in legacy_keras().items():
        os.environ.setdefault(key, value)


def legacy_keras() -> dict[str, str]:
    """Return the variable that makes tf.keras Keras 2; empty if the package tf_keras is not installed."""
    return {"TF_USE_LEGACY_KERAS": "1"} if importlib.util.find_spec("tf_keras") else {}

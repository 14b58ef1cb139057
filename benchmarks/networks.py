"""Networks for measuring communication: many parameters, little arithmetic."""

from __future__ import annotations

from typing import Any

from hpc_dl.models.keras import keras


def fat(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return one hidden layer of 4,096 units: 12.6 million parameters for 32x32x3 images, 50 MB."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.InputLayer(input_shape),
            layers.Flatten(name="flat"),
            layers.Dense(4096, activation="relu", kernel_initializer="he_normal", name="hidden"),
            layers.Dense(classes, name="logits"),
        ],
        name="fat",
    )

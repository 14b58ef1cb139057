"""A network small enough for tests: it learns digits on one CPU core in seconds."""

from __future__ import annotations

from typing import Any

from hpc_dl.models.keras import keras
from hpc_dl.models.resnet import conv_bn


def small(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Three strided 3x3 convolutions with batch norm, one dense layer: 34 thousand parameters."""
    images = keras.Input(input_shape, name="images")
    features = images
    for number, width in enumerate((16, 32, 64), start=1):
        features = conv_bn(features, width, 3, 2, f"conv{number}")
        features = keras.layers.ReLU(name=f"conv{number}_relu")(features)
    features = keras.layers.Flatten(name="flat")(features)
    return keras.Model(images, keras.layers.Dense(classes, name="fc")(features), name="small")

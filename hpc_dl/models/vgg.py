"""VGG: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014."""

from __future__ import annotations

from typing import Any

from hpc_dl.models.keras import keras

layers: Any = keras.layers

_HIDDEN = 4096  # width of the two hidden dense layers
_DROPOUT = 0.5


def conv(inputs: Any, width: int, size: int, name: str, stride: int = 1) -> Any:
    """Convolution with bias and ReLU. Without He initialisation networks this deep don't start to learn."""
    return layers.Conv2D(width, size, stride, "same", activation="relu", kernel_initializer="he_normal", name=name)(
        inputs
    )


def classifier(features: Any, classes: int) -> Any:
    """Two hidden dense layers with dropout, then logits [batch, classes]. They have most of the parameters."""
    features = layers.Flatten(name="flat")(features)
    for name in ("fc1", "fc2"):
        features = layers.Dense(_HIDDEN, activation="relu", kernel_initializer="he_normal", name=name)(features)
        features = layers.Dropout(_DROPOUT, name=f"{name}_dropout")(features)
    return layers.Dense(classes, name="fc3")(features)


def vgg(input_shape: tuple[int, int, int], classes: int, convolutions: tuple[int, ...]) -> Any:
    """VGG, with the number of 3x3 convolutions in each of its five stages: 2, 2, 3, 3, 3 is configuration D, VGG16.

    It has 138 million parameters (VGG19: 144) for 224x224x3 and 1000 classes, most of them in the first dense layer.
    """
    images = keras.Input(input_shape, name="images")
    features = images
    for stage, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            features = conv(features, width, 3, f"stage{stage}_conv{number}")
        features = layers.MaxPooling2D(2, 2, name=f"stage{stage}_pool")(features)
    return keras.Model(images, classifier(features, classes), name=f"vgg{sum(convolutions) + 3}")

"""AlexNet with one tower: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014."""

from __future__ import annotations

from typing import Any

from hpc_dl.models.keras import keras
from hpc_dl.models.vgg import classifier, conv

_SMALL = 64  # pixels; in smaller images a first stride of 4 would leave nothing for the pools


def alexnet(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Five convolutions, two hidden dense layers: 61.1 million parameters for 224x224x3 and 1000 classes.

    Images below 64 pixels keep their resolution in the first convolution, whose stride is then 1 instead of 4.
    """

    def pool(features: Any, name: str) -> Any:
        return keras.layers.MaxPooling2D(3, 2, name=name)(features)

    images = keras.Input(input_shape, name="images")
    features = conv(images, 64, 11, "conv1", stride=1 if min(input_shape[:2]) < _SMALL else 4)
    features = conv(pool(features, "pool1"), 192, 5, "conv2")
    features = conv(pool(features, "pool2"), 384, 3, "conv3")
    features = conv(features, 256, 3, "conv4")
    features = pool(conv(features, 256, 3, "conv5"), "pool5")
    return keras.Model(images, classifier(features, classes), name="alexnet")

"""ResNets for 32x32 images and for ImageNet.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015: section 4.2 (basic blocks,
6n+2 layers), figure 5 (bottleneck blocks, here 9n+2 layers) and table 1 (ImageNet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpc_dl.models.keras import keras

layers: Any = keras.layers


def pad_shortcut(inputs: Any, width: int, stride: int, name: str) -> Any:
    """Shortcut without parameters (the paper's option A): take every `stride`-th pixel, pad the channels with zeros."""
    missing = width - inputs.shape[-1]
    picked = layers.AveragePooling2D(1, stride, name=f"{name}_pick")(inputs)
    # A channels_first layer pads the last axis, which it takes for the columns: our channels.
    sides = ((0, 0), (missing // 2, missing - missing // 2))
    return layers.ZeroPadding2D(sides, data_format="channels_first", name=f"{name}_pad")(picked)


def conv_bn(inputs: Any, width: int, size: int, stride: int, name: str) -> Any:
    """Convolution without bias (batch norm has one), He initialisation, then batch norm."""
    conv = layers.Conv2D(
        width, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(conv(inputs))


def _basic_block(inputs: Any, width: int, stride: int, name: str) -> Any:
    residual = layers.ReLU(name=f"{name}a_relu")(conv_bn(inputs, width, 3, stride, f"{name}a"))
    residual = conv_bn(residual, width, 3, 1, f"{name}b")
    changed = stride != 1 or inputs.shape[-1] != width
    shortcut = pad_shortcut(inputs, width, stride, f"{name}_shortcut") if changed else inputs
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([residual, shortcut]))


def _bottleneck_block(inputs: Any, width: int, stride: int, name: str) -> Any:
    residual = layers.ReLU(name=f"{name}a_relu")(conv_bn(inputs, width, 1, stride, f"{name}a"))
    residual = layers.ReLU(name=f"{name}b_relu")(conv_bn(residual, width, 3, 1, f"{name}b"))
    residual = conv_bn(residual, 4 * width, 1, 1, f"{name}c")
    changed = stride != 1 or inputs.shape[-1] != 4 * width
    shortcut = conv_bn(inputs, 4 * width, 1, stride, f"{name}_shortcut") if changed else inputs
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([residual, shortcut]))


def _resnet(
    block: Callable[[Any, int, int, str], Any], n: int, input_shape: tuple[int, int, int], classes: int, name: str
) -> Any:
    images = keras.Input(input_shape, name="images")
    features = layers.ReLU(name="conv1_relu")(conv_bn(images, 16, 3, 1, "conv1"))
    for stage, width in enumerate((16, 32, 64), start=1):
        for index in range(n):
            stride = 2 if stage > 1 and index == 0 else 1
            features = block(features, width, stride, f"stage{stage}_block{index + 1}")
    features = layers.GlobalAveragePooling2D(name="pool")(features)
    logits = layers.Dense(classes, kernel_initializer="he_normal", name="fc")(features)
    return keras.Model(images, logits, name=name)


def basic(input_shape: tuple[int, int, int], classes: int, n: int) -> Any:
    """ResNet of 6n+2 layers: 3x3 convolutions of 16, 32, 64 channels, n blocks of two each, option A shortcuts."""
    return _resnet(_basic_block, n, input_shape, classes, f"resnet{6 * n + 2}")


def bottleneck(input_shape: tuple[int, int, int], classes: int, n: int) -> Any:
    """ResNet of 9n+2 layers: n blocks of [1x1 w, 3x3 w, 1x1 4w] for w = 16, 32, 64, projection shortcuts."""
    return _resnet(_bottleneck_block, n, input_shape, classes, f"resnet{9 * n + 2}")


def imagenet(input_shape: tuple[int, int, int], classes: int, blocks: tuple[int, ...]) -> Any:
    """ResNet of table 1, with the number of bottleneck blocks in each stage: 3, 4, 6, 3 is ResNet-50.

    It has 25.6 million parameters (ResNet-152: 60.2) for 1000 classes, whatever the size of the images. An image of
    32x32 has one pixel left in the last stage.
    """
    images = keras.Input(input_shape, name="images")
    features = layers.ReLU(name="conv1_relu")(conv_bn(images, 64, 7, 2, "conv1"))
    features = layers.MaxPooling2D(3, 2, "same", name="conv1_pool")(features)
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            features = _bottleneck_block(features, width, stride, f"stage{stage}_block{index + 1}")
    features = layers.GlobalAveragePooling2D(name="pool")(features)
    logits = layers.Dense(classes, kernel_initializer="he_normal", name="fc")(features)
    return keras.Model(images, logits, name=f"resnet{3 * sum(blocks) + 2}")

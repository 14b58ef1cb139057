"""The networks by name. Importing this module does not import TensorFlow: names are checked on login nodes."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any

from hpc_dl.errors import UserError, allowed, near_match


@dataclass(frozen=True)
class Model:
    """A network: its description, and the function that builds it."""

    description: str
    builder: str  # "module:function", imported when the network is built
    # For images of 32x32x3 and 10 classes; 0: unknown.
    parameters: int = 0  # trained parameters
    activations: int = 0  # output values of all layers together for an image
    settings: dict[str, Any] = field(default_factory=dict)


_BASIC = "hpc_dl.models.resnet:basic"
_BOTTLENECK = "hpc_dl.models.resnet:bottleneck"
_IMAGENET = "hpc_dl.models.resnet:imagenet"
_ALEXNET = "hpc_dl.models.alexnet:alexnet"
_VGG = "hpc_dl.models.vgg:vgg"

MODELS: dict[str, Model] = {
    "small": Model("three convolutions with batch norm, for tests", "hpc_dl.models.small:small", 33_946, 22_538),
    "resnet8": Model("CIFAR ResNet, basic blocks, n = 1", _BASIC, 75_290, 268_362, {"n": 1}),
    "resnet20": Model("CIFAR ResNet, basic blocks, n = 3", _BASIC, 269_722, 669_770, {"n": 3}),
    "resnet56": Model("CIFAR ResNet, basic blocks, n = 9", _BASIC, 853_018, 1_873_994, {"n": 9}),
    "resnet83": Model("CIFAR ResNet, bottleneck blocks, n = 9", _BOTTLENECK, 869_530, 5_955_850, {"n": 9}),
    "alexnet": Model("AlexNet, one tower", _ALEXNET, 28_733_258, 197_450),
    "vgg16": Model("VGG, configuration D", _VGG, 33_638_218, 324_618, {"convolutions": (2, 2, 3, 3, 3)}),
    "vgg19": Model("VGG, configuration E", _VGG, 38_947_914, 351_242, {"convolutions": (2, 2, 4, 4, 4)}),
    "resnet50": Model("ImageNet ResNet", _IMAGENET, 23_528_522, 736_266, {"blocks": (3, 4, 6, 3)}),
    "resnet152": Model("ImageNet ResNet", _IMAGENET, 58_164_298, 1_592_330, {"blocks": (3, 8, 36, 3)}),
}

_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check(name: str) -> str:
    """Return `name` if it is a known network or looks like ``package.module:function``.

    Raises:
        UserError: it is neither. The message lists the known names and the nearest one.
    """
    if name not in MODELS and not _OWN.fullmatch(name):
        raise UserError(
            f"unknown model {name!r}{near_match(name, MODELS)}: "
            f"allowed are {allowed(MODELS)} or your own as 'package.module:function'"
        )
    return name


def build(name: str, input_shape: tuple[int, int, int], classes: int) -> Any:
    """Build a network in the current TensorFlow graph (or eagerly, if there is none).

    Args:
        name: a key of `MODELS` or the user's own ``package.module:function``; the function takes
            (input_shape, classes) and returns a Keras model, not compiled, whose output is logits.
        input_shape: height, width, channels.
        classes: number of classes, the last dimension of the output.

    Returns:
        A Keras model from float32 images [batch, height, width, channels] to float32 logits [batch, classes].

    Raises:
        UserError: the user's function can't be imported, or it did not return such a model.
    """
    known = MODELS.get(check(name), Model("the user's own", name))
    module, function = known.builder.split(":")
    try:
        builder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model {name!r} can't be imported: {error}") from error
    if not callable(builder):
        raise UserError(f"model {name!r} is a {type(builder).__name__}, not a function (input_shape, classes) -> model")
    model = builder(input_shape, classes, **known.settings)
    shape = tuple(getattr(model, "output_shape", None) or ())
    if shape != (None, classes):
        found = f"output of shape {shape}" if shape else f"a {type(model).__name__}"
        raise UserError(f"model {name!r} returned {found}; it must be a Keras model with output (None, {classes})")
    return model

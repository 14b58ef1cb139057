"""The networks by name."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hpc_dl import models
from hpc_dl.errors import UserError
from hpc_dl.models import keras
from hpc_dl.train.options import Options


def trained_parameters(model: Any) -> int:
    return sum(int(variable.shape.num_elements()) for variable in model.trainable_variables)


def bottleneck_parameters(n: int) -> int:
    """Count by hand what section 4.1 of the paper describes, with projections where the shape changes."""

    def conv_bn(size: int, inputs: int, outputs: int) -> int:
        return size * size * inputs * outputs + 2 * outputs

    total, channels = conv_bn(3, 3, 16), 16
    for width in (16, 32, 64):
        for block in range(n):
            total += conv_bn(1, channels, width) + conv_bn(3, width, width) + conv_bn(1, width, 4 * width)
            total += 0 if block else conv_bn(1, channels, 4 * width)
            channels = 4 * width
    return total + channels * 10 + 10


@pytest.mark.parametrize(
    ("name", "parameters", "layers"),
    # He et al. 2015, table 6: ResNet-20 0.27 M, ResNet-56 0.85 M.
    [("resnet20", 269_722, 20), ("resnet56", 853_018, 56), ("resnet83", bottleneck_parameters(9), 83)],
)
def test_parameters_and_layers_are_those_of_the_paper(name: str, parameters: int, layers: int) -> None:
    model = models.build(name, (32, 32, 3), 10)
    assert trained_parameters(model) == parameters
    counted = [layer for layer in model.layers if type(layer).__name__ in {"Conv2D", "Dense"}]
    assert len([layer for layer in counted if "shortcut" not in layer.name]) == layers
    assert model.output_shape == (None, 10)


def parameters_of(name: str, input_shape: tuple[int, int, int], classes: int) -> int:
    with tf.Graph().as_default():  # symbolic: no memory for hundreds of megabytes
        return trained_parameters(models.build(name, input_shape, classes))


@pytest.mark.parametrize(
    ("name", "parameters", "megabytes"),
    # As torchvision documents them, which are those of the papers; megabytes (of 2**20) from "Comparison of Distributed
    # Training Architecture for CNNs in Cloud" (UIUC, 2019). Keras' own ResNets have biases before batch norm, which
    # cancels them: 25,583,592 and 60,268,520 trained ones.
    [
        ("alexnet", 61_100_840, 233),
        ("vgg16", 138_357_544, 528),
        ("vgg19", 143_667_240, 548),
        ("resnet50", 25_557_032, 98),
        ("resnet152", 60_192_808, 230),
    ],
)
def test_imagenet_parameters_are_the_published_ones(name: str, parameters: int, megabytes: float) -> None:
    assert parameters_of(name, (224, 224, 3), 1000) == parameters
    assert parameters * 4 / 2**20 == pytest.approx(megabytes, rel=0.02)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_table_knows_the_sizes_for_cifar(name: str) -> None:
    with tf.Graph().as_default():
        model = models.build(name, (32, 32, 3), 10)
        outputs = sum(math.prod(layer.output_shape[1:]) for layer in model.layers[1:])
        assert (trained_parameters(model), outputs) == (models.MODELS[name].parameters, models.MODELS[name].activations)


@pytest.mark.parametrize("name", ["alexnet", "resnet50"])
def test_a_large_network_makes_steps(name: str) -> None:
    from hpc_dl.train import session
    from hpc_dl.train.graph import training

    with tf.Graph().as_default():
        options = Options(run_dir=Path("run"), steps=2, model=name, data="synthetic", batch=2, learning_rate=1e-4)
        built = training.training(options)
        local = session.start()
        local.run([tf.compat.v1.global_variables_initializer(), built.start_input])
        step, loss, _ = [local.run(built.outputs) for _ in range(2)][-1]
        local.close()
    assert step == 2
    assert np.isfinite(loss)


def test_variable_names_are_the_same_in_every_build() -> None:
    names = [[variable.name for variable in models.build("resnet8", (32, 32, 3), 10).variables] for _ in range(2)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])


def test_unknown_names_get_the_near_match() -> None:
    with pytest.raises(
        UserError, match=r"unknown model 'resnet65' \(did you mean 'resnet56'\?\): .*package\.module:function"
    ):
        models.build("resnet65", (32, 32, 3), 10)


def test_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from hpc_dl.models.keras import keras\n"
        "def linear(shape, classes):\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])\n"
        "def wrong(shape, classes):\n"
        "    return linear(shape, classes + 1)\n"
        "def none(shape, classes):\n"
        "    return None\n"
    )
    assert trained_parameters(models.build("mine:linear", (32, 32, 3), 10)) == 32 * 32 * 3 * 10 + 10
    with pytest.raises(UserError, match=r"'mine:wrong' returned output of shape \(None, 11\); .*\(None, 10\)"):
        models.build("mine:wrong", (32, 32, 3), 10)
    with pytest.raises(UserError, match="'mine:none' returned a NoneType"):
        models.build("mine:none", (32, 32, 3), 10)
    with pytest.raises(UserError, match="'os:path' is a module, not a function"):
        models.build("os:path", (32, 32, 3), 10)
    for name in ("mine:absent", "absent:linear"):
        with pytest.raises(UserError, match=f"model '{name}' can't be imported: .*absent"):
            models.build(name, (32, 32, 3), 10)


@pytest.mark.parametrize(("version", "right"), [(None, True), ("2.10.0", True), ("3.0.5", False)])
def test_tf_keras_counts_as_keras_2_unless_it_says_otherwise(
    version: str | None, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.SimpleNamespace() if version is None else types.SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(keras=fake))
    if right:
        assert keras.load() is fake
    else:
        with pytest.raises(UserError, match="install the package tf-keras"):
            keras.load()

"""The training graph: what lies where, which names variables have, how the learning rate falls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.train import session
from hpc_dl.train.graph import towers, training, variable_devices
from hpc_dl.train.modes.multiworker import buckets
from hpc_dl.train.options import Options
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


def build(ps: int, **settings: Any) -> list[Any]:
    """Build worker 1's graph and return all variables."""
    cluster = Cluster(tuple(f"a:{port}" for port in range(ps)), ("b:1", "b:2"), "worker", 1)
    with tf.Graph().as_default():
        options = Options(run_dir=Path("run"), steps=10, model="resnet8", data="synthetic", batch=4, **settings)
        training.training(options, 2, 1, variable_devices.device(cluster) if ps else None)
        variables: list[Any] = tf1.global_variables()
        return variables


def test_each_start_from_a_checkpoint_has_an_order_of_its_own(tmp_path: Path) -> None:
    first = Options(run_dir=tmp_path, steps=10, seed=7)
    assert training._order_seed(first) == 7
    resumed = training._order_seed(Options(run_dir=tmp_path, steps=10, seed=7, start_from="earlier"))
    (tmp_path / "attempt").write_text("1")
    again = training._order_seed(first)
    assert len({7, resumed, again}) == 3
    assert again == training._order_seed(first)


def test_variables_have_the_agreed_names() -> None:
    names = [variable.name.removesuffix(":0") for variable in build(0)]
    slots = {name for name in names if name.endswith("/Momentum")}
    trained = {name for name in names if re.search(r"/(kernel|bias|gamma|beta)$", name)}
    assert slots == {f"{name}/Momentum" for name in trained}
    averages = {name for name in names if name.endswith(("/moving_mean", "/moving_variance"))}
    assert set(names) == slots | trained | averages | {"global_step"}
    assert "conv1_conv/kernel" in trained


@pytest.mark.parametrize("ps", [1, 2, 5])
def test_variables_are_spread_over_the_parameter_servers_by_size(ps: int) -> None:
    variables = build(ps)
    load = dict.fromkeys(range(ps), 0)
    for variable in variables:
        match = re.fullmatch(r"/job:ps/task:(\d+)", variable.device)
        assert match, (variable.name, variable.device)
        load[int(match[1])] += variable.shape.num_elements()
    largest = max(variable.shape.num_elements() for variable in variables)
    assert max(load.values()) - min(load.values()) <= 2 * largest  # each kernel has its momentum beside it


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (10**6, 0.001)]
)
def test_learning_rate_is_divided_by_10_at_each_boundary(step: int, expected: float) -> None:
    options = Options(run_dir=Path("run"), steps=10, learning_rate=0.1, lr_boundaries=(32_000, 48_000))
    rate = training.rate(options, tf.constant(step, tf.int64))
    assert float(rate) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "settings", "expected"),
    [
        (0, {}, 0.1 * (1 + 3 / 100)),
        (49, {}, 0.1 * (1 + 3 / 2)),
        (100, {}, 0.4),
        (32_000, {"lr_boundaries": (32_000, 48_000)}, 0.04),
        (0, {"warmup_steps": 0}, 0.4),
        (100, {"scale_lr": False}, 0.1),
    ],
)
def test_learning_rate_grows_to_that_of_all_workers(step: int, settings: dict[str, Any], expected: float) -> None:
    options = Options(run_dir=Path("run"), steps=10, mode="multiworker", learning_rate=0.1, **settings)
    rate = training.rate(options, tf.constant(step, tf.int64), 4)
    assert float(rate) == pytest.approx(expected)


def test_gradients_are_exchanged_as_a_whole_and_in_their_order() -> None:
    seen: list[Any] = []

    def exchange(gradients: training.Gradients, updates: list[Any], apply_gradients: training.Apply) -> Any:
        seen.extend(gradient for gradient, _ in gradients)
        return apply_gradients(gradients, updates)

    with tf.Graph().as_default():
        options = Options(run_dir=Path("run"), steps=10, model="resnet8", data="synthetic", batch=4)
        training.training(options, 2, 1, exchange=exchange)
        assert [gradient.shape for gradient in seen] == [variable.shape for variable in tf1.trainable_variables()]


def test_small_gradients_share_a_piece_and_a_large_one_is_alone() -> None:
    tensors = [tf.zeros([size]) for size in (1, 2, 100, 3, 4, 5)]
    sizes = [[int(tensor.shape[0]) for tensor in bucket] for bucket in buckets(tensors, 4 * 8)]
    assert sizes == [[1, 2], [100], [3, 4], [5]]


def test_weight_decay_is_on_kernels_only() -> None:
    kernel, bias = tf.Variable([2.0], name="fc/kernel"), tf.Variable([2.0], name="fc/bias")
    gradients = [(tf.constant([1.0]), kernel), (tf.constant([1.0]), bias)]
    assert [float(gradient[0]) for gradient, _ in training.decayed(gradients, 0.1)] == pytest.approx([1.2, 1.0])


def test_a_model_with_regularisers_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "regularised.py").write_text(
        "from hpc_dl.models.keras import keras\n"
        "def model(shape, classes):\n"
        "    dense = keras.layers.Dense(classes, kernel_regularizer='l2')\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), dense])\n"
    )
    options = Options(run_dir=Path("run"), steps=10, model="regularised:model", data="synthetic", batch=4)
    with tf.Graph().as_default(), pytest.raises(UserError, match="use --weight-decay"):
        training.training(options)


def test_towers_compute_the_gradient_of_the_whole_batch() -> None:
    images, labels = tf.reshape(tf.range(12.0), [6, 2]).numpy(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    with tf.Graph().as_default():
        with towers.read_once(3, "/device:CPU:0"):
            weights = tf1.get_variable("weights", initializer=[[0.1], [-0.2]])

        def one(images: Any, labels: Any, count: int) -> towers.Step:
            loss = tf.reduce_mean((tf.matmul(images, weights)[:, 0] - labels) ** 2) / count
            return towers.Step([(tf1.gradients(loss, weights.handle)[0], weights)], [loss], loss, tf.constant(0.5))

        steps = [towers.compute(one, tf.constant(images), tf.constant(labels), count) for count in (1, 3)]
        assert [len(step.updates) for step in steps] == [1, 1]
        assert {loss.device for loss in steps[1].updates} == {"/device:CPU:0"}
        local = session.start(cpus=3)
        local.run(tf1.global_variables_initializer())
        whole, parts = local.run([(step.gradients[0][0], step.loss, step.accuracy) for step in steps])
    for left, right in zip(whole, parts, strict=True):
        assert right == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("ps", [0, 1])
def test_towers_read_each_variable_once(ps: int) -> None:
    cluster = Cluster(("a:1",), ("b:1", "b:2"), "worker", 1)
    worker = "/job:worker/task:1" if ps else ""
    with tf.Graph().as_default() as built:
        options = Options(run_dir=Path("run"), steps=10, mode="mixed", data="synthetic", batch=4, towers=2)
        training.training(options, 2, 1, variable_devices.device(cluster) if ps else None)
        kernel = next(v for v in tf1.global_variables() if v.op.name == "conv1_conv/kernel")
        operations = built.get_operations()
    convolutions = [op for op in operations if op.type == "Conv2D" and re.match(r"small(_1)?/conv1", op.name)]
    assert [op.device for op in convolutions] == [f"{worker}/device:CPU:{tower}" for tower in (0, 1)]
    (cached,) = {op.inputs[1].op for op in convolutions}
    assert cached.device == f"{worker}/device:CPU:0"
    reads = [op for op in operations if op.type == "ReadVariableOp" and op.inputs[0] is kernel.handle]
    assert [op.device for op in reads] == [kernel.device] * 2, "for the towers, and for weight decay"

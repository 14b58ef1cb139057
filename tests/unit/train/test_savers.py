"""What saves communication: compression of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.train.graph import compression

tf1 = tf.compat.v1


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@settings(max_examples=30)
def test_packed_bits_come_out_as_they_were(flags: list[bool]) -> None:
    packed = compression.pack(tf.constant(flags))
    assert packed.dtype == tf.uint8
    assert packed.shape == (-(-len(flags) // 8),)
    assert compression.unpack(packed, tf.TensorShape([len(flags)])).numpy().tolist() == flags


def test_fp16_keeps_three_digits_and_stays_finite() -> None:
    gradient = tf.constant([0.0, 1.0009, -3.14159, 1e-4, 1e6, -1e9])
    received = compression.half(gradient, "").numpy()
    np.testing.assert_allclose(received[:4], gradient[:4], rtol=1e-3)
    assert received[4:].tolist() == [65504, -65504]


def one_bit_steps(gradients: list[Any]) -> list[Any]:
    """Return what arrives when one worker sends these gradients one after the other."""
    with tf.Graph().as_default(), tf1.Session() as session:
        gradient = tf1.placeholder(tf.float32, gradients[0].shape)
        received, error = compression.one_bit(gradient, "", "error")
        session.run(tf1.local_variables_initializer())
        return [session.run((received, error), {gradient: value})[0] for value in gradients]


def test_one_bit_sends_the_mean_above_and_below_zero() -> None:
    (received,) = one_bit_steps([np.array([[1.0, 3.0, -1.0], [-2.0, -6.0, 2.0]], np.float32)])
    np.testing.assert_allclose(received, [[2, 2, -3], [-3, -3, 2]])
    (nothing,) = one_bit_steps([np.zeros([3], np.float32)])
    assert nothing.tolist() == [0, 0, 0]


def test_what_one_bit_loses_is_sent_later() -> None:
    """The sum of what arrives differs from the sum of what was sent by no more than one step's error."""
    random = np.random.default_rng(0)
    mean = random.normal(size=(7, 5)).astype(np.float32)
    sent = [mean + random.normal(size=mean.shape).astype(np.float32) for _ in range(200)]
    received = one_bit_steps(sent)
    once = np.abs(received[0] - sent[0]).max()
    assert np.abs(np.mean(received, 0) - np.mean(sent, 0)).max() < 0.1 < once

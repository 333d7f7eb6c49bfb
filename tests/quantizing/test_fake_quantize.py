"""The grid of 8-bit integers, against NumPy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tfprune.quantizing.quantized import _fake_quantize, _fake_quantize_weight, _on_grid, _relevant, _twice_rounded

RNG = np.random.default_rng(0)


def test_a_range_by_hand():
    # 255 steps of 0.01 from -0.5: integers 0 to 255 with zero at 50
    values = np.float32([-9.0, -0.5, -0.004, 0.0, 0.006, 0.123, 2.05, 9.0])
    rounded = ops.convert_to_numpy(_fake_quantize(values, (-0.5, 2.05)))
    np.testing.assert_allclose(rounded, [-0.5, -0.5, 0.0, 0.0, 0.01, 0.12, 2.05, 2.05], atol=1e-6)


@given(st.floats(-50, 0, width=32), st.floats(0.0625, 50, width=32))
def test_zero_is_on_the_grid_and_nothing_is_moved_by_more_than_half_a_step(low, high):
    start, end = (float(bound) for bound in _on_grid(low, high))
    scale = (end - start) / 255
    assert start == pytest.approx(low, abs=0.51 * scale) and end == pytest.approx(high, abs=0.51 * scale)
    values = np.linspace(start, end, 97).astype("float32")
    rounded = ops.convert_to_numpy(_fake_quantize(np.append(values, np.float32(0)), (low, high)))
    assert rounded[-1] == 0
    assert np.abs(rounded[:-1] - values).max() <= 0.505 * scale
    steps = rounded / scale
    assert np.abs(steps - np.rint(steps)).max() < 1e-3


def test_where_zero_lies_half_way_between_two_values_the_grid_is_moved():
    """Keras would round it up, and the interpreter down."""
    start, end = (float(bound) for bound in _on_grid(-2.0, 2.0))
    below = -start / ((end - start) / 255)
    assert round(below) in (127, 128) and below == pytest.approx(round(below), abs=1e-4)


def test_a_tensor_of_zeros_stays_one():
    assert not ops.convert_to_numpy(_fake_quantize(np.zeros(3, "float32"), (0.0, 0.0))).any()


def reference(weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Round by the largest size along some axes."""
    scale = np.abs(weight).max(axis=axes, keepdims=True) / 127
    return np.rint(weight / scale) * scale


@pytest.mark.parametrize(
    ("shape", "letters", "over"),
    [
        ((5, 4), "io", (0,)),
        ((3, 3, 2, 4), "hwio", (0, 1, 2)),
        ((3, 4, 2), "woi", (0, 2)),
        ((3, 3, 4, 2), "hwco", (0, 1)),
    ],
)
def test_weights_are_rounded_by_the_largest_of_each_channel(shape, letters, over):
    weight = RNG.normal(size=shape).astype("float32")
    weight[weight < -0.5] = 0
    rounded = ops.convert_to_numpy(_fake_quantize_weight(weight, letters))
    np.testing.assert_allclose(rounded, reference(weight, over), atol=1e-6)
    assert (rounded[weight == 0] == 0).all()


def test_a_channel_of_zeros_and_one_of_tiny_values():
    weight = np.zeros((4, 3), "float32")
    weight[:, 0], weight[0, 1] = 1.0, 1e-9
    rounded = ops.convert_to_numpy(_fake_quantize_weight(weight, "io"))
    assert np.isfinite(rounded).all() and (rounded[:, 0] == 1).all() and not rounded[:, 1:].any()
    assert not ops.convert_to_numpy(_fake_quantize_weight(0 * weight, "io")).any()


def test_the_gradient_passes_where_nothing_is_clipped():
    import tensorflow as tf

    values = tf.constant([-3.0, -0.2, 0.3, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = ops.sum(_fake_quantize(values, (-1.0, 1.0)) * [1.0, 2.0, 3.0, 4.0])
    assert tape.gradient(total, values).numpy().tolist() == [0, 2, 3, 0]
    weight = tf.constant(RNG.normal(size=(3, 3, 2, 4)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(weight)
        total = ops.sum(_fake_quantize_weight(weight, "hwio"))
    assert (tape.gradient(total, weight).numpy() == 1).all()


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("never", (-1e9, float(np.finfo("float32").min)))
def test_masks_do_not_widen_the_range_of_scores_and_change_no_result(never):
    scores = RNG.normal(size=(40, 9)).astype("float32") * 5
    masked = np.where(RNG.random((40, 9)) < 0.5, np.float32(never), scores)
    masked[0], masked[1] = never, scores[1]  # a row of which nothing is left, and one without a mask
    seen = ops.convert_to_numpy(_relevant(masked))
    assert seen.min() >= scores.min() - 10 and seen.max() <= max(scores.max(), 0)
    kept = masked.max(-1) > -1e8
    np.testing.assert_allclose(softmax(seen[kept]), softmax(masked[kept]), atol=0.5 / 256)
    assert (seen[0] == 0).all()


def rounded_twice(total: int, factor: float) -> int:
    """Multiply by a factor below 1/2 as kernels for integers do: by 31 bits of it, and then by a power of two."""
    mantissa, exponent = math.frexp(factor)
    product = total * round(mantissa * 2**31)
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = int(math.trunc(Fraction(product + nudge, 2**31)))
    sign = -1 if high < 0 else 1
    return sign * ((abs(high) + 2 ** (-exponent - 1)) >> -exponent)


@pytest.mark.parametrize("step", [0.03, 0.071, 0.5])
def test_products_of_activations_round_twice_as_kernels_do(step):
    totals = np.arange(-20000, 20000, 7)
    steps = 0.011 * 0.0237
    inside = np.abs(totals * steps / step) < 126
    expected = [rounded_twice(int(total), steps / step) * step for total in totals[inside]]
    products = ops.convert_to_tensor((totals[inside] * steps).astype("float32"))
    found = _fake_quantize(_twice_rounded(products, steps, step=step), (-128 * step, 127 * step))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-4 * step)
    once = ops.convert_to_numpy(_fake_quantize(products, (-128 * step, 127 * step)))
    assert (np.abs(once - expected) > step / 2).any()  # which rounding once would not give

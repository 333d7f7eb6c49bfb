"""Round to the grid of 8-bit integers and stay in floats, as the operators of a .tflite file compute."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

STEPS = 255  # between the lowest and the highest of 8-bit integers
FLAT = 1e-6  # the least width of a range: that of a tensor of zeros
# Channels of small weights get a grid this much finer than the kernel's at most, so that biases fit 32 bits.
FINEST = 2.0**-10


def fake_quantize(tensor: Any, bounds: Any) -> Any:
    """Round a tensor to 256 values over a range, of which 0 is one; clip what lies beyond.

    The gradient passes where nothing was clipped (Jacob et al. 2018, arXiv 1712.05877).

    Args:
        tensor: Floats of any shape.
        bounds: Low and high: 0 lies in between.
    """
    low, high = on_grid(bounds[0], bounds[1])
    return keras.quantizers.fake_quant_with_min_max_vars(tensor, low, high)


def on_grid(low: Any, high: Any) -> tuple[Any, Any]:
    """Return a range moved by less than a step, so that 0 is a value of its grid.

    The interpreter and Keras both do so, and do not agree where 0 lies half-way between two values.
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    scale = ops.maximum(high - low, FLAT) / STEPS
    below = ops.floor(-low / scale + 0.5)
    return -below * scale, (STEPS - below) * scale


def fake_quantize_weight(weight: Any, axes: str) -> Any:
    """Round a weight to the integers -127 to 127 times a scale, one for each output channel.

    Args:
        weight: The weight, a tensor.
        axes: One letter per dimension, as `register_prunable` takes them: `o` output, `c` a channel that is both.
    """
    channel_axes = [axis for axis, letter in enumerate(axes) if letter in "oc"]
    if len(channel_axes) == 1:
        return _round(weight, channel_axes[0])
    # A depthwise kernel has a channel for each pair of input channel and multiplier, its last two axes.
    flat = ops.reshape(
        weight, (*weight.shape[: channel_axes[0]], math.prod(weight.shape[axis] for axis in channel_axes))
    )
    return ops.reshape(_round(flat, channel_axes[0]), weight.shape)


def fake_quantize_whole(weight: Any) -> Any:
    """Round a weight to the integers -127 to 127 times one scale, so that equal entries are equal integers.

    Args:
        weight: The weight, a tensor.
    """
    bound = ops.maximum(ops.max(ops.abs(ops.stop_gradient(weight))), FLAT)
    return keras.quantizers.fake_quant_with_min_max_vars(weight, -bound, bound, narrow_range=True)


def _round(weight: Any, axis: int) -> Any:
    size = ops.abs(ops.stop_gradient(weight))
    whole = ops.max(size)
    bound = ops.max(size, axis=[other for other in range(len(weight.shape)) if other != axis])
    bound = ops.maximum(bound, ops.where(whole > 0, whole, ops.ones_like(whole)) * FINEST)
    return keras.quantizers.fake_quant_with_min_max_vars(weight, -bound, bound, narrow_range=True, axis=axis)

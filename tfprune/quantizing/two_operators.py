"""Layers that are two operators in a file, and round between them: a product and a sum, or two convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from tfprune.quantizing.cells import Round
from tfprune.quantizing.fake_quantize import fake_quantize


def rescale(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `Rescaling.call` does."""
    return _affine(inputs, layer.scale, layer.offset, rounded)


def normalize(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `Normalization.call` does."""
    scale = 1 / ops.maximum(ops.sqrt(layer.variance), keras.config.epsilon())
    return _affine(inputs, scale, -layer.mean * scale, rounded)


def normalize_batches(
    inputs: Any, *, layer: Any, rounded: Round, training: bool | None = None, mask: Any = None
) -> Any:
    """Do what `BatchNormalization.call` does where there is no kernel that takes the normalization.

    Training uses the statistics of the batch, which the file never sees: it learns the ranges only.
    """
    scale = 1 / ops.sqrt(ops.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    scale = scale * layer.gamma if layer.scale else scale
    offset = -ops.convert_to_tensor(layer.moving_mean) * scale
    offset = offset + layer.beta if layer.center else offset
    outputs = _affine(inputs, scale, offset, rounded)
    if not (training and layer.trainable):
        return outputs
    return type(layer).call(layer, inputs, training=True, mask=mask)


def convolve_apart(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `SeparableConv2D.call` does."""
    arguments = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
    form = {"data_format": layer.data_format}
    maps = rounded("depthwise", ops.depthwise_conv(inputs, layer.depthwise_kernel, **arguments, **form))
    outputs = ops.conv(maps, layer.pointwise_kernel, **form)
    return layer.activation(outputs + layer.bias if layer.use_bias else outputs)


WAYS: dict[type, Callable[..., Any]] = {
    layers.Rescaling: rescale,
    layers.Normalization: normalize,
    layers.BatchNormalization: normalize_batches,
    layers.SeparableConv2D: convolve_apart,
}


def _affine(inputs: Any, scale: Any, offset: Any, rounded: Round) -> Any:
    inputs = ops.cast(inputs, keras.config.floatx())
    return rounded("scaled", inputs * _constant(scale)) + _constant(offset)


def _constant(values: Any) -> Any:
    """Round constants as the converter does: to 256 values from the least to the largest, of which 0 is one."""
    values = ops.cast(values, keras.config.floatx())
    return fake_quantize(values, (ops.minimum(ops.min(values), 0), ops.maximum(ops.max(values), 0)))

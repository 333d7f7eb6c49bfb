"""Which layers turn a mirrored map into the mirrored result, given mirrored kernels."""

from __future__ import annotations

import types
from typing import Any

import keras
import numpy as np

from tfprune.export.keras_side.sparse_ready.window import window_of
from tfprune.keras_models.models.graph import Call

layers = keras.layers

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
SPATIAL = {*CONVOLUTIONS, layers.ZeroPadding2D, layers.Cropping2D}
POOLS = {layers.MaxPooling2D, layers.AveragePooling2D}
GLOBAL_POOLS = {layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D}
POINTWISE = {
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.ActivityRegularization),
    *(layers.Dropout, layers.SpatialDropout2D, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    layers.Dense,
}
ALONG_CHANNELS = {  # pointwise if their axis is the channels
    *(layers.BatchNormalization, layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization),
    *(layers.GroupNormalization, layers.Normalization, layers.Softmax, layers.Concatenate),
}
# Operations that an expression such as `x * 2 + y`, or a function of keras.ops, puts into a graph, by class name.
POINTWISE_OPERATIONS = (
    "Abs Absolute Add Cast Clip Divide Elu Exp Gelu HardSigmoid HardSilu HardSwish HardTanh Identity LeakyRelu Log "
    "Maximum Minimum Multiply Negative Power Relu Relu6 Rsqrt Selu Sigmoid Silu Softplus Softsign Sqrt Square "
    "Subtract Swish Tanh TrueDivide"
)
REDUCTIONS = {"Mean", "Max", "Sum"}


def is_mirrorable(call: Call, axis: int) -> bool:
    """Tell whether a call on maps mirrored along an axis gives the mirrored result; False for an unknown layer.

    Args:
        call: The call.
        axis: 1 (rows) or 2 (columns) of maps with channels last.
    """
    layer, kind = call.layer, type(call.layer)
    if not _takes_maps(call) or not has_pointwise_activation(layer) or _is_channels_first(layer):
        return False
    if kind in SPATIAL or kind in GLOBAL_POOLS or is_pointwise(layer):
        return True
    if kind in POOLS:
        size = call.inputs[0].shape[axis]
        return size is not None and window_of(layer, size, axis=axis).is_symmetric
    if kind in ALONG_CHANNELS:
        axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
        return set(axes) <= {-1, 3}
    if kind is layers.PReLU:
        return axis in (layer.shared_axes or ())
    if kind is layers.UpSampling2D:
        return layer.interpolation in ("nearest", "bilinear")
    return is_global_reduction(layer)


def is_pointwise(layer: Any) -> bool:
    """Tell whether it is a layer or operation of Keras that treats each position of a map alike and independently."""
    if isinstance(layer, layers.Rescaling):
        return type(layer) is layers.Rescaling and max(np.ndim(layer.scale), np.ndim(layer.offset)) < 2
    return type(layer) in POINTWISE or operation_name(layer) in POINTWISE_OPERATIONS.split()


def operation_name(layer: Any) -> str:
    """Return the class name of an operation of Keras that is not a layer; an empty string for anything else."""
    is_operation = not isinstance(layer, layers.Layer) and type(layer).__module__.startswith("keras.")
    return type(layer).__name__ if is_operation else ""


def is_global_reduction(layer: Any) -> bool:
    """Tell whether it is an operation of Keras that reduces rows and columns, and nothing else."""
    axis = getattr(layer, "axis", None)
    return operation_name(layer) in REDUCTIONS and isinstance(axis, tuple | list) and sorted(axis) == [1, 2]


def _takes_maps(call: Call) -> bool:
    """Tell whether all tensors are images with channels, and all constants numbers or vectors over channels."""
    leaves = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if hasattr(leaf, "shape")]
    return all(
        len(leaf.shape) == 4 if isinstance(leaf, keras.KerasTensor) else len(leaf.shape) < 2 for leaf in leaves
    )


def has_pointwise_activation(layer: Any) -> bool:
    """Tell whether a layer's activation, if it has one, is Keras' own: these never look at other pixels."""
    activation = getattr(layer, "activation", None)
    return activation is None or (
        isinstance(activation, types.FunctionType) and activation.__module__.startswith("keras.")
    )


def _is_channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"

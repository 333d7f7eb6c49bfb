"""How channels go through layers without kernels: elementwise, merging, pooling, reshaping, norms."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.base.axes import shape_along
from tfprune.keras_models.channels.graph import Flow, Rule, channel_axis
from tfprune.keras_models.channels.rules_kernels import check_activation
from tfprune.keras_models.models.graph import Call
from tfprune.solving.dependency_graph import Layout, NoRule, along, placed


def elementwise(flow: Flow, call: Call) -> Sequence[Layout]:
    check_activation(call.layer)
    if not isinstance(call.layer, keras.layers.Layer) and _has_array(call.layer):
        raise NoRule("it has a constant for each channel")
    return [flow.inputs(call)[0]] * len(call.outputs)


def _has_array(operation: Any) -> bool:
    """Tell whether an argument that an operation was made with is an array, as the limits of `clip` may be."""
    names = inspect.signature(type(operation).__init__).parameters
    return any(np.ndim(getattr(operation, name, 0)) for name in names)


def rescaling(flow: Flow, call: Call) -> Sequence[Layout]:
    if max(np.ndim(call.layer.scale), np.ndim(call.layer.offset)):
        raise NoRule("it scales each channel by a constant of its own")
    return elementwise(flow, call)


def prelu(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.inputs(call)[0]
    shared = call.layer.shared_axes or ()
    slopes = tuple(None if axis in shared else channels for axis, channels in enumerate(layout) if axis)
    flow.record(call.layer, {"alpha": slopes})
    return [layout]


def merge(flow: Flow, call: Call) -> Sequence[Layout]:
    """Tie the entries that an operation combines one by one, unless one entry is spread over all."""
    given, rank = _operands(flow, call), len(call.outputs[0].shape)
    reason = f"{call.layer.name}: they meet channels that are fixed"
    along_axes = [
        [(shape[axis], layout[axis]) for shape, layout in given if len(layout) >= -axis] for axis in range(-rank, 0)
    ]
    return [tuple(flow.meet(operands, reason) for operands in along_axes)]


def _operands(flow: Flow, call: Call) -> list[tuple[tuple[int | None, ...], Layout]]:
    """Return shape and layout of the tensors and arrays that a call takes."""
    leaves = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if len(getattr(leaf, "shape", ()))]
    return [(tuple(leaf.shape), flow.layout(leaf)) for leaf in leaves]


def concatenate(flow: Flow, call: Call) -> Sequence[Layout]:
    axis = call.layer.axis % len(call.outputs[0].shape)
    outside, beside = "an input of the model or a constant", f"{call.layer.name}: beside channels that are fixed"
    return [flow.join(_operands(flow, call), axis, outside=outside, beside=beside)]


def spatial(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow pooling, padding and cropping, which treat each channel by itself."""
    shape, input_shape = call.outputs[0].shape, call.inputs[0].shape
    channels = flow.along(flow.inputs(call)[0], channel_axis(call.layer, len(input_shape)))
    return [flow.placed(len(shape), channel_axis(call.layer, len(shape)), channels)]


def flatten_positions(flow: Flow, call: Call) -> Sequence[Layout]:
    layout, shape = flow.inputs(call)[0], call.inputs[0].shape
    if getattr(call.layer, "data_format", None) == "channels_first" and len(shape) > 2:  # which puts channels last
        layout, shape = (layout[0], *layout[2:], layout[1]), (shape[0], *shape[2:], shape[1])
    return [_reshaped(layout, shape, call.outputs[0].shape)]


def reshape(flow: Flow, call: Call) -> Sequence[Layout]:
    shape = call.outputs[0].shape
    layout = _reshaped(flow.inputs(call)[0], call.inputs[0].shape, shape)
    counted = tuple(
        (-1 if size is None else size) if channels is None else channels
        for size, channels in list(zip(shape, layout, strict=True))[1:]
    )
    flow.record(call.layer, {}, config={"target_shape": counted})
    return [layout]


def _reshaped(layout: Layout, shape: Sequence[int | None], result: Sequence[int | None]) -> Layout:
    """Find the only axis of the new shape along which the channels differ."""
    tracked = [axis for axis, channels in enumerate(layout) if channels is not None]
    if not tracked:
        return (None,) * len(result)
    channels: Any = along(layout, tracked[0])
    if tracked[0] == len(shape) - 1 and result[-1] == shape[-1]:
        return placed(len(result), -1, channels)
    before, after = ([size for size in sizes[1:] if size is not None] for sizes in (shape, result))
    if len(before) < len(shape) - 1 or len(after) < len(result) - 1:
        raise NoRule("it reshapes positions whose number is not known")
    spread = channels.reshape(shape_along(len(shape), tracked[0])[1:])
    entries = np.broadcast_to(spread, before).reshape(after)
    for axis in range(entries.ndim):
        line = np.moveaxis(entries, axis, -1).reshape(-1, entries.shape[axis])
        if np.all(line == line[0]):
            return placed(len(result), axis + 1, line[0])
    raise NoRule("it mixes channels with positions in a way that cannot be followed")


def permute(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.inputs(call)[0]
    return [tuple(layout[axis] for axis in (0, *call.layer.dims))]


def repeat_vector(flow: Flow, call: Call) -> Sequence[Layout]:
    return [flow.placed(3, -1, flow.along(flow.inputs(call)[0], -1))]


def batch_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.first_input(call)
    channels = layout[call.layer.axis]
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    flow.record(call.layer, dict.fromkeys(names, (channels,)))
    return [layout]


def group_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, layout = call.layer, flow.inputs(call)[0]
    channels = flow.along(layout, layer.axis)  # it normalizes over all other axes
    weights = dict.fromkeys(("gamma", "beta"), (channels,))
    if channels is None:
        flow.record(layer, weights)
        return [layout]
    size = layer.get_config()["groups"]
    by_group = channels.reshape(channels.size if size == -1 else size, -1)
    if len(by_group) == 1:
        flow.pin([channels], f"{layer.name}: it normalizes all channels together")
    flow.tie(by_group[:, :-1], by_group[:, 1:])
    config = {"groups": by_group[:, 0]}
    flow.record(layer, weights, config=config)
    return [layout]


def joint_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow a normalization along an axis of channels, where each depends on all."""
    layout = flow.first_input(call)
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: it normalizes all channels together")
    weights = tuple(layout[axis] for axis in axes)
    flow.record(call.layer, {"gamma": weights, "beta": weights, "scale": weights})
    return [layout]


def masking(flow: Flow, call: Call) -> Sequence[Layout]:
    raise NoRule("it compares all channels with the value that it masks")


_ELEMENTWISE = [
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.ActivityRegularization),
    *(layers.Dropout, layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
]
_MERGES = [layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum]
_SPATIAL = [
    getattr(layers, f"{name}{rank}D")
    for rank in (1, 2, 3)
    for name in (
        *("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling"),
        *("AdaptiveMaxPooling", "AdaptiveAveragePooling", "ZeroPadding", "Cropping", "UpSampling"),
    )
    if hasattr(layers, f"{name}{rank}D")
]
SHAPES: dict[type, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_MERGES, merge),
    **dict.fromkeys(_SPATIAL, spatial),
    layers.Rescaling: rescaling,
    layers.PReLU: prelu,
    layers.Masking: masking,
    layers.Concatenate: concatenate,
    layers.Flatten: flatten_positions,
    layers.Reshape: reshape,
    layers.Permute: permute,
    layers.RepeatVector: repeat_vector,
    layers.BatchNormalization: batch_norm,
    layers.GroupNormalization: group_norm,
    **dict.fromkeys(
        [layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization, layers.Softmax], joint_norm
    ),
}

"""Rules: how channels go through layers and operations, with kernels and without."""

from __future__ import annotations

import inspect
import string
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.base.arrays import parse_equation, shape_along, spell_out
from tfprune.channels.graph import Flow, Rule, channel_axis
from tfprune.models.graph import Call
from tfprune.models.tracing import BATCH, FAILURES, LENGTH, fixed_shape, is_channelwise
from tfprune.solving.dependency_graph import (
    ChannelIndices,
    Layout,
    NoRule,
    Work,
    along,
    differing_axes,
    has_channels,
    placed,
    positions,
    sizes,
)

# How channels go through layers with kernels: dense, convolutional, embedding.

# Keras' activations that look at one entry; others are tried out on numbers.
_ENTRYWISE = frozenset(
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "exponential"),
        *("sigmoid", "hard_sigmoid", "hard_silu", "log_sigmoid", "tanh", "hard_tanh", "softplus", "softsign"),
    )
)


def _check_activation(layer: Any, *, name: str = "activation") -> None:
    """Refuse an activation that looks at several channels."""
    activation = getattr(layer, name, None)
    if activation is None or (isinstance(activation, types.FunctionType) and activation in _ENTRYWISE):
        return
    vector = keras.KerasTensor((BATCH, LENGTH))
    if not is_channelwise(activation, ((vector,), {}), axes={id(vector): 1}):
        function = getattr(activation, "__name__", type(activation).__name__)
        raise NoRule(f"its activation {function} may look at several channels at once")


def _pin_for_activation(flow: Flow, layer: Any, *, outputs: np.ndarray) -> None:
    """Let the channels that a layer makes stay if one of its activations looks at several."""
    for name in ("activation", "recurrent_activation"):
        try:
            _check_activation(layer, name=name)
        except NoRule as reason:
            flow.pin([outputs], f"{layer.name}: {reason}")


def _dense(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    inputs = flow.along(flow.inputs(call)[0], -1)
    outputs = flow.fresh(layer.units, name=layer.name)
    kernel = (inputs, outputs)
    work = [(flow.positions(shape, -1), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, config={"units": outputs}, work=work)
    _pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), -1, outputs)]


def _einsum_dense(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    equation = parse_equation(layer.equation)
    given = dict(zip(spell_out(equation.inputs, len(call.inputs[0].shape)), flow.inputs(call)[0], strict=True))
    result_letters = spell_out(equation.outputs, len(shape))
    by_letter: dict[str, np.ndarray | None] = dict(given)
    new = {a: size for a, size in zip(equation.kernel, layer.kernel.shape, strict=True) if a not in given}
    for letter, size in new.items():
        by_letter[letter] = flow.fresh(size, name=f"{layer.name}/{letter}" if len(new) > 1 else layer.name)
    if any(by_letter[letter] is not None for letter in equation.lost):
        raise NoRule("it adds up channels without a kernel")
    kernel = tuple(by_letter[letter] for letter in equation.kernel)
    layout = tuple(by_letter[letter] for letter in result_letters)
    weights = {"kernel": kernel}
    if layer.bias is not None:
        last = result_letters[len(result_letters) - len(layer.bias.shape) :]
        weights["bias"] = tuple(by_letter[letter] if letter in layer.bias_axes else None for letter in last)
    asked = layer.get_config()["output_shape"]
    asked = [asked] if isinstance(asked, int) else list(asked)
    tail = layout[len(layout) - len(asked) :]
    counted = tuple(size if channels is None else channels for size, channels in zip(asked, tail, strict=True))
    apart = [axis for axis, letter in enumerate(result_letters) if letter in equation.kernel]
    work = [(flow.positions(shape, *apart), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, weights, config={"output_shape": counted}, work=work)
    for channels in layout:
        if channels is not None:
            _pin_for_activation(flow, layer, outputs=channels)
    return [layout]


def _convolution(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis = channel_axis(layer, len(shape))
    inputs = flow.along(flow.inputs(call)[0], axis)
    outputs = flow.fresh(layer.filters, name=layer.name)
    config = {"filters": outputs}
    rank = len(layer.kernel_size)
    kernel = (*[None] * rank, inputs, outputs)
    if layer.groups > 1:
        kernel = (*[None] * (rank + 1), outputs)
        reason = f"{layer.name}: a grouped convolution of channels that are fixed"
        config["groups"] = flow.tie_groups(inputs, outputs, count=layer.groups, reason=reason)
    work = [(flow.positions(shape, axis), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, config=config, work=work)
    _pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def _transposed(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis = channel_axis(layer, len(shape))
    inputs = flow.along(flow.inputs(call)[0], axis)
    outputs = flow.fresh(layer.filters, name=layer.name)
    kernel = (*[None] * len(layer.kernel_size), outputs, inputs)
    work = [(flow.positions(call.inputs[0].shape, axis), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, config={"filters": outputs}, work=work)
    _pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def _depthwise(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis = channel_axis(layer, len(shape))
    inputs = flow.along(flow.inputs(call)[0], axis)
    outputs = None if inputs is None else np.repeat(inputs, layer.depth_multiplier)
    kernel = (*[None] * len(layer.kernel_size), inputs, None)
    work = [(flow.positions(shape, axis), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, work=work)
    if outputs is not None:
        _pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def _separable(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis, rank = channel_axis(layer, len(shape)), len(layer.kernel_size)
    inputs = flow.along(flow.inputs(call)[0], axis)
    between = None if inputs is None else np.repeat(inputs, layer.depth_multiplier)
    outputs = flow.fresh(layer.filters, name=layer.name)
    first, second = (*[None] * rank, inputs, None), (*[None] * rank, between, outputs)
    weights = {"depthwise_kernel": first, "pointwise_kernel": second, "bias": (outputs,)}
    kernels = {variable.name: variable for variable in layer.weights}
    count = flow.positions(shape, axis)
    work = [
        (count, sizes(kernels["depthwise_kernel"].shape, first)),
        (count, sizes(kernels["pointwise_kernel"].shape, second)),
    ]
    flow.record(layer, weights, config={"filters": outputs}, work=work)
    _pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def _embedding(flow: Flow, call: Call) -> Sequence[Layout]:
    layer = call.layer
    outputs = flow.fresh(layer.output_dim, name=layer.name)
    weights = {"reverse_embeddings": (outputs, None), "embeddings": (None, outputs)}
    flow.record(layer, weights, config={"output_dim": outputs})
    return [(*flow.inputs(call)[0], outputs)]  # indices may be computed from channels


def _reversible_embedding(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow an embedding that is also called in reverse, where it reads what it made."""
    layer, layout = call.layer, flow.inputs(call)[0]
    is_reversed = len(call.outputs[0].shape) == len(call.inputs[0].shape)
    if not is_reversed:
        return _embedding(flow, call)
    inputs = flow.along(layout, -1)
    kernels = {"reverse_embeddings": (inputs, None), "embeddings": (None, inputs)}
    size = layer.output_dim if inputs is None else inputs
    work: list[Work] = [(flow.positions(call.inputs[0].shape, -1), (layer.input_dim, size))]
    flow.record(layer, kernels, config={} if inputs is None else {"output_dim": inputs}, work=work)
    return [(None,) * len(call.outputs[0].shape)]


KERNELS: dict[type, Rule] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    layers.ReversibleEmbedding: _reversible_embedding,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _convolution),
    **dict.fromkeys([layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _transposed),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable),
}


# How channels go through recurrent layers, attention, and layers around another layer.

_GATES = {layers.SimpleRNN: 1, layers.GRU: 3, layers.LSTM: 4}


def _recurrent(flow: Flow, call: Call) -> Sequence[Layout]:
    layer = call.layer
    if layer.stateful:
        raise NoRule("it keeps states from batch to batch")
    inputs = flow.along(flow.inputs(call)[0], -1)
    units = flow.fresh(layer.units, name=layer.name)
    _tie_states(flow, call, units)
    gates = np.tile(units, next(count for kind, count in _GATES.items() if isinstance(layer, kind)))
    bias = next((variable for variable in layer.weights if variable.path.endswith("bias")), None)
    rank = 1 if bias is None else len(bias.shape)
    weights = {"kernel": (inputs, gates), "recurrent_kernel": (units, gates), "bias": (*[None] * (rank - 1), gates)}
    steps = call.inputs[0].shape[1] or 1
    features = call.inputs[0].shape[-1] if inputs is None else inputs
    work = [(steps, (features, gates)), (steps, (units, gates))]
    flow.record(layer, weights, config={"units": units}, work=work)
    _pin_for_activation(flow, layer, outputs=units)
    return [flow.placed(len(tensor.shape), -1, units) for tensor in call.outputs]


def _tie_states(flow: Flow, call: Call, units: np.ndarray | None) -> None:
    """Let units be those of the states that a call starts from, to which a cell adds what it makes."""
    states = _bound(call).get("initial_state")
    for state in [] if states is None else keras.tree.flatten(states):
        flow.tie_layouts((units,), flow.layout(state)[1:])


def _bidirectional(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, series = call.layer, call.inputs[0]  # a mask and states may follow
    directions = []
    for inner in (layer.forward_layer, layer.backward_layer):
        rank = 3 if inner.return_sequences else 2
        states = [(None, inner.units)] * (0 if not inner.return_state else 2 if isinstance(inner, layers.LSTM) else 1)
        shapes = [series.shape, (*series.shape[: rank - 1], inner.units), *states]
        directions.append(list(flow.follow_inner(inner, [flow.layout(series)], shapes)))
    forward, backward = directions
    flow.tie_layouts(forward[0], backward[0])  # one argument, `units`, counts both
    _tie_states(flow, call, forward[0][-1])
    both = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    flow.record(layer, _held(flow, both), config=_arguments(flow, both), work=_moved_work(flow, both))
    if layer.merge_mode is None:
        return [forward[0], backward[0], *forward[1:], *backward[1:]]
    merged = forward[0]
    if layer.merge_mode == "concat":
        merged = (*forward[0][:-1], np.concatenate([forward[0][-1], backward[0][-1]]))
    return [merged, *forward[1:], *backward[1:]]


def _time_distributed(flow: Flow, call: Call) -> Sequence[Layout]:
    layer = call.layer
    layout, shapes = flow.inputs(call)[0], [call.inputs[0].shape, call.outputs[0].shape]
    if layout[1] is not None:
        raise NoRule("it takes channels along its axis of time")
    of_a_step = [(shape[0], *shape[2:]) for shape in shapes]
    result = flow.follow_inner(layer.layer, [(layout[0], *layout[2:])], of_a_step)[0]
    inner = {"layer": layer.layer}
    if id(layer.layer) in flow.recorded:
        work = _moved_work(flow, inner, times=shapes[0][1] or 1)
        flow.record(layer, _held(flow, inner), config=_arguments(flow, inner), work=work)
    return [(result[0], None, *result[1:])]


def _held(flow: Flow, inner: dict[str, Any]) -> dict[str, Layout]:
    """Return the layouts of the weights of layers inside a layer, by the path of each weight."""
    return {
        layer.weights[index].path: layout
        for layer in inner.values()
        for index, layout in flow.recorded[id(layer)].weights.items()
    }


def _arguments(flow: Flow, inner: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of layers inside a layer that count channels, as its own."""
    return {name: flow.recorded[id(layer)].arguments for name, layer in inner.items()}


def _moved_work(flow: Flow, inner: dict[str, Any], *, times: int = 1) -> list[Work]:
    """Take the multiplications of the layers inside a layer from them, to count them once."""
    work = [(times * factor, sizes) for layer in inner.values() for factor, sizes in flow.recorded[id(layer)].work]
    for layer in inner.values():
        flow.recorded[id(layer)].work.clear()
    return work


def _bound(call: Call) -> dict[str, Any]:
    return inspect.signature(call.layer.call).bind(*call.args, **call.kwargs).arguments


def _attention(flow: Flow, call: Call) -> Sequence[Layout]:
    """Tie each head to all that it reads and makes; in grouped attention, to the queries that share its key."""
    layer, arguments = call.layer, _bound(call)
    keys = arguments["value"] if arguments.get("key") is None else arguments["key"]
    tensors = {"query": arguments["query"], "value": arguments["value"], "key": keys}
    inputs = {name: flow.along(flow.layout(tensor), -1) for name, tensor in tensors.items()}
    _check_masks(flow, [value for name, value in arguments.items() if name not in tensors])
    config = layer.get_config()
    is_grouped = isinstance(layer, layers.GroupQueryAttention)
    count = config["num_key_value_heads" if is_grouped else "num_heads"]
    has_one_key = is_grouped and count == 1  # which all queries share, so that each may go alone
    bundles = flow.fresh(
        config["num_query_heads"] if has_one_key else count, name=f"{layer.name}/heads", kind="heads"
    )
    heads = None if has_one_key else bundles
    queries = np.repeat(bundles, config["num_query_heads"] // bundles.size) if is_grouped else bundles
    result, counted = _projected(flow, call, inputs["query"], is_grouped=is_grouped, asked=config)
    counted |= {"num_query_heads": queries} if is_grouped else {"num_heads": queries}
    counted |= {"num_key_value_heads": heads} if is_grouped and not has_one_key else {}
    weights = {
        "query/kernel": (inputs["query"], queries, None),
        "gate/kernel": (inputs["query"], queries, None),
        "key/kernel": (inputs["key"], heads, None),
        "value/kernel": (inputs["value"], heads, None),
        "attention_output/kernel": (queries, None, result),
        "query/bias": (queries, None),
        "gate/bias": (queries, None),
        "key/bias": (heads, None),
        "value/bias": (heads, None),
        "attention_output/bias": (result,),
    }
    flow.record(layer, weights, config=counted, work=_attention_work(call, tensors, weights, queries))
    outputs = [flow.placed(len(call.outputs[0].shape), -1, result)]
    if len(call.outputs) > 1:  # the scores of each head
        outputs.append(flow.placed(len(call.outputs[1].shape), 1, queries))
    return outputs


def _check_masks(flow: Flow, masks: Sequence[Any]) -> None:
    """Refuse masks that would have to lose heads with the kernels, and those that are computed from channels."""
    shapes = [tuple(mask.shape) for mask in masks if hasattr(mask, "shape")]
    if any(len(shape) == 4 and shape[1] != 1 for shape in shapes):
        raise NoRule("it takes a mask of its own for each head")
    if any(has_channels(flow.layout(mask)) for mask in masks if isinstance(mask, keras.KerasTensor)):
        raise NoRule("it takes a mask that was computed from channels")


def _projected(
    flow: Flow, call: Call, query: np.ndarray | None, *, is_grouped: bool, asked: dict[str, Any]
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Return the channels of what attention returns, and the argument that counts them."""
    if is_grouped:  # which returns as many channels as the query has
        return query, {}
    if isinstance(asked["output_shape"], (tuple, list)) and len(asked["output_shape"]) > 1:
        raise NoRule("its outputs have several axes")
    result = flow.fresh(int(call.outputs[0].shape[-1]), name=call.layer.name)
    return result, {"output_shape": (result,)}


def _attention_work(
    call: Call, tensors: dict[str, Any], weights: dict[str, Layout], queries: np.ndarray
) -> list[Work]:
    counts = {name: positions(tensor.shape, -1) for name, tensor in tensors.items()}
    times = {**counts, "gate": counts["query"], "attention_output": counts["query"]}
    work = []
    for variable in call.layer.weights:
        name = next((name for name in weights if variable.path.endswith(name)), "")
        if name.endswith("/kernel"):
            work.append((times[name.partition("/")[0]], sizes(variable.shape, weights[name])))
    widths = {variable.path.split("/")[-2]: variable.shape[-1] for variable in call.layer.weights}
    return [*work, (counts["query"] * counts["key"] * (widths["key"] + widths["value"]), (queries,))]


SEQUENCES: dict[type, Rule] = {
    **dict.fromkeys(_GATES, _recurrent),
    layers.Bidirectional: _bidirectional,
    layers.TimeDistributed: _time_distributed,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
}


# How channels go through layers without kernels: elementwise, merging, pooling, reshaping, norms.


def elementwise(flow: Flow, call: Call) -> Sequence[Layout]:
    _check_activation(call.layer)
    if not isinstance(call.layer, keras.layers.Layer) and _has_array(call.layer):
        raise NoRule("it has a constant for each channel")
    return [flow.inputs(call)[0]] * len(call.outputs)


def _has_array(operation: Any) -> bool:
    """Return True if an argument that an operation was made with is an array, as the limits of `clip` may be."""
    names = inspect.signature(type(operation).__init__).parameters
    return any(np.ndim(getattr(operation, name, 0)) for name in names)


def _rescaling(flow: Flow, call: Call) -> Sequence[Layout]:
    if max(np.ndim(call.layer.scale), np.ndim(call.layer.offset)):
        raise NoRule("it scales each channel by a constant of its own")
    return elementwise(flow, call)


def _prelu(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.inputs(call)[0]
    shared = call.layer.shared_axes or ()
    slopes = tuple(None if axis in shared else channels for axis, channels in enumerate(layout) if axis)
    flow.record(call.layer, {"alpha": slopes})
    return [layout]


def _merge(flow: Flow, call: Call) -> Sequence[Layout]:
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


def _concatenate(flow: Flow, call: Call) -> Sequence[Layout]:
    axis = call.layer.axis % len(call.outputs[0].shape)
    outside, beside = "an input of the model or a constant", f"{call.layer.name}: beside channels that are fixed"
    return [flow.join(_operands(flow, call), axis, outside=outside, beside=beside)]


def _spatial(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow pooling, padding and cropping, which treat each channel by itself."""
    shape, input_shape = call.outputs[0].shape, call.inputs[0].shape
    channels = flow.along(flow.inputs(call)[0], channel_axis(call.layer, len(input_shape)))
    return [flow.placed(len(shape), channel_axis(call.layer, len(shape)), channels)]


def _flatten_positions(flow: Flow, call: Call) -> Sequence[Layout]:
    layout, shape = flow.inputs(call)[0], call.inputs[0].shape
    if getattr(call.layer, "data_format", None) == "channels_first" and len(shape) > 2:  # which puts channels last
        layout, shape = (layout[0], *layout[2:], layout[1]), (shape[0], *shape[2:], shape[1])
    return [_reshaped(layout, shape, call.outputs[0].shape)]


def _reshape(flow: Flow, call: Call) -> Sequence[Layout]:
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


def _permute(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.inputs(call)[0]
    return [tuple(layout[axis] for axis in (0, *call.layer.dims))]


def _repeat_vector(flow: Flow, call: Call) -> Sequence[Layout]:
    return [flow.placed(3, -1, flow.along(flow.inputs(call)[0], -1))]


def _batch_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    layout = flow.first_input(call)
    channels = layout[call.layer.axis]
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    flow.record(call.layer, dict.fromkeys(names, (channels,)))
    return [layout]


def _group_norm(flow: Flow, call: Call) -> Sequence[Layout]:
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


def _joint_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow a normalization along an axis of channels, where each depends on all."""
    layout = flow.first_input(call)
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: it normalizes all channels together")
    weights = tuple(layout[axis] for axis in axes)
    flow.record(call.layer, {"gamma": weights, "beta": weights, "scale": weights})
    return [layout]


def _masking(flow: Flow, call: Call) -> Sequence[Layout]:
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
    **dict.fromkeys(_MERGES, _merge),
    **dict.fromkeys(_SPATIAL, _spatial),
    layers.Rescaling: _rescaling,
    layers.PReLU: _prelu,
    layers.Masking: _masking,
    layers.Concatenate: _concatenate,
    layers.Flatten: _flatten_positions,
    layers.Reshape: _reshape,
    layers.Permute: _permute,
    layers.RepeatVector: _repeat_vector,
    layers.BatchNormalization: _batch_norm,
    layers.GroupNormalization: _group_norm,
    **dict.fromkeys(
        [layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization, layers.Softmax], _joint_norm
    ),
}


# How channels go through operations that move entries: reshape, transpose, split, roll, take.


def _moved(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow an operation that moves entries, by what it does to the numbers of the channels."""
    layouts = flow.inputs(call)
    axes = sorted({axis for layout in layouts for axis, channels in enumerate(layout) if channels is not None})
    results: list[list[np.ndarray | None]] = [[None] * len(tensor.shape) for tensor in call.outputs]
    for axis in axes:
        for result, numbers in zip(results, _moved_numbers(flow, call, axis), strict=True):
            place, channels = _axis_of(flow, call, numbers)
            if channels is not None and result[place] is not None:
                flow.pin([channels], f"{call.layer.name}: it joins them with others along an axis")
            elif channels is not None:
                result[place] = channels
    if not axes:
        flow.note(call.layer, {})
    elif type(call.layer).__name__ in _NOTES:
        _NOTES[type(call.layer).__name__](flow, call, results)
    return [tuple(result) for result in results]


def _moved_numbers(flow: Flow, call: Call, axis: int) -> list[np.ndarray]:
    """Return where an operation puts the numbers of the channels along an axis of what it takes."""
    numbers = {}
    for tensor in call.inputs:
        layout, shape = flow.layout(tensor), fixed_shape(tensor.shape)
        channels = layout[axis] if axis < len(layout) else None
        if channels is None:
            raise NoRule("it moves channels among entries that are none")
        spread = np.broadcast_to(channels.reshape(shape_along(len(shape), axis)), shape)
        numbers[id(tensor)] = keras.ops.convert_to_tensor(spread.astype("int32"))

    def value(leaf: Any) -> Any:
        return numbers.get(id(leaf), leaf)

    args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
    try:
        outputs = call.layer(*args, **kwargs)
    except FAILURES:
        raise NoRule("it has sizes written into it") from None
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _axis_of(flow: Flow, call: Call, numbers: np.ndarray) -> tuple[int, np.ndarray | None]:
    """Return the outermost axis along which the numbers differ, and the channels along it; tie those it splits."""
    if not numbers.size:
        return 0, None
    stacked = call.layer.axis % numbers.ndim if type(call.layer).__name__ == "Stack" else None
    axes = [axis for axis in differing_axes(numbers) if axis != stacked]  # as many are stacked in a smaller graph
    return flow.line(numbers, axes[:1], f"{call.layer.name}: it picks one of them")


def _repeat(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow what is repeated; one key that all queries share is repeated for those that are kept."""
    (layout,), axis = flow.inputs(call), call.layer.axis
    key = None if axis is None else layout[axis]
    if key is not None and np.size(call.layer.repeats) > 1:
        raise NoRule("it repeats some channels more often than others")
    if key is None or key.size > 1:
        return _moved(flow, call)
    copies = flow.copies(int(call.outputs[0].shape[axis]))
    flow.note(call.layer, {"repeats": copies})
    return [tuple(copies if index == axis % len(layout) else channels for index, channels in enumerate(layout))]


# What else has to be known so that an operation does the same in a smaller graph: the arguments that count or index
# channels, and which channels have to stay. Each gets the channels along the axes of what the operation returns.
_Results = list[list["np.ndarray | None"]]


def _shape(flow: Flow, call: Call, results: _Results) -> None:
    (argument, result), shape = (_SHAPES[type(call.layer).__name__], results[0]), call.outputs[0].shape
    if has_channels(tuple(result)):
        sizes = zip(shape, result, strict=True)
        counted = tuple((-1 if size is None else size) if channels is None else channels for size, channels in sizes)
        flow.note(call.layer, {argument: counted})


def _parts(flow: Flow, call: Call, results: _Results) -> None:
    parts = [part[call.layer.axis] for part in results]
    channel_arrays = [part for part in parts if part is not None]
    if channel_arrays and not isinstance(call.layer.indices_or_sections, int):
        raise NoRule("it splits them at fixed indices")
    for part in channel_arrays[1:]:
        flow.tie(channel_arrays[0], part)


def _slice(flow: Flow, call: Call, results: _Results) -> None:
    before, after = (_known(layout) for layout in (flow.inputs(call)[0], results[0]))
    if [channels.size for channels in before] != [channels.size for channels in after]:
        flow.pin(before, f"{call.layer.name}: it takes a slice of them")


def _shifts(flow: Flow, call: Call, results: _Results) -> None:
    """Shift each axis of channels by as many as are kept of those that come to its front."""
    layout, axes = flow.inputs(call)[0], np.atleast_1d(call.layer.axis)
    if call.layer.axis is None:
        raise NoRule("it rolls all axes as one")
    along = [layout[axis] for axis in axes]
    if any(channels is not None for channels in along) and len({axis % len(layout) for axis in axes}) < len(axes):
        raise NoRule("it rolls an axis twice")
    shifts = zip(np.broadcast_to(call.layer.shift, axes.shape).tolist(), along, strict=True)
    counted = tuple(
        shift if channels is None else channels[channels.size - shift % channels.size :] for shift, channels in shifts
    )
    flow.note(call.layer, {"shift": counted, "axis": tuple(axes.tolist())})


def _indices(flow: Flow, call: Call, results: _Results) -> None:
    """Take channels by their indices among those that are kept."""
    layout, axis = flow.inputs(call)[0], call.layer.axis
    if axis is None:
        raise NoRule("it takes entries of all axes as one")
    indices = np.asarray(inspect.signature(call.layer.call).bind(*call.args, **call.kwargs).arguments["indices"])
    along = layout[axis]
    if along is None:
        return
    if indices.ndim != 1:
        flow.pin([along], f"{call.layer.name}: it takes some of them")
    else:
        flow.note(call.layer, {"indices": ChannelIndices(along, indices % along.size)})


def _squeezed(flow: Flow, call: Call, results: _Results) -> None:
    """Name the axes, as an axis of channels of which one is kept is not among them."""
    shape = call.inputs[0].shape
    if call.layer.axis is None:
        flow.note(call.layer, {"axis": tuple(axis for axis, size in enumerate(shape) if size == 1)})


def _known(layout: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    return [channels for channels in layout if channels is not None]


_SHAPES = {"Reshape": "newshape", "BroadcastTo": "shape"}
_NOTES: dict[str, Callable[[Flow, Call, _Results], None]] = {
    **dict.fromkeys(_SHAPES, _shape),
    "GetItem": _slice,
    "Roll": _shifts,
    "Split": _parts,
    "Squeeze": _squeezed,
    "Take": _indices,
}
_NAMES_OF_MOVES = (
    "BroadcastTo ExpandDims Flip GetItem Moveaxis Reshape Roll Split Squeeze Stack Swapaxes Take Tile "
    "Transpose Unstack"
)
_MOVES: dict[str, Rule] = {**dict.fromkeys(_NAMES_OF_MOVES.split(), _moved), "Repeat": _repeat}


# How channels go through operations: products, reductions, and whatever treats each entry by itself.

_SUMMED = "it adds up channels without a kernel"


def alone(flow: Flow, call: Call, *, reason: str) -> Sequence[Layout]:
    """Follow what has no rule, along each axis of which it treats the channels one by one.

    Raises:
        NoRule: With the reason, if there is no such axis.
    """
    rank = len(call.outputs[0].shape)
    layouts = {id(tensor): flow.layout(tensor) for tensor in call.inputs if has_channels(flow.layout(tensor))}
    axes = sorted(
        {axis for layout in layouts.values() for axis, channels in enumerate(layout) if channels is not None}
    )
    fits = all(len(tensor.shape) == rank for tensor in call.outputs) and all(
        len(layout) == rank for layout in layouts.values()
    )
    shared_axes = [axis for axis in axes if fits and _is_alone(flow, call, layouts, axis=axis)]
    if not shared_axes:
        raise NoRule(reason)
    result: list[np.ndarray | None] = [None] * rank
    for axis in axes:
        along_axis = [channels for layout in layouts.values() if (channels := layout[axis]) is not None]
        if axis in shared_axes:
            result[axis] = along_axis[0]
            for channels in along_axis[1:]:
                flow.tie(along_axis[0], channels)
        else:
            flow.pin(along_axis, f"{call.layer.name}: it looks at all of them at once")
    return [tuple(result)] * len(call.outputs)


def _is_alone(flow: Flow, call: Call, given: dict[int, Layout], *, axis: int) -> bool:
    axes = {key: axis for key, layout in given.items() if layout[axis] is not None}
    if len({layout[axis].size for key, layout in given.items() if key in axes}) > 1:  # type: ignore[union-attr]
        return False
    key = _same_as(call, axes)
    is_alone = flow.probed.get(key)
    if is_alone is None:
        is_alone = is_channelwise(call.layer, (call.args, call.kwargs), axes=axes)
    if key:
        flow.probed[key] = is_alone
    return is_alone


def _same_as(call: Call, axes: dict[int, int]) -> str:
    """Return what decides how a call treats channels, the same in all blocks of a model; "" if weights do."""
    if isinstance(call.layer, keras.layers.Layer) and call.layer.variables:
        return ""
    try:
        config = {**call.layer.get_config(), "name": None}
    except FAILURES:  # code of a class
        return ""

    def described(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, keras.KerasTensor)
        return f"{leaf.dtype} {leaf.shape} {axes.get(id(leaf))}" if is_tensor else leaf

    decisive = keras.tree.map_structure(described, (config, call.args, call.kwargs))
    is_plain = all(isinstance(leaf, (str, int, float, type(None))) for leaf in keras.tree.flatten(decisive))
    return repr((type(call.layer), decisive)) if is_plain else ""


def _einsum(flow: Flow, call: Call) -> Sequence[Layout]:
    terms, _, result = call.layer.subscripts.replace(" ", "").partition("->")
    ranks = [len(tensor.shape) for tensor in call.inputs]
    if len(call.inputs) != len(terms.split(",")):
        raise NoRule("it multiplies with a constant")
    letters = [spell_out(term, rank) for term, rank in zip(terms.split(","), ranks, strict=True)]
    return [_product(flow, call, letters, spell_out(result, len(call.outputs[0].shape)))]


def _matmul(flow: Flow, call: Call) -> Sequence[Layout]:
    ranks = [len(tensor.shape) for tensor in call.inputs]
    if len(ranks) != 2 or min(ranks) < 2:
        raise NoRule("it multiplies with a constant")
    batch = string.ascii_lowercase[: max(ranks) - 2]
    first, second = (batch[len(batch) - rank + 2 :] for rank in ranks)
    return [_product(flow, call, [[*first, "X", "Y"], [*second, "Y", "Z"]], [*batch, "X", "Z"])]


def _product(flow: Flow, call: Call, terms: list[list[str]], result: list[str]) -> Layout:
    """Follow a sum of products. Channels of each term that the result has, too, are heads: the rest is in them.

    So are those of one term where the other has a single one: queries that share their only key or value.
    """
    by_letter: dict[str, list[np.ndarray | None]] = {}
    for term, tensor, layout in zip(terms, call.inputs, flow.inputs(call), strict=True):
        for letter, size, channels in zip(term, tensor.shape, layout, strict=True):
            if size != 1:
                by_letter.setdefault(letter, []).append(channels)
    channels_by_letter = {
        letter: [channels for channels in same_letter if channels is not None]
        for letter, same_letter in by_letter.items()
    }
    for letter, same_letter in by_letter.items():
        if letter not in result:
            flow.pin(channels_by_letter[letter], f"{call.layer.name}: {_SUMMED}")
        elif len(channels_by_letter[letter]) < len(same_letter):
            flow.pin(channels_by_letter[letter], f"{call.layer.name}: they meet channels that are fixed")
    is_shared = {letter for letter, same_letter in by_letter.items() if len(same_letter) > 1}
    heads = {
        letter
        for letter in is_shared.intersection(result)
        if len(channels_by_letter[letter]) == len(by_letter[letter])
    }
    heads = heads or {letter for letter in _queries(flow, call, terms, result) if channels_by_letter.get(letter)}
    flow.name_heads(channels for letter in heads for channels in channels_by_letter[letter])
    for letter, same in channels_by_letter.items():
        if heads and letter not in is_shared | heads:
            flow.pin(same, f"{call.layer.name}: a head has a fixed size")
        for channels in same[1:]:
            flow.tie(same[0], channels)
    first = {
        letter: channels
        for letter, same_letter in by_letter.items()
        for channels in same_letter[::-1]
        if channels is not None
    }
    return tuple(map(first.get, result))


def _queries(flow: Flow, call: Call, terms: list[list[str]], result: list[str]) -> set[str]:
    """Return the letters that one term has alone, where another has a single head along an axis of both."""
    shared = {letter for letter in result if sum(letter in term for term in terms) > 1}
    layouts = list(zip(terms, [tensor.shape for tensor in call.inputs], flow.inputs(call), strict=True))
    has_one = [
        any(
            letter in shared and size == 1 and channels is not None
            for letter, size, channels in zip(*layout, strict=True)
        )
        for layout in layouts
    ]
    others = (term for place, term in enumerate(terms) if any(has_one[:place] + has_one[place + 1 :]))
    return {letter for term in others for letter in term} & set(result) - shared


def _dot_product_attention(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow attention in one operation: (batch, positions, heads, size of a head), keys for groups of queries."""
    given = inspect.signature(call.layer.call).bind(*call.args, **call.kwargs).arguments
    query, key, value = (flow.layout(given[name]) for name in ("query", "key", "value"))
    heads = [layout[2] for layout in (query, key, value)]
    flow.pin((layout[3] for layout in (query, key, value)), f"{call.layer.name}: a head has a fixed size")
    flow.pin((layout[1] for layout in (query, key, value)), f"{call.layer.name}: {_SUMMED}")
    spread = [given.get(name) for name in ("bias", "mask")]
    by_head = [tensor for tensor in spread if tensor is not None and tensor.shape[1] not in (None, 1)]
    if by_head or any(numbers is None for numbers in heads):
        flow.pin(heads, f"{call.layer.name}: they meet channels that are fixed")
        return [(None,) * 4]
    head_arrays = [numbers for numbers in heads if numbers is not None]
    head_arrays = [
        numbers for numbers in head_arrays if numbers.size > 1
    ] or head_arrays  # an only key stays for all queries
    for numbers in head_arrays[1:]:
        flow.tie(head_arrays[0], np.repeat(numbers, head_arrays[0].size // numbers.size))
    flow.name_heads(head_arrays)
    return [(None, None, head_arrays[0], None)]


def _reduction(flow: Flow, call: Call) -> Sequence[Layout]:
    layout, rank = flow.inputs(call)[0], len(call.inputs[0].shape)
    axes = list(range(rank)) if call.layer.axis is None else [axis % rank for axis in np.atleast_1d(call.layer.axis)]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: {_SUMMED}")
    result = [None if axis in axes else channels for axis, channels in enumerate(layout)]
    return [tuple(channels for axis, channels in enumerate(result) if call.layer.keepdims or axis not in axes)]


def _normalized(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow a softmax along an axis, where each entry depends on all."""
    layout = flow.inputs(call)[0]
    given = range(len(layout)) if call.layer.axis is None else np.atleast_1d(call.layer.axis)
    axes = [axis % len(layout) for axis in given]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: it normalizes all channels together")
    return [tuple(None if axis in axes else channels for axis, channels in enumerate(layout))]


# What an expression such as `x * 2 + y`, or a function of keras.ops, puts into a graph, by the name of its class.
_UNARY = (
    "Abs Absolute Cast Celu Clip ConvertToTensor Cos Elu Erf Exp Expm1 Gelu HardShrink HardSigmoid HardSilu "
    "HardTanh Identity LeakyRelu Log Log1p LogSigmoid LogicalNot Negative OnesLike Relu Relu6 Rsqrt Selu Sigmoid "
    "Sign Silu Sin SoftShrink Softplus Softsign Sqrt Square SquarePlus StopGradient Tanh TanhShrink ZerosLike"
)
_BINARY = (
    "Add Divide Equal Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr Maximum Minimum Multiply NotEqual "
    "Power Subtract TrueDivide Where"
)
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), elementwise),
    **dict.fromkeys(_BINARY.split(), _merge),
    **_MOVES,
    **dict.fromkeys(["All", "Any", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"], _reduction),
    **dict.fromkeys(["LogSoftmax", "Softmax"], _normalized),
    "DotProductAttention": _dot_product_attention,
    "Concatenate": _concatenate,
    "Einsum": _einsum,
    "Matmul": _matmul,
}

"""Rules for layers with kernels: how channels go through dense, convolutional, embedding and recurrent layers."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.base.arrays import parse_equation, spell_out
from tfprune.channels.graph import Flow, Rule, channel_axis
from tfprune.models.graph import Call
from tfprune.models.tracing import BATCH, LENGTH, is_channelwise
from tfprune.solving.dependency_graph import Layout, NoRule, Work, has_channels, positions, sizes

# How channels go through layers with kernels: dense, convolutional, embedding.

# Keras' activations that look at one entry; others are tried out on numbers.
_ENTRYWISE = frozenset(
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "exponential"),
        *("sigmoid", "hard_sigmoid", "hard_silu", "log_sigmoid", "tanh", "hard_tanh", "softplus", "softsign"),
    )
)


def check_activation(layer: Any, *, name: str = "activation") -> None:
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
            check_activation(layer, name=name)
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

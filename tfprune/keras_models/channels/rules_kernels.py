"""How channels go through layers with kernels: dense, convolutional, embedding."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.base.axes import parse_equation, spell_out
from tfprune.keras_models.channels.graph import Flow, Rule, channel_axis
from tfprune.keras_models.models.graph import Call
from tfprune.keras_models.tracing.channelwise import is_channelwise
from tfprune.keras_models.tracing.sample_inputs import BATCH, LENGTH
from tfprune.solving.dependency_graph import Layout, NoRule, Work, sizes

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


def pin_for_activation(flow: Flow, layer: Any, *, outputs: np.ndarray) -> None:
    """Let the channels that a layer makes stay if one of its activations looks at several."""
    for name in ("activation", "recurrent_activation"):
        try:
            check_activation(layer, name=name)
        except NoRule as reason:
            flow.pin([outputs], f"{layer.name}: {reason}")


def dense(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    inputs = flow.along(flow.inputs(call)[0], -1)
    outputs = flow.fresh(layer.units, name=layer.name)
    kernel = (inputs, outputs)
    work = [(flow.positions(shape, -1), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, config={"units": outputs}, work=work)
    pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), -1, outputs)]


def einsum_dense(flow: Flow, call: Call) -> Sequence[Layout]:
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
            pin_for_activation(flow, layer, outputs=channels)
    return [layout]


def convolution(flow: Flow, call: Call) -> Sequence[Layout]:
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
    pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def transposed(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis = channel_axis(layer, len(shape))
    inputs = flow.along(flow.inputs(call)[0], axis)
    outputs = flow.fresh(layer.filters, name=layer.name)
    kernel = (*[None] * len(layer.kernel_size), outputs, inputs)
    work = [(flow.positions(call.inputs[0].shape, axis), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, config={"filters": outputs}, work=work)
    pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def depthwise(flow: Flow, call: Call) -> Sequence[Layout]:
    layer, shape = call.layer, call.outputs[0].shape
    axis = channel_axis(layer, len(shape))
    inputs = flow.along(flow.inputs(call)[0], axis)
    outputs = None if inputs is None else np.repeat(inputs, layer.depth_multiplier)
    kernel = (*[None] * len(layer.kernel_size), inputs, None)
    work = [(flow.positions(shape, axis), sizes(layer.kernel.shape, kernel))]
    flow.record(layer, {"kernel": kernel, "bias": (outputs,)}, work=work)
    if outputs is not None:
        pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def separable(flow: Flow, call: Call) -> Sequence[Layout]:
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
    pin_for_activation(flow, layer, outputs=outputs)
    return [flow.placed(len(shape), axis, outputs)]


def embedding(flow: Flow, call: Call) -> Sequence[Layout]:
    layer = call.layer
    outputs = flow.fresh(layer.output_dim, name=layer.name)
    weights = {"reverse_embeddings": (outputs, None), "embeddings": (None, outputs)}
    flow.record(layer, weights, config={"output_dim": outputs})
    return [(*flow.inputs(call)[0], outputs)]  # indices may be computed from channels


def reversible_embedding(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow an embedding that is also called in reverse, where it reads what it made."""
    layer, layout = call.layer, flow.inputs(call)[0]
    is_reversed = len(call.outputs[0].shape) == len(call.inputs[0].shape)
    if not is_reversed:
        return embedding(flow, call)
    inputs = flow.along(layout, -1)
    kernels = {"reverse_embeddings": (inputs, None), "embeddings": (None, inputs)}
    size = layer.output_dim if inputs is None else inputs
    work: list[Work] = [(flow.positions(call.inputs[0].shape, -1), (layer.input_dim, size))]
    flow.record(layer, kernels, config={} if inputs is None else {"output_dim": inputs}, work=work)
    return [(None,) * len(call.outputs[0].shape)]


KERNELS: dict[type, Rule] = {
    layers.Dense: dense,
    layers.EinsumDense: einsum_dense,
    layers.Embedding: embedding,
    layers.ReversibleEmbedding: reversible_embedding,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], convolution),
    **dict.fromkeys([layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], transposed),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], depthwise),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], separable),
}

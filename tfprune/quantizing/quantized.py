"""Quantized: a wrapper whose layer computes as an 8-bit operator does, in floats; and the rules of the operators."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops

from tfprune.masking.pruned import Clustered
from tfprune.models.anatomy import Anatomy, Kernel, as_numpy, check_keras, is_of_keras, sublayers, walk
from tfprune.models.tracing import FAILURES, OpenedCall, inner_names, is_tensor, open_call, own_weights

# Round to the grid of 8-bit integers and stay in floats, as the operators of a .tflite file compute.

_INTEGER_STEPS = 255  # between the lowest and the highest of 8-bit integers
_FLAT = 1e-6  # the least width of a range: that of a tensor of zeros
# Channels of small weights get a grid this much finer than the kernel's at most, so that biases fit 32 bits.
_FINEST = 2.0**-10
# What an export puts in the place of rounding while it traces a model; None rounds.
marks_range: ContextVar[Callable[[Any, Any], Any] | None] = ContextVar("marks_range", default=None)


def _fake_quantize(tensor: Any, bounds: Any) -> Any:
    """Round a tensor to 256 values over a range, of which 0 is one; clip what lies beyond.

    The gradient passes where nothing was clipped (Jacob et al. 2018, arXiv 1712.05877).

    Args:
        tensor: Floats of any shape.
        bounds: Low and high: 0 lies in between.
    """
    mark = marks_range.get()
    if mark is not None:
        return mark(tensor, bounds)
    low, high = _on_grid(bounds[0], bounds[1])
    return keras.quantizers.fake_quant_with_min_max_vars(tensor, low, high)


def _step(bounds: Any) -> Any:
    """Return the distance of two values of a range."""
    return ops.maximum(ops.cast(bounds[1] - bounds[0], "float32"), _FLAT) / _INTEGER_STEPS


def _twice_rounded(product: Any, unit: Any, *, step: Any) -> Any:
    """Return what is left of a product of two rounded tensors where a kernel rounds it twice.

    Kernels for the products of matrices that both change multiply the sum of integers by a number from 1/2 to 1 and
    round, and then divide by a power of two and round halves away from zero. XNNPACK has other kernels for weights.

    Args:
        product: The tensor.
        unit: Of what it is a multiple: the product of the steps of both.
        step: That of its own range.
    """
    power = ops.floor(ops.log2(unit / step)) + 1.0
    fine = step * ops.exp2(power)
    whole = ops.floor(ops.abs(product) / fine + 0.5)
    moved = ops.where(power < 0, ops.sign(product) * (whole + 0.25) * fine, product)  # 1/4 lets no half go up to zero
    return product + ops.stop_gradient(moved - product)


def _on_grid(low: Any, high: Any) -> tuple[Any, Any]:
    """Return a range moved by less than a step, so that 0 is a value of its grid.

    The interpreter and Keras both do so, and do not agree where 0 lies half-way between two values.
    """
    low, high = ops.cast(low, "float32"), ops.cast(high, "float32")
    scale = ops.maximum(high - low, _FLAT) / _INTEGER_STEPS
    below = ops.floor(-low / scale + 0.5)
    return -below * scale, (_INTEGER_STEPS - below) * scale


def _fake_quantize_weight(weight: Any, axes: str) -> Any:
    """Round a weight to the integers -127 to 127 times a scale, one for each output channel.

    Args:
        weight: The weight, a tensor.
        axes: One letter per dimension, as `register_prunable` takes them: `o` output, `c` a channel that is both.
    """
    channel_axes = [axis for axis, letter in enumerate(axes) if letter in "oc"]
    if len(channel_axes) == 1:
        return _round(weight, channel_axes[0])
    # A depthwise kernel has a channel for each pair of input channel and multiplier, heads one for each unit.
    order = [*(axis for axis in range(len(axes)) if axis not in channel_axes), *channel_axes]
    turned = ops.transpose(weight, order)
    inputs, channels = turned.shape[: -len(channel_axes)], turned.shape[-len(channel_axes) :]
    flat = ops.reshape(turned, (*inputs, math.prod(channels)))
    rounded = ops.reshape(_round(flat, len(inputs)), turned.shape)
    return ops.transpose(rounded, [order.index(axis) for axis in range(len(axes))])


def _fake_quantize_whole(weight: Any) -> Any:
    """Round a weight to the integers -127 to 127 times one scale, so that equal entries are equal integers.

    Args:
        weight: The weight, a tensor.
    """
    bound = ops.maximum(ops.max(ops.abs(ops.stop_gradient(weight))), _FLAT)
    return keras.quantizers.fake_quant_with_min_max_vars(weight, -bound, bound, narrow_range=True)


def _round(weight: Any, axis: int) -> Any:
    size = ops.abs(ops.stop_gradient(weight))
    whole = ops.max(size)
    bound = ops.max(size, axis=[other for other in range(len(weight.shape)) if other != axis])
    bound = ops.maximum(bound, ops.where(whole > 0, whole, ops.ones_like(whole)) * _FINEST)
    last = len(weight.shape) - 1  # on other backends than TensorFlow, Keras broadcasts the bounds along the last axis
    turned = ops.swapaxes(weight, axis, last)
    turned = keras.quantizers.fake_quant_with_min_max_vars(turned, -bound, bound, narrow_range=True, axis=last)
    return ops.swapaxes(turned, axis, last)


# Where the 8-bit operators of each kind of layer round.

FUSED = ("linear", "relu", "relu6")  # what an operator applies before it rounds
# Operators whose results have a range that the runtime fixes.
FIXED = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}
SEPARATE = (*FIXED, "silu", "hard_silu", "leaky_relu", "gelu", "gelu_tanh")  # operators of their own, in 8 bits

SUM = "sum_1"  # the first of the sums in between, where more than two tensors are added
LOGITS = "logits"  # the place before a softmax: numbers far below the largest one are all the same to it

MIXES = "mixes"  # an operator with a kernel
NORMALIZES = "normalizes"  # is folded into the kernel before it
ACTIVATES = "activates"
MERGES = "merges"  # several tensors, and applies an activation before it rounds
_ROUNDS = "rounds"  # an operator without weights
KEEPS = "keeps"  # moves numbers only, and keeps their range
LOOKS_UP = "looks up"  # takes rows of its weights, which get the range of what it returns
CONSTANT = "constant"  # computes from weights alone what the converter rounds as a constant
ISLAND = "island"  # several operators that compute in float, from rounded numbers to a rounded result
OPENS = "opens"  # calls layers and operations that have rules


@dataclass(frozen=True)
class RoundingRule:
    """How a kind of layer is computed in 8 bits.

    Attributes:
        kind: One of the constants of this module.
        inside: Names of the places between its input and its output where it rounds, with the output as the last.
        within: Names of such places before its output, which has a range as that of any other layer.
    """

    kind: str
    inside: tuple[str, ...] = field(default=())
    within: tuple[str, ...] = field(default=())


# They take a normalization into their kernel.
KERNELS = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
FOLDING = (*KERNELS, layers.SeparableConv2D)
_KEEPING = (
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Identity),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.GaussianDropout),
    *(layers.GaussianNoise, layers.AlphaDropout, layers.ActivityRegularization),
)
_LSTM = ("inputs", "states", "sum", "kept", "written", "carry", "state")
_GRU = ("inputs", "states", "update", "reset", "reset_state", "candidate", "kept", "rest", "written", "state")

_RULES: dict[type, RoundingRule] = {
    **dict.fromkeys((*KERNELS, layers.Conv2DTranspose, layers.EinsumDense), RoundingRule(MIXES)),
    layers.SeparableConv2D: RoundingRule(MIXES, within=("depthwise",)),
    **dict.fromkeys((layers.Rescaling, layers.Normalization), RoundingRule(_ROUNDS, within=("scaled",))),
    layers.BatchNormalization: RoundingRule(NORMALIZES),
    **dict.fromkeys((layers.Activation, layers.ReLU, layers.LeakyReLU, layers.Softmax), RoundingRule(ACTIVATES)),
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Multiply), RoundingRule(MERGES)),
    **dict.fromkeys((layers.Maximum, layers.Minimum, layers.Concatenate), RoundingRule(_ROUNDS)),
    **dict.fromkeys((layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D), RoundingRule(_ROUNDS)),
    **dict.fromkeys(_KEEPING, RoundingRule(KEEPS)),
    **dict.fromkeys((layers.Embedding, layers.ReversibleEmbedding), RoundingRule(LOOKS_UP)),
    **dict.fromkeys(
        (layers.LayerNormalization, layers.RMSNormalization, layers.GroupNormalization), RoundingRule(ISLAND)
    ),
    **dict.fromkeys(
        (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Average, layers.Dot), RoundingRule(OPENS)
    ),
    layers.LSTM: RoundingRule(MIXES, inside=_LSTM),
    layers.GRU: RoundingRule(MIXES, inside=_GRU),
}

ALONE = RoundingRule(NORMALIZES, within=("scaled",))  # a normalization that no kernel takes


# Layers of other packages, by package and class.
_HUB_TABLES = ("ReversibleEmbedding", "RelativeEmbedding")
_HUB_CONSTANTS = ("PositionEmbedding", "SinePositionEncoding")  # return the same whatever they take
_DISENTANGLED: tuple[str, ...] = ("query", "key", "value", "scaled", "place_query", "place_key", "place_scaled")
_DISENTANGLED += ("scores", "to_places", "from_places", "places", f"attention/{LOGITS}", "attended", "output")
_BY_NAME: dict[tuple[str, str], RoundingRule] = {
    **dict.fromkeys((("keras_hub", name) for name in _HUB_TABLES), RoundingRule(LOOKS_UP)),
    **dict.fromkeys((("keras_hub", name) for name in _HUB_CONSTANTS), RoundingRule(CONSTANT)),
    ("keras_hub", "DisentangledSelfAttention"): RoundingRule(MIXES, inside=_DISENTANGLED),
}
# Operations inside of layers that are opened, by the names of their classes, which Keras does not export.
_OPERATIONS: dict[str, RoundingRule] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "TrueDivide", "Einsum", "Matmul"), RoundingRule(_ROUNDS)),
    **dict.fromkeys(("Maximum", "Minimum", "Concatenate", "Mean"), RoundingRule(_ROUNDS)),
    **dict.fromkeys(("Relu", "Relu6", "Gelu", "Silu", "Sigmoid", "Tanh", "Softmax"), RoundingRule(ACTIVATES)),
    **dict.fromkeys(("Reshape", "Transpose", "ExpandDims", "Squeeze", "GetItem", "Split"), RoundingRule(KEEPS)),
    **dict.fromkeys(("BroadcastTo", "Repeat", "Tile", "Cast", "Swapaxes", "Moveaxis"), RoundingRule(KEEPS)),
    "DotProductAttention": RoundingRule(_ROUNDS, within=("scores", LOGITS)),
}


def rule_of(layer: Any) -> RoundingRule | None:
    """Return the rule of a layer or operation, None if it has none; a subclass may compute something else.

    A layer of another package that consists of layers is opened: its code calls layers and operations with rules.
    """
    if not isinstance(layer, layers.Layer):
        return _OPERATIONS.get(type(layer).__name__) if is_of_keras(layer) else None
    if type(layer) is layers.UpSampling2D and layer.interpolation == "nearest":
        return RoundingRule(KEEPS)
    name = type(layer).__module__.partition(".")[0], type(layer).__name__
    rule = _RULES.get(type(layer)) or _BY_NAME.get(name)
    return rule or (RoundingRule(OPENS) if _consists_of_layers(layer) else None)


def _consists_of_layers(layer: layers.Layer) -> bool:
    is_known = is_of_keras(layer) or isinstance(layer, (keras.Model, layers.Wrapper))
    return not is_known and bool(sublayers(layer)) and not own_weights(layer)


def opens(layer: Any) -> bool:
    """Return True if a layer is followed into what its code calls."""
    rule = rule_of(layer) if isinstance(layer, layers.Layer) else None
    return rule is not None and rule.kind == OPENS


def activation_of(layer: Any) -> str | None:
    """Return the name of the activation that a layer or operation applies, None if it is none of the simple ones."""
    if not isinstance(layer, layers.Layer):
        return _operation(layer)
    if isinstance(layer, layers.ReLU):
        return _relu(layer)
    if isinstance(layer, layers.Softmax):
        return "softmax" if isinstance(layer.axis, int) or len(layer.axis) == 1 else None
    if isinstance(layer, layers.LeakyReLU):
        return "leaky_relu"
    function = getattr(layer, "activation", None) or activations.linear
    named = {getattr(activations, name): name for name in (*FUSED, *SEPARATE) if hasattr(activations, name)}
    return named.get(function) or (None if isinstance(layer, layers.RNN) else _of_function(function))


_OF_OPERATIONS = {"Relu": "relu", "Relu6": "relu6", "Silu": "silu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def _operation(operation: Any) -> str | None:
    """Return the name of the activation that an operation is, "linear" if it is none."""
    kind = type(operation).__name__
    if kind == "Gelu":
        return "gelu_tanh" if operation.approximate else "gelu"
    if kind == "Softmax":
        return "softmax" if isinstance(operation.axis, int) else None
    return _OF_OPERATIONS.get(kind, "linear")


@functools.lru_cache(maxsize=64)
def _of_function(function: Callable[[Any], Any]) -> str | None:
    """Return the name of the activation that a function applies, None if it is not one operation that is known."""
    inputs = keras.Input((2,))
    try:
        called = keras.Model(inputs, function(inputs)).operations
    except FAILURES:
        return None
    names = [_operation(each) for each in called if not isinstance(each, layers.InputLayer)]
    return names[0] if len(names) == 1 and names[0] != "linear" else None


def _relu(layer: keras.layers.ReLU) -> str | None:
    if layer.threshold or layer.max_value not in (None, 6):
        return None
    if layer.negative_slope:
        return "leaky_relu" if layer.max_value is None else None
    return "relu" if layer.max_value is None else "relu6"


# Steps of recurrent layers that round where the operators of an unrolled file do.

_State = tuple[Any, list[Any]]  # what a step returns: the output, and the states for the next one
Round = Callable[[str, Any], Any]  # name, tensor -> the tensor on the grid of that range


def _fixed(name: str, tensor: Any) -> Any:
    """Apply an activation whose results have a range that the runtime fixes."""
    return _fake_quantize(getattr(keras.activations, name)(tensor), FIXED[name])


def _lstm_step(inputs: Any, states: Any, *, cell: Any, rounded: Round, training: bool = False) -> _State:
    """Do what `LSTMCell.call` does."""
    state, carry = states
    projected = rounded("inputs", ops.matmul(_dropped(cell, inputs, training), cell.kernel) + _bias(cell, 0))
    total = rounded("sum", projected + rounded("states", ops.matmul(state, cell.recurrent_kernel)))
    write, keep, new, read = ops.split(total, 4, axis=1)
    remembered = rounded("kept", _fixed("sigmoid", keep) * carry)
    written = rounded("written", _fixed("sigmoid", write) * _fixed("tanh", new))
    carry = rounded("carry", remembered + written)
    state = rounded("state", _fixed("sigmoid", read) * _fixed("tanh", carry))
    return state, [state, carry]


def _gru_step(inputs: Any, states: Any, *, cell: Any, rounded: Round, training: bool = False) -> _State:
    """Do what `GRUCell.call` does with `reset_after=True`."""
    (state,) = states
    projected = rounded("inputs", ops.matmul(_dropped(cell, inputs, training), cell.kernel) + _bias(cell, 0))
    past = rounded("states", ops.matmul(state, cell.recurrent_kernel) + _bias(cell, 1))
    parts = zip(ops.split(projected, 3, axis=1), ops.split(past, 3, axis=1), strict=True)
    (update, update_past), (reset, reset_past), (new, new_past) = parts
    update = _fixed("sigmoid", rounded("update", update + update_past))
    reset = _fixed("sigmoid", rounded("reset", reset + reset_past))
    new = _fixed("tanh", rounded("candidate", new + rounded("reset_state", reset * new_past)))
    written = rounded("written", rounded("rest", 1 - update) * new)
    state = rounded("state", rounded("kept", update * state) + written)
    return state, [state]


_CELL_STEPS: dict[type, Callable[..., _State]] = {
    keras.layers.LSTMCell: _lstm_step,
    keras.layers.GRUCell: _gru_step,
}


def _dropped(cell: Any, inputs: Any, training: bool) -> Any:
    return inputs * cell.get_dropout_mask(inputs) if training and cell.dropout else inputs


def _bias(cell: Any, row: int) -> Any:
    if not cell.use_bias:
        return 0.0
    return cell.bias[row] if len(cell.bias.shape) > 1 else cell.bias


# Layers that are two operators in a file, and round between them: a product and a sum, or two convolutions.


def _rescale(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `Rescaling.call` does."""
    return _affine(inputs, layer.scale, layer.offset, rounded)


def _normalize(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `Normalization.call` does."""
    scale = 1 / ops.maximum(ops.sqrt(layer.variance), keras.config.epsilon())
    return _affine(inputs, scale, -layer.mean * scale, rounded)


def _normalize_batches(
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


def _convolve_apart(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `SeparableConv2D.call` does."""
    arguments = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
    form = {"data_format": layer.data_format}
    maps = rounded("depthwise", ops.depthwise_conv(inputs, layer.depthwise_kernel, **arguments, **form))
    outputs = ops.conv(maps, layer.pointwise_kernel, **form)
    return layer.activation(outputs + layer.bias if layer.use_bias else outputs)


def _add_all(inputs: Any, *, layer: Any, rounded: Round) -> Any:
    """Do what `Add.call` does for more than two tensors."""
    first, *others, last = inputs
    for number, each in enumerate(others, start=1):
        first = rounded(f"sum_{number}", first + each)
    return first + last


_NEVER = -1e9  # what Keras puts in the place of scores under a mask


def _softmax_under_mask(inputs: Any, mask: Any = None, *, layer: Any, rounded: Any) -> Any:
    """Do what `Softmax.call` does with a mask."""
    mask = ops.cast(mask, "float32") > 0.5
    unit = rounded.unit(inputs) if isinstance(rounded, _Places) else None
    scores = rounded(LOGITS, ops.where(mask, inputs, _NEVER), **({} if unit is None else {"unit": unit}))
    return ops.where(mask, _fixed("softmax", scores), 0.0)


def _attend(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    *,
    layer: Any,
    rounded: Any,
) -> Any:
    """Do what the operation `dot_product_attention` does."""
    scores = rounded("scores", ops.einsum("BTNH,BSNH->BNTS", query, key), unit=rounded.unit(query, key))
    scores = scores * (1 / math.sqrt(key.shape[-1]) if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if layer.is_causal:
        places = [ops.arange(ops.shape(tensor)[1]) for tensor in (query, key)]
        causal = ops.expand_dims(places[0], 1) >= ops.expand_dims(places[1], 0)
        mask = causal if mask is None else ops.logical_and(mask, causal)
    scores = scores if mask is None else ops.where(mask, scores, _NEVER)
    attention = rounded.noted(_fixed("softmax", rounded(LOGITS, scores)), _step(FIXED["softmax"]))
    return rounded.noted(ops.einsum("BNTS,BSNH->BTNH", attention, value), rounded.unit(attention, value))


def _multiply(inputs: Any, *, layer: Any, rounded: Round, training: bool | None = None) -> Any:
    """Do what `Dense.call` does, as one product of matrices.

    Between a product of more axes and its bias, TensorFlow's converter puts a reshape and computes both in float.
    """
    if len(inputs.shape) == 2:
        return type(layer).call(layer, inputs)
    return _product(inputs, layer.kernel, layer.bias if layer.use_bias else None, axes=1, layer=layer)


def _multiply_axes(inputs: Any, *, layer: Any, rounded: Round, training: bool | None = None) -> Any:
    """Do what `EinsumDense.call` does, as one product of matrices where the equation is one."""
    source, kernel, target = layer.equation.replace("->", ",").replace(" ", "").split(",")
    contracted = [letter for letter in source if letter in kernel]
    rest = [letter for letter in target if letter in kernel]
    lead = source[: len(source) - len(contracted)]
    bias = layer.bias
    is_product = [*source] == [*lead, *contracted] and len(kernel) == len(contracted) + len(rest)
    if not is_product or [*target] != [*lead, *rest] or (bias is not None and len(bias.shape) > len(rest)):
        return type(layer).call(layer, inputs)
    turned = ops.transpose(layer.kernel, [kernel.index(letter) for letter in (*contracted, *rest)])
    return _product(inputs, turned, bias, axes=len(contracted), layer=layer)


def _product(inputs: Any, kernel: Any, bias: Any, *, axes: int, layer: Any) -> Any:
    """Multiply the last axes of inputs by the first ones of a kernel, add a bias, and apply the activation."""
    contracted, rest = kernel.shape[:axes], kernel.shape[axes:]
    width = math.prod(rest)
    outputs = ops.matmul(
        ops.reshape(inputs, (-1, math.prod(contracted))), ops.reshape(kernel, (math.prod(contracted), width))
    )
    if bias is not None:
        outputs = outputs + ops.reshape(ops.broadcast_to(bias, rest), (width,))
    outputs = outputs if layer.activation is None else layer.activation(outputs)
    lead = ops.shape(inputs)[1 : len(inputs.shape) - axes]
    return ops.reshape(outputs, (-1, *lead, *rest))


def _normalize_rows(inputs: Any, *, layer: Any, rounded: Round, **_: Any) -> Any:
    """Do what `LayerNormalization.call` does, for twice the numbers, which have the same result.

    Of rounded numbers themselves, the converter would round the mean, too.
    """
    with _replaced(layer, {"epsilon": 4 * layer.epsilon}):
        return type(layer).call(layer, inputs * 2)


def _attend_apart(
    inputs: Any,
    rel_embeddings: Any,
    attention_mask: Any = None,
    training: bool | None = None,
    *,
    layer: Any,
    rounded: Any,
    **_: Any,
) -> Any:
    """Do what the self-attention of DeBERTa does (He et al. 2021, arXiv 2006.03654, equation 4).

    Queries are scaled, not scores, and the places are those of any sample: what depends on them alone is a constant.
    """
    parts = {part.name: part for part in sublayers(layer)}
    drop = next(part for name, part in parts.items() if isinstance(part, layers.Dropout) and "attention" not in name)
    table = drop(rel_embeddings[:1], training=training)

    def heads(name: str, tensor: Any, place: str) -> Any:
        split = rounded(place, _multiply_axes(tensor, layer=parts[name], rounded=rounded))
        return rounded.noted(ops.transpose(split, (0, 2, 1, 3)), rounded.unit(split))

    def product(name: str, one: Any, other: Any, *, turns: bool = True) -> Any:
        result = ops.matmul(one, ops.swapaxes(other, 2, 3) if turns else other)
        return rounded(name, result, unit=rounded.unit(one, other))

    query, key, value = (heads(name, inputs, name) for name in ("query", "key", "value"))
    place_query, place_key = (heads(name, table, f"place_{name}") for name in ("query", "key"))
    query = rounded("scaled", query * layer.scale_factor)
    place_query = rounded("place_scaled", place_query * layer.scale_factor)
    length = _length(inputs, layer)
    to_key, to_query = _entries_of_pairs(length, buckets=layer.bucket_size, longest=layer.max_position_embeddings)
    to_places, from_places = product("to_places", query, place_key), product("from_places", key, place_query)
    scores = product("scores", query, key)
    places = rounded("places", _entries(to_places, to_key) + _entries(from_places, to_query))
    logits, name = scores + places, f"attention/{LOGITS}"
    if attention_mask is None:
        attention = _fixed("softmax", rounded(name, logits))
    else:
        mask = ops.expand_dims(attention_mask, 1) if len(attention_mask.shape) == 3 else attention_mask
        as_logits = functools.partial(_renamed, rounded, name)
        attention = _softmax_under_mask(logits, mask, layer=layer, rounded=as_logits)
    attention = parts["attention_dropout"](attention, training=training)
    attention = rounded.noted(attention, _step(FIXED["softmax"]))
    attended = ops.transpose(product("attended", attention, value, turns=False), (0, 2, 1, 3))
    attended = ops.reshape(attended, (-1, length, math.prod(attended.shape[2:])))
    return _multiply_axes(attended, layer=parts["attention_output"], rounded=rounded)


def _renamed(rounded: Round, name: str, _: str, tensor: Any) -> Any:
    return rounded(name, tensor)


def _length(inputs: Any, layer: Any) -> int:
    length = inputs.shape[1]
    if length is None:
        raise ValueError(
            f"Expected inputs of a fixed length for {layer.name!r}, whose scores depend on distances. Received: "
            f"inputs of shape {tuple(inputs.shape)}. Fix the length in keras.Input(shape)."
        )
    return int(length)


def _entries_of_pairs(length: int, *, buckets: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each query and key which entry of all queries and distances is theirs, and which of all keys.

    Distances up to half of the buckets have one each, and longer ones share them by their logarithm.
    """
    apart = np.arange(length)[:, None] - np.arange(length)
    half, size = buckets // 2, np.abs(apart)
    far = np.log(np.maximum(size, half).astype(np.float32) / half) * (half - 1)
    shared = np.ceil(far / np.log(np.float32(longest - 1) / half)) + half
    near = np.where(size <= half, apart, np.sign(apart) * shared).astype(np.int64)
    starts = np.arange(length)[:, None] * 2 * buckets
    to_key, to_query = (starts + np.clip(rows + buckets, 0, 2 * buckets - 1) for rows in (near, -near))
    return to_key, to_query.T


def _entries(table: Any, places: np.ndarray) -> Any:
    """Return entries of each table of distances, one for each two positions."""
    heads, *sizes = table.shape[1:]
    flat = ops.reshape(table, (-1, heads, math.prod(sizes)))
    return ops.reshape(ops.take(flat, places.ravel(), axis=2), (-1, heads, *places.shape))


_PRODUCTS = ("Einsum", "Matmul")  # operations with two factors

# Layers that are always computed in these ways.
_FORMS: dict[type, Callable[..., Any]] = {
    layers.Dense: _multiply,
    layers.EinsumDense: _multiply_axes,
    layers.LayerNormalization: _normalize_rows,
}
_HUB_FORMS: dict[str, Callable[..., Any]] = {"DisentangledSelfAttention": _attend_apart}
_WAYS: dict[type, Callable[..., Any]] = {
    layers.Rescaling: _rescale,
    layers.Normalization: _normalize,
    layers.BatchNormalization: _normalize_batches,
    layers.SeparableConv2D: _convolve_apart,
    layers.Add: _add_all,
    layers.Softmax: _softmax_under_mask,
}
_OPERATION_WAYS: dict[str, Callable[..., Any]] = {"DotProductAttention": _attend}


def _affine(inputs: Any, scale: Any, offset: Any, rounded: Round) -> Any:
    inputs = ops.cast(inputs, keras.config.floatx())
    return rounded("scaled", inputs * _constant(scale)) + _constant(offset)


def _constant(values: Any) -> Any:
    """Round constants as the converter does: to 256 values from the least to the largest, of which 0 is one."""
    values = ops.cast(values, keras.config.floatx())
    return _fake_quantize(values, (ops.minimum(ops.min(values), 0), ops.maximum(ops.max(values), 0)))


# Quantized: a wrapper whose layer computes as an 8-bit operator does, in floats.

_DECAY = 0.99  # of the moving average of a range
_LONG = 512  # keys, where their number is open


@keras.saving.register_keras_serializable(package="tfprune")
class Quantized(Clustered):
    """Wrap a layer so that it rounds where the operator of an 8-bit file does: weights and activations.

    Weights are read through their masks, if they have some, and then rounded to the integers -127 to 127 times a
    scale. Activations are rounded to 256 values over a range that is a moving average of what each batch of training
    holds; inference reads it and never changes it. `tfprune.quantize_aware` makes these wrappers.

    Args:
        layer: The layer. It is used as it is, not copied.
        ranges: The names of the tensors that get a range: `input_0` and so on, `activation`, `output`, and those
            within a recurrent layer.
        learns_ranges: Whether training moves the ranges.
        in_float: The paths of the layers inside that do not round, neither activations nor weights.
        known: Ranges that are fixed for good, low and high by name, as in the copy that is exported.
        **kwargs: Arguments of `Pruned`, of which `weights` names none by default, and `levels`: how many values the
            entries of each weight share, 0 among them; None leaves each its own.

    Example:
        >>> layer = Quantized(keras.layers.Dense(3), ranges=["input_0", "output"])
        >>> layer(keras.ops.ones((1, 4))).shape
        TensorShape([1, 3])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        ranges: Sequence[str] = (),
        learns_ranges: bool = True,
        in_float: Sequence[str] = (),
        known: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.range_names, self.learns_ranges, self.in_float = tuple(ranges), learns_ranges, tuple(in_float)
        self._traces = _Traces()
        self.known = None if known is None else {name: tuple(bounds) for name, bounds in known.items()}
        super().__init__(layer, **kwargs)
        self.ranges = {
            name: self.add_weight(
                name=f"{_flat(name)}_range", shape=(2,), dtype="float32", initializer="zeros", trainable=False,
                aggregation="mean",
            )
            for name in (self.range_names if self.known is None else ())
        }  # fmt: skip

    def _own(self) -> dict[str, Any]:
        own = {"ranges": self.range_names, "learns_ranges": self.learns_ranges, "known": self.known}
        own |= {"in_float": self.in_float} if self.in_float else {}
        return {**super()._own(), **own}

    def _read_inside(self) -> list[keras.Variable]:
        return [*super()._read_inside(), *self.ranges.values()]

    def _value(self, variable: keras.Variable, training: bool | None) -> Any:
        value = super()._value(variable, training)
        kernel = self.inner_kernels.get(id(variable))
        if kernel is None or self.known is not None:  # of the copy that is exported, the weights are rounded
            return value
        return self.on_grid(ops.copy(value), kernel)  # a tensor: what a backend calls a value may be a variable

    @functools.cached_property
    def _left(self) -> frozenset[int]:
        """The ids of weights that are not rounded: rows of tables are rounded as what a layer returns."""
        names = inner_names(self.layer)
        parts = [part for _, part in walk(self.layer)]
        left = [part for part in parts if names[id(part)] in self.in_float or isinstance(part, layers.Embedding)]
        return frozenset(id(weight) for part in left for weight in part.weights)

    def on_grid(self, weight: Any, kernel: Kernel) -> Any:
        """Return the values of a kernel on the grid of its integers; one for all channels if they share values."""
        if id(kernel.variable) in self._left:
            return weight
        return _fake_quantize_weight(weight, kernel.axes) if self.levels is None else _fake_quantize_whole(weight)

    def rounded(self, name: str, tensor: Any, *, training: bool | None, unit: Any = None) -> Any:
        """Return a tensor on the grid of its range; training moves the range first.

        Args:
            name: The name of the range.
            tensor: The tensor.
            training: Whether the range moves.
            unit: Of what integers it is a sum, where it is a product of two rounded tensors; None if it is none.
        """
        if self.known is not None:
            return _fake_quantize(tensor, self.known[name])
        variable = self.ranges[name]
        bounds = ops.convert_to_tensor(variable)
        if training and self.learns_ranges:
            values = ops.stop_gradient(tensor)
            bounds = _moved(bounds, _relevant(values) if name.rpartition("/")[2] == LOGITS else values)
            variable.assign(bounds)
        if unit is not None:
            tensor = _twice_rounded(tensor, unit, step=_step(bounds))
        if training and self.learns_ranges:
            return _fake_quantize(tensor, bounds)
        # Before it has seen data, it computes as the layer does.
        return ops.where(bounds[1] > bounds[0], _fake_quantize(tensor, bounds), tensor)

    def step_of(self, name: str) -> Any:
        """Return the distance of two values of a range; None of the copy that is exported."""
        return None if self.known is not None else _step(ops.convert_to_tensor(self.ranges[name]))

    def known_ranges(self) -> dict[str, tuple[float, float]]:
        """Return the ranges as they are now.

        Raises:
            ValueError: If one has seen no data, or a bound of it is NaN or infinite.
        """
        ranges = {name: tuple(as_numpy(variable).tolist()) for name, variable in self.ranges.items()}
        if any(low < high for low, high in ranges.values()):  # what a Lambda calls a float may be the bool of a mask
            ranges = {
                name: each for name, each in ranges.items() if each[0] != each[1] or not name.startswith("input_")
            }
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(
                    f"Expected numbers in the range {name!r} of {self.name!r}. Received: {low} to {high}: a batch "
                    f"held such numbers. Train from an earlier checkpoint, with a lower learning rate."
                )
            if low >= high:
                raise ValueError(
                    f"Expected ranges that have seen data. Received: {name!r} of {self.name!r}, which has seen none. "
                    f"Train the model that tfprune.quantize_aware returned with fit first."
                )
        # Any range holds a tensor of zeros, and one of this width suits the biases behind it.
        return {name: (low, high if high - low > 2 * _FLAT else 1.0) for name, (low, high) in ranges.items()}

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        rounded = functools.partial(self.rounded, training=training)
        names = frozenset(self.range_names), frozenset(self.in_float)
        places = _Places(*names, rounded, self.step_of, self._traces, bool(training))
        return self._through_masks(functools.partial(_compute, self.layer, places), training, *args, **kwargs)

    def saved_variables(self) -> dict[str, keras.Variable]:
        """Return the variables that files hold besides the layer's: masks, latent and shared values, and ranges."""
        return super().saved_variables() | {
            f"{_flat(name)}_range": variable for name, variable in self.ranges.items()
        }


def _flat(name: str) -> str:
    """Return the name of a range as variables may have it."""
    return name.replace("/", ".")


# How a layer or operation is called so that it rounds, and what is inside of it.


@dataclass(frozen=True)
class _Places:
    """The places where a layer, or a part of it, rounds.

    Attributes:
        names: The names of all that have a range.
        in_float: The parts that do not round.
        rounded: Rounds a tensor to the range of a name.
        step_of: Returns the distance of two values of a range.
        traces: What the code of a layer calls, by the kind of its arguments.
        training: Whether dropout drops: Keras tells layers inside, and arguments need not hold it.
        prefix: Begins the names of this part.
        steps: By the id of each tensor that is rounded, the tensor and the distance of two of its values.
    """

    names: frozenset[str]
    in_float: frozenset[str]
    rounded: Callable[..., Any]  # as `Round`, and with the unit of a product
    step_of: Callable[[str], Any]
    traces: _Traces
    training: bool
    prefix: str = ""
    steps: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.names

    def __call__(self, name: str, tensor: Any, *, unit: Any = None) -> Any:
        if name not in self:
            return self.noted(tensor, unit)
        rounded = self.rounded(self.prefix + name, tensor, unit=unit)
        return self.noted(rounded, self.step_of(self.prefix + name))

    def noted(self, tensor: Any, step: Any) -> Any:
        """Return a tensor whose values are some steps apart."""
        if step is not None:
            self.steps[id(tensor)] = tensor, step
        return tensor

    def unit(self, *factors: Any) -> Any:
        """Return the step of a product of tensors; None if it is not known."""
        steps = [self.steps.get(id(factor), (None, None))[1] for factor in factors]
        return None if not steps or any(step is None for step in steps) else math.prod(steps)


@dataclass(frozen=True, eq=False)
class _Traces:
    """Calls that were opened; an object that Keras does not look into for layers, as it does in a dict."""

    known: dict[Any, OpenedCall] = field(default_factory=dict)

    def opened(self, layer: Any, args: Any, kwargs: Any, *, training: bool) -> OpenedCall:
        """Return what a call of a layer calls."""
        leaves = [_specification(leaf) for leaf in keras.tree.flatten((args, kwargs))]
        structure = keras.tree.map_structure(lambda _: None, (args, kwargs))
        key = id(layer), training, str(structure), *leaves
        if key in self.known:
            return self.known[key]
        opened = open_call(layer, (args, kwargs), opens=opens)
        if opened.is_constant:
            self.known[key] = opened
        return opened


def _specification(leaf: Any) -> Any:
    return (str(leaf.shape), keras.backend.standardize_dtype(leaf.dtype)) if is_tensor(leaf) else repr(leaf)


def _compute(layer: Any, places: _Places, /, *args: Any, **kwargs: Any) -> Any:
    """Call a layer or operation, and round where its operators do."""
    numbers = itertools.count()

    def rounded(leaf: Any) -> Any:
        is_float = is_tensor(leaf) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype))
        return places(f"input_{next(numbers)}", leaf) if is_float else leaf

    args, kwargs = keras.tree.map_structure(rounded, (args, kwargs))
    factors = [leaf for leaf in keras.tree.flatten((args, kwargs)) if is_tensor(leaf)]
    if isinstance(layer, layers.Layer):
        with _replaced(layer, _replacements(layer, places)):
            outputs = layer(*args, **kwargs)
    else:
        way = _OPERATION_WAYS.get(type(layer).__name__)
        outputs = layer(*args, **kwargs) if way is None else way(*args, **kwargs, layer=layer, rounded=places)
    if opens(layer):
        return outputs
    rule, activation = rule_of(layer), activation_of(layer)
    if rule is not None and rule.kind == CONSTANT:
        return _constant(outputs)
    if type(layer).__name__ in _PRODUCTS or (rule is not None and rule.kind == KEEPS):
        outputs = places.noted(outputs, places.unit(*factors))
    outputs = places("activation", outputs)
    if _is_split(layer, places):
        outputs = _activated(activation, outputs)
    elif activation in FIXED and "output" not in places and not isinstance(layer, layers.RNN):
        low, high = FIXED[str(activation)]
        outputs = places.noted(_fake_quantize(outputs, (low, high)), _step((low, high)))
    name = LOGITS if LOGITS in places and _ends_in_softmax(layer) else "output"
    return places(name, outputs, unit=places.unit(outputs))


def _replacements(layer: Any, places: _Places) -> dict[str, Any]:
    """Return the attributes to replace while a layer is called."""
    if opens(layer):
        return {"call": functools.partial(_call_opened, layer, places)}
    if isinstance(layer, layers.RNN):
        step = functools.partial(_CELL_STEPS[type(layer.cell)], cell=layer.cell, rounded=places)
        return {"unroll": True, "use_cudnn": False, "cell": {"call": step}}
    replacements: dict[str, Any] = {"activation": keras.activations.linear} if _is_split(layer, places) else {}
    way = _WAYS.get(type(layer)) if any(name in places for name in ("scaled", "depthwise", SUM, LOGITS)) else None
    way = way or _FORMS.get(type(layer)) or _HUB_FORMS.get(type(layer).__name__ if rule_of(layer) else "")
    if way is not None:
        replacements["call"] = functools.partial(way, layer=layer, rounded=places)
    return replacements


def _call_opened(layer: Any, places: _Places, /, *args: Any, **kwargs: Any) -> Any:
    """Do what the code of a layer does, each of its calls rounded."""
    opened = places.traces.opened(layer, args, kwargs, training=places.training)

    def call(name: str, part: Any, /, *args: Any, **kwargs: Any) -> Any:
        if places.prefix + name in places.in_float:
            return part(*args, **kwargs)
        return _compute(part, replace(places, prefix=f"{places.prefix}{name}/"), *args, **kwargs)

    return opened.run([leaf for leaf in keras.tree.flatten((args, kwargs)) if is_tensor(leaf)], call)


def _is_split(layer: Any, places: _Places) -> bool:
    """Return True if the activation is more than the end of the layer's operator."""
    return "activation" in places or activation_of(layer) == "silu"


def _ends_in_softmax(layer: Any) -> bool:
    return not isinstance(layer, layers.Softmax) and type(layer).__name__ not in _OPERATION_WAYS


def _activated(name: str | None, tensor: Any) -> Any:
    """Apply an activation as its operators do."""
    if str(name).startswith("gelu"):
        return keras.activations.gelu(tensor, approximate=name == "gelu_tanh")
    if name in FIXED:
        return _fixed(name, tensor)
    if name == "silu":  # a sigmoid and a product
        return tensor * _fixed("sigmoid", tensor)
    return getattr(keras.activations, str(name))(tensor)


def _moved(bounds: Any, tensor: Any) -> Any:
    """Return a range after one more batch: the first one's, and then a moving average; 0 lies in it."""
    values = ops.cast(tensor, "float32")
    low, high = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
    batch = ops.stack([low, ops.maximum(high, low + _FLAT)])
    moved = ops.where(high > low, _DECAY * bounds + (1 - _DECAY) * batch, bounds)
    return ops.where(bounds[1] - bounds[0] > 2 * _FLAT, moved, batch)  # zeros alone say nothing of a range


def _relevant(scores: Any) -> Any:
    """Return the scores that a softmax takes, without those so low that it returns 0 for them: masks put them there.

    The least score that matters lies so far below the largest of its row that all those under a mask together move
    the result by less than half a step of 1/256. A row in which nothing but the mask is left counts as zeros.
    """
    scores = ops.cast(scores, "float32")
    largest = ops.max(scores, axis=-1, keepdims=True)
    scores = ops.where(largest > _NEVER / 2, scores, ops.zeros_like(scores))
    depth = math.log(2 * 256) + math.log(scores.shape[-1] or _LONG)
    return ops.maximum(scores, ops.max(scores, axis=-1, keepdims=True) - depth)


@contextmanager
def _replaced(layer: keras.layers.Layer, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Give a layer other attributes for the time being, a dict to one inside of it."""
    with ExitStack() as stack:
        for name, value in attributes.items():
            if isinstance(value, Mapping):
                stack.enter_context(_replaced(getattr(layer, name), value))
            else:
                stack.callback(_put_back(layer, name))
                setattr(layer, name, value)
        yield


def _put_back(layer: keras.layers.Layer, name: str) -> Callable[[], None]:
    if name in vars(layer):
        return functools.partial(setattr, layer, name, getattr(layer, name))
    return functools.partial(delattr, layer, name)


def quantized_layers(model: keras.Model) -> dict[str, Quantized]:
    """Return the wrappers of a model that round, by their paths.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If there are none.
    """
    check_keras(model)
    layers = {path: layer for path, layer in Anatomy.of(model).leaves if isinstance(layer, Quantized)}
    if not layers:
        raise ValueError(
            f"Expected a model that tfprune.quantize_aware returned. Received: {model.name!r}, no layer of which is "
            f"quantized."
        )
    return layers

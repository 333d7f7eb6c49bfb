"""How channels go through operations: products, reductions, and whatever treats each entry by itself."""

from __future__ import annotations

import inspect
import string
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import spell_out
from tfprune.keras_models.channels.graph import Flow, Rule
from tfprune.keras_models.channels.rules_moves import MOVES
from tfprune.keras_models.channels.rules_shapes import concatenate, elementwise, merge
from tfprune.keras_models.models.graph import Call
from tfprune.keras_models.tracing.channelwise import is_channelwise
from tfprune.keras_models.tracing.trace_failure import FAILURES
from tfprune.solving.dependency_graph import Layout, NoRule, has_channels

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


def einsum(flow: Flow, call: Call) -> Sequence[Layout]:
    terms, _, result = call.layer.subscripts.replace(" ", "").partition("->")
    ranks = [len(tensor.shape) for tensor in call.inputs]
    if len(call.inputs) != len(terms.split(",")):
        raise NoRule("it multiplies with a constant")
    letters = [spell_out(term, rank) for term, rank in zip(terms.split(","), ranks, strict=True)]
    return [_product(flow, call, letters, spell_out(result, len(call.outputs[0].shape)))]


def matmul(flow: Flow, call: Call) -> Sequence[Layout]:
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


def dot_product_attention(flow: Flow, call: Call) -> Sequence[Layout]:
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


def reduction(flow: Flow, call: Call) -> Sequence[Layout]:
    layout, rank = flow.inputs(call)[0], len(call.inputs[0].shape)
    axes = list(range(rank)) if call.layer.axis is None else [axis % rank for axis in np.atleast_1d(call.layer.axis)]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: {_SUMMED}")
    result = [None if axis in axes else channels for axis, channels in enumerate(layout)]
    return [tuple(channels for axis, channels in enumerate(result) if call.layer.keepdims or axis not in axes)]


def normalized(flow: Flow, call: Call) -> Sequence[Layout]:
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
    **dict.fromkeys(_BINARY.split(), merge),
    **MOVES,
    **dict.fromkeys(["All", "Any", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"], reduction),
    **dict.fromkeys(["LogSoftmax", "Softmax"], normalized),
    "DotProductAttention": dot_product_attention,
    "Concatenate": concatenate,
    "Einsum": einsum,
    "Matmul": matmul,
}

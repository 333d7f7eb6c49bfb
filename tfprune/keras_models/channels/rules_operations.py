"""How channels go through operations: products, reductions, and whatever moves entries or treats each by itself."""

from __future__ import annotations

import inspect
import string
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import shape_along, spell_out
from tfprune.keras_models.channels.flow import Flow, Rule
from tfprune.keras_models.channels.no_rule import NoRule
from tfprune.keras_models.channels.rules_shapes import concatenate, elementwise, merge
from tfprune.keras_models.channels.ties import Layout
from tfprune.keras_models.models.graph import Call
from tfprune.keras_models.tracing.channelwise import is_channelwise
from tfprune.keras_models.tracing.sample_inputs import fixed_shape
from tfprune.keras_models.tracing.trace_failure import FAILURES

_SUMMED = "it adds up channels without a kernel"


def alone(flow: Flow, call: Call, *, reason: str) -> Sequence[Layout]:
    """Follow what has no rule, along each axis of which it treats the channels one by one.

    Raises:
        NoRule: With the reason, if there is no such axis.
    """
    rank = len(call.outputs[0].shape)
    given = {id(tensor): flow.layout(tensor) for tensor in call.inputs if any_of(flow.layout(tensor))}
    axes = sorted({axis for layout in given.values() for axis, channels in enumerate(layout) if channels is not None})
    fits = all(len(tensor.shape) == rank for tensor in call.outputs) and all(
        len(layout) == rank for layout in given.values()
    )
    found = [axis for axis in axes if fits and _is_alone(call, given, axis)]
    if not found:
        raise NoRule(reason)
    result: list[np.ndarray | None] = [None] * rank
    for axis in axes:
        known = [channels for layout in given.values() if (channels := layout[axis]) is not None]
        if axis in found:
            result[axis] = known[0]
            for channels in known[1:]:
                flow.tie(known[0], channels)
        else:
            flow.pin(known, f"{call.layer.name}: it looks at all of them at once")
    return [tuple(result)] * len(call.outputs)


def any_of(layout: Layout) -> bool:
    return any(channels is not None for channels in layout)


def _is_alone(call: Call, given: dict[int, Layout], axis: int) -> bool:
    axes = {key: axis for key, layout in given.items() if layout[axis] is not None}
    if len({layout[axis].size for key, layout in given.items() if key in axes}) > 1:  # type: ignore[union-attr]
        return False
    return is_channelwise(call.layer, (call.args, call.kwargs), axes=axes)


def moved(flow: Flow, call: Call) -> Sequence[Layout]:
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
    _note_sizes(flow, call, results)
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
    differing = [axis for axis in range(numbers.ndim) if np.any(numbers != numbers.take([0], axis))]
    if not differing:
        flow.pin([np.unique(numbers)], f"{call.layer.name}: it picks one of them")
        return 0, None
    kept = differing[0]
    lines = np.moveaxis(numbers, kept, 0).reshape(numbers.shape[kept], -1)
    columns = np.unique(lines, axis=1).T
    if len(differing) > 1 and sum(np.unique(line).size for line in columns.T) != np.unique(columns).size:
        raise NoRule("it mixes channels with positions in a way that cannot be followed")
    for column in columns[1:]:
        flow.tie(columns[0], column)
    return kept, columns[0]


_SIZES = {"Reshape": "newshape", "BroadcastTo": "shape"}


def _note_sizes(flow: Flow, call: Call, results: list[list[np.ndarray | None]]) -> None:
    """Note the sizes that are written into an operation, or refuse them."""
    kind, result = type(call.layer).__name__, results[0]
    taken = [channels for layout in flow.inputs(call) for channels in layout if channels is not None]
    if kind in _SIZES and any_of(tuple(result)):
        sizes = zip(call.outputs[0].shape, result, strict=True)
        counted = tuple((-1 if size is None else size) if channels is None else channels for size, channels in sizes)
        flow.note(call.layer, {_SIZES[kind]: counted})
    elif kind == "Split":
        parts = [part[axis] for part in results for axis in [call.layer.axis] if part[axis] is not None]
        if parts and not isinstance(call.layer.indices_or_sections, int):
            raise NoRule("it splits them at fixed indices")
        for part in parts[1:]:
            flow.tie(parts[0], part)
    elif kind == "GetItem" and _picks_some(flow, call, results):
        flow.pin(taken, f"{call.layer.name}: it takes a slice of them")


def _picks_some(flow: Flow, call: Call, results: list[list[np.ndarray | None]]) -> bool:
    taken = [channels for channels in flow.inputs(call)[0] if channels is not None]
    kept = [channels for channels in results[0] if channels is not None]
    return [channels.size for channels in taken] != [channels.size for channels in kept]


def repeat(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow what is repeated; one key that all queries share is repeated for those that are kept."""
    (layout,), axis = flow.inputs(call), call.layer.axis
    key = None if axis is None else layout[axis]
    if key is None or key.size > 1:
        return moved(flow, call)
    copies = flow.copies(int(call.outputs[0].shape[axis]))
    flow.note(call.layer, {"repeats": copies})
    return [tuple(copies if index == axis % len(layout) else channels for index, channels in enumerate(layout))]


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
    found: dict[str, list[np.ndarray | None]] = {}
    for term, tensor, layout in zip(terms, call.inputs, flow.inputs(call), strict=True):
        for letter, size, channels in zip(term, tensor.shape, layout, strict=True):
            if size != 1:
                found.setdefault(letter, []).append(channels)
    known = {letter: [channels for channels in given if channels is not None] for letter, given in found.items()}
    for letter, given in found.items():
        if letter not in result:
            flow.pin(known[letter], f"{call.layer.name}: {_SUMMED}")
        elif len(known[letter]) < len(given):
            flow.pin(known[letter], f"{call.layer.name}: they meet channels that are fixed")
    is_shared = {letter for letter, given in found.items() if len(given) > 1}
    heads = {letter for letter in is_shared.intersection(result) if len(known[letter]) == len(found[letter])}
    heads = heads or {letter for letter in _queries(flow, call, terms, result) if known.get(letter)}
    flow.name_heads(channels for letter in heads for channels in known[letter])
    for letter, same in known.items():
        if heads and letter not in is_shared | heads:
            flow.pin(same, f"{call.layer.name}: a head has a fixed size")
        for channels in same[1:]:
            flow.tie(same[0], channels)
    first = {letter: channels for letter, given in found.items() for channels in given[::-1] if channels is not None}
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
    known = [numbers for numbers in heads if numbers is not None]
    known = [numbers for numbers in known if numbers.size > 1] or known  # an only key stays for all queries
    for numbers in known[1:]:
        flow.tie(known[0], np.repeat(numbers, known[0].size // numbers.size))
    flow.name_heads(known)
    return [(None, None, known[0], None)]


def reduction(flow: Flow, call: Call) -> Sequence[Layout]:
    layout, rank = flow.inputs(call)[0], len(call.inputs[0].shape)
    axes = list(range(rank)) if call.layer.axis is None else [axis % rank for axis in np.atleast_1d(call.layer.axis)]
    flow.pin((layout[axis] for axis in axes), f"{call.layer.name}: {_SUMMED}")
    result = [None if axis in axes else channels for axis, channels in enumerate(layout)]
    return [tuple(channels for axis, channels in enumerate(result) if call.layer.keepdims or axis not in axes)]


def normalized(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow a softmax along an axis, where each entry depends on all."""
    layout = flow.inputs(call)[0]
    axes = [axis % len(layout) for axis in np.atleast_1d(call.layer.axis)]
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
_MOVES = (
    "BroadcastTo ExpandDims Flip GetItem Moveaxis Reshape Roll Split Squeeze Stack Swapaxes Take Tile "
    "Transpose Unstack"
)
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), elementwise),
    **dict.fromkeys(_BINARY.split(), merge),
    **dict.fromkeys(_MOVES.split(), moved),
    **dict.fromkeys(["All", "Any", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"], reduction),
    **dict.fromkeys(["LogSoftmax", "Softmax"], normalized),
    "DotProductAttention": dot_product_attention,
    "Concatenate": concatenate,
    "Einsum": einsum,
    "Repeat": repeat,
    "Matmul": matmul,
}

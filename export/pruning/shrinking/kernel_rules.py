"""How channels go through operators with kernels, and through those that treat each entry or channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfprune.export.pruning.layers.linear_operators import TABLES
from tfprune.export.pruning.shrinking.file_flow import FileFlow, OperatorCall, Rule
from tfprune.export.pruning.shrinking.move_rules import MOVES, moved, reshaped
from tfprune.solving.dependency_graph import Layout, NoRule, Size, has_channels


def convolution(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    x, weight = call.inputs[:2]
    shape = _kernel_shape(flow, weight, rank=4)
    inputs, outputs = flow.last(x), flow.fresh(shape[0], name=flow.name(weight))
    groups = flow.shape(x)[-1] // shape[3]
    if groups > 1:
        reason = f"{call.name}: a grouped convolution of channels that are fixed"
        flow.tie_groups(inputs, outputs, count=groups, reason=reason)
        inputs = None
    layout = (outputs, None, None, inputs)
    _hold_kernel(flow, call, layout, places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def depthwise(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    x, weight = call.inputs[:2]
    shape, inputs = _kernel_shape(flow, weight, rank=4), flow.last(x)
    outputs = None if inputs is None else np.repeat(inputs, shape[3] // inputs.size)
    layout = (None, None, None, outputs)
    _hold_kernel(flow, call, layout, places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def transposed(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    weight, x = call.inputs[1:3]
    shape = _kernel_shape(flow, weight, rank=4)
    inputs, outputs = flow.last(x), flow.fresh(shape[0], name=flow.name(weight))
    layout = (outputs, None, None, inputs)
    _hold_kernel(flow, call, layout, places=(1, 3), outputs=outputs, at=x)
    flow.count(call, 0, {3: outputs})
    return [flow.placed(call.outputs[0], outputs)]


def fully_connected(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    x, weight = call.inputs[:2]
    shape = _kernel_shape(flow, weight, rank=2)
    if call.options is not None and call.options.weightsFormat:
        raise NoRule("its weights are shuffled")
    inputs = None
    if flow.shape(x)[-1] == shape[1]:
        inputs = flow.last(x)
    elif has_channels(flow.layout(x)):  # it joins the last axes of what it takes
        (layout,) = moved(flow, x, move=lambda numbers: [reshaped(numbers, (numbers.size // shape[1], shape[1]))])
        inputs = layout[-1]
    outputs = flow.fresh(shape[0], name=flow.name(weight))
    _hold_kernel(flow, call, (outputs, inputs), places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def product(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a product with a constant matrix."""
    x, weight = call.inputs[:2]
    if not flow.is_constant(weight):
        raise NoRule("it multiplies two tensors that are computed")
    shape = flow.shape(weight)
    if call.options.adjX or np.prod(shape[:-2]) != 1:
        raise NoRule("it multiplies by several matrices, or by a transposed activation")
    inputs = flow.last(x)
    outputs = flow.fresh(shape[-2 if call.options.adjY else -1], name=flow.name(weight))
    pair = (outputs, inputs) if call.options.adjY else (inputs, outputs)
    layout = (*[None] * (len(shape) - 2), *pair)
    _hold_kernel(flow, call, layout, places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def lookup(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a lookup: the columns of a constant table are channels, and those of other rows stay in line."""
    indices, table = (call.inputs[place] for place in TABLES[call.name])
    axis, batch_axes = (call.options.axis, call.options.batchDims) if call.options else (0, 0)
    if batch_axes or has_channels(flow.layout(indices)):
        raise NoRule("it picks rows of several tables, or by channels")
    shape, spread = flow.shape(table), (None,) * len(flow.shape(indices))
    axis %= len(shape)
    if flow.is_constant(table) and (len(shape), axis) == (2, 0):
        outputs = flow.fresh(shape[1], name=flow.name(table))
        flow.hold(call, TABLES[call.name][1], (None, outputs), is_kernel=True)
        return [(*spread, outputs)]
    layout = flow.layout(table)
    if layout[axis] is not None:
        raise NoRule("it picks some of them")
    return [(*layout[:axis], *spread, *layout[axis + 1 :])]


def _kernel_shape(flow: FileFlow, weight: int, *, rank: int) -> tuple[int, ...]:
    shape = flow.shape(weight)
    if not flow.is_constant(weight) or len(shape) != rank:
        raise NoRule("its weight is not a constant")
    return shape


def _hold_kernel(
    flow: FileFlow,
    call: OperatorCall,
    layout: Layout,
    *,
    places: tuple[int, int],
    outputs: np.ndarray | None,
    at: int,
) -> None:
    """Note the channels of a kernel and its bias, by their places, and the work of the kernel at each position."""
    kernel, bias = places
    flow.hold(call, kernel, layout, is_kernel=True)
    flow.multiply(call, call.inputs[kernel], layout, at=at)
    if call.takes(bias):
        if not flow.is_constant(call.inputs[bias]):
            raise NoRule("its bias is not a constant")
        flow.hold(call, bias, (outputs,))


def each_alone(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow an operator that treats each entry by itself."""
    return [flow.layout(call.inputs[0])]


def spatial(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow pooling and resizing, which treat each channel by itself."""
    return [flow.placed(call.outputs[0], flow.last(call.inputs[0]))]


def padding(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a padding; channels that it adds stay or go with those that they meet."""
    layout, counted = list(flow.layout(call.inputs[0])), dict[int, Size]()
    for axis, channels in enumerate(layout):
        pads = [] if channels is None else flow.numbers(call.inputs[1])[2 * axis : 2 * axis + 2]
        if channels is None or not any(pads):
            continue
        if call.name == "MIRROR_PAD":
            raise NoRule("it repeats some channels")
        before, after = (flow.copies(count) for count in pads)
        layout[axis] = np.concatenate([before, channels, after])
        counted |= {2 * axis: before, 2 * axis + 1: after}
    if counted:
        flow.count(call, 1, counted)
    return [tuple(layout)]


def normalized(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a softmax along the last axis, where each entry depends on all."""
    layout = flow.layout(call.inputs[0])
    if layout and layout[-1] is not None:
        raise NoRule("it normalizes all channels together")
    return [layout]


def reduction(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    if not has_channels(layout):
        return [flow.layout(call.outputs[0])]
    axes = {axis % len(layout) for axis in flow.numbers(call.inputs[1])}
    if any(layout[axis] is not None for axis in axes):
        raise NoRule("it adds up channels without a kernel")
    keeps = bool(call.options.keepDims)
    return [tuple(channels for axis, channels in enumerate(layout) if keeps or axis not in axes)]


def merge(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Tie the entries that an operator combines one by one, unless one entry is spread over all."""
    rank = len(flow.shape(call.outputs[0]))
    operands = {place: tensor for place, tensor in enumerate(call.inputs) if tensor >= 0 and flow.shape(tensor)}
    constants = {place: tensor for place, tensor in operands.items() if flow.is_constant(tensor)}
    computed = [tensor for place, tensor in operands.items() if place not in constants]
    result = tuple(_merged(flow, call, computed, axis - rank) for axis in range(rank))
    for place, tensor in constants.items():
        shape = flow.shape(tensor)
        along = result[rank - len(shape) :]
        layout = tuple(None if size == 1 else channels for size, channels in zip(shape, along, strict=True))
        if has_channels(layout):
            flow.hold(call, place, layout)
    return [result]


def _merged(flow: FileFlow, call: OperatorCall, tensors: Sequence[int], axis: int) -> np.ndarray | None:
    reason = f"{call.name}: they meet channels that are fixed"
    shapes = {tensor: shape for tensor in tensors if len(shape := flow.shape(tensor)) >= -axis}
    channels = flow.meet([(shape[axis], flow.layout(tensor)[axis]) for tensor, shape in shapes.items()], reason)
    if channels is None or channels.size == flow.shape(call.outputs[0])[axis]:
        return channels
    flow.pin([channels], reason)
    return None


def concatenation(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    operands = [(flow.shape(tensor), flow.layout(tensor)) for tensor in call.inputs]
    axis, beside = call.options.axis % len(operands[0][0]), f"{call.name}: beside channels that are fixed"
    return [flow.join(operands, axis, outside="an input of the file, or a constant", beside=beside)]


_ALONE = (
    "RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU ELU LOGISTIC TANH HARD_SWISH GELU ABS EXP LOG SQRT RSQRT SQUARE "
    "NEG SIN COS FLOOR CEIL ROUND SIGN CAST QUANTIZE DEQUANTIZE FAKE_QUANT LOGICAL_NOT ZEROS_LIKE"
)
_MERGES = (
    "ADD SUB MUL DIV MAXIMUM MINIMUM POW SQUARED_DIFFERENCE FLOOR_DIV FLOOR_MOD PRELU ADD_N SELECT_V2 GREATER "
    "GREATER_EQUAL LESS LESS_EQUAL EQUAL NOT_EQUAL LOGICAL_AND LOGICAL_OR"
)
_SPATIAL = (
    "MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPACE_TO_BATCH_ND "
    "BATCH_TO_SPACE_ND"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ALONE.split(), each_alone),
    **dict.fromkeys(_MERGES.split(), merge),
    **dict.fromkeys(_SPATIAL.split(), spatial),
    **dict.fromkeys(["PAD", "PADV2", "MIRROR_PAD"], padding),
    **dict.fromkeys(["SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"], normalized),
    **dict.fromkeys(["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"], reduction),
    **MOVES,
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": depthwise,
    "TRANSPOSE_CONV": transposed,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": product,
    "CONCATENATION": concatenation,
    **dict.fromkeys(TABLES, lookup),
}

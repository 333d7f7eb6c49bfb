"""How channels go through operators that move entries: reshape, transpose, slice, split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfprune.export.pruning.shrinking.file_flow import OPTIONS, FileFlow, OperatorCall, Rule
from tfprune.solving.dependency_graph import Layout, NoRule, Size, differing_axes, placed

Move = Callable[[np.ndarray], Sequence[np.ndarray]]


def moved(flow: FileFlow, tensor: int, *, move: Move) -> list[Layout]:
    """Follow an operator that moves entries, by what it does to the numbers of the channels.

    Raises:
        NoRule: If channels are not in one line of the result.
    """
    layout, shape = flow.layout(tensor), flow.shape(tensor)
    (axis,) = _axes(layout) or (0,)
    channels = layout[axis] if layout else None
    if channels is None:
        return [(None,) * result.ndim for result in move(np.zeros(shape, np.int8))]
    lengths = [-1 if other == axis else 1 for other in range(len(shape))]
    numbers = np.broadcast_to(channels.reshape(lengths), shape)
    return [_line(flow, result) for result in move(numbers)]


def _axes(layout: Layout) -> list[int]:
    axes = [axis for axis, channels in enumerate(layout) if channels is not None]
    if len(axes) > 1:
        raise NoRule("it takes channels along several axes")
    return axes


def _line(flow: FileFlow, numbers: np.ndarray) -> Layout:
    """Return the channels along the axis that can lose entries as a whole, and tie those that it joins."""
    axis, channels = flow.line(numbers, differing_axes(numbers)[::-1], "an operator picks one of them")
    return placed(numbers.ndim, axis, channels)


def reshape(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    shape = flow.shape(call.outputs[0])
    layouts = moved(flow, call.inputs[0], move=lambda numbers: [reshaped(numbers, shape)])
    counted: dict[int, Size] = {axis: channels for axis, channels in enumerate(layouts[0]) if channels is not None}
    if not counted or call.name != "RESHAPE":
        return layouts
    if call.takes(1):
        is_open = flow.pieces.has_values(call.inputs[1]) and flow.numbers(call.inputs[1])[[*counted][0]] < 0
        if not is_open:
            flow.count(call, 1, counted)
    else:
        flow.of(call).arguments[OPTIONS] = tuple(counted.get(axis, size) for axis, size in enumerate(shape))
    return layouts


def reshaped(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers in another shape.

    Raises:
        NoRule: If there are more or fewer of them, as where sizes are open.
    """
    if numbers.size != np.prod(shape):
        raise NoRule("it reshapes positions whose number is not known")
    return numbers.reshape(shape)


def transpose(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    if not _axes(layout):
        return [flow.layout(call.outputs[0])]
    return [tuple(layout[axis] for axis in flow.numbers(call.inputs[1]))]


def strided_slice(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    layout, shape = flow.layout(call.inputs[0]), flow.shape(call.inputs[0])
    if not _axes(layout):
        return [flow.layout(call.outputs[0])]
    begins, ends, steps = (flow.numbers(call.inputs[place]) for place in (1, 2, 3))
    options = call.options
    if options.ellipsisMask or options.newAxisMask:
        raise NoRule("it adds axes")

    def bit(mask: int, axis: int) -> bool:
        return bool(mask >> axis & 1)

    slices: list[slice | int] = []
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if bit(options.shrinkAxisMask, axis):
            slices.append(begin)
        else:
            first = None if bit(options.beginMask, axis) else begin
            slices.append(slice(first, None if bit(options.endMask, axis) else end, step))
    (axis,) = _axes(layout)
    if axis < len(slices):
        along = slices[axis]
        if isinstance(along, int) or along.step != 1:
            raise NoRule("it picks some of them")
        begin, end, _ = along.indices(shape[axis])
        channels: np.ndarray = layout[axis]  # type: ignore[assignment]
        if along.start is not None:
            flow.count(call, 1, {axis: channels[:begin]})
        if along.stop is not None:
            flow.count(call, 2, {axis: channels[:end]})
    return moved(flow, call.inputs[0], move=lambda numbers: [numbers[tuple(slices)]])


def plain_slice(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    layout, shape = flow.layout(call.inputs[0]), flow.shape(call.inputs[0])
    if not _axes(layout):
        return [flow.layout(call.outputs[0])]
    begins, sizes = flow.numbers(call.inputs[1]), flow.numbers(call.inputs[2])
    ends = [length if size < 0 else begin + size for begin, size, length in zip(begins, sizes, shape, strict=True)]
    (axis,) = _axes(layout)
    channels: np.ndarray = layout[axis]  # type: ignore[assignment]
    flow.count(call, 1, {axis: channels[: begins[axis]]})
    if sizes[axis] >= 0:
        flow.count(call, 2, {axis: channels[begins[axis] : ends[axis]]})
    slices = tuple(slice(begin, end) for begin, end in zip(begins, ends, strict=True))
    return moved(flow, call.inputs[0], move=lambda numbers: [numbers[slices]])


def split_evenly(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a split into equal parts, of which each has to lose as many channels."""
    tensor = call.inputs[1]
    (axis,) = flow.numbers(call.inputs[0])
    layouts = moved(flow, tensor, move=lambda numbers: np.split(numbers, len(call.outputs), axis))
    axis %= len(flow.shape(tensor))
    parts = [layout[axis] for layout in layouts if layout[axis] is not None]
    for part in parts[1:]:
        flow.tie(parts[0], part)  # type: ignore[arg-type]
    return layouts


def split_by_sizes(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    sizes, (axis,) = flow.numbers(call.inputs[1]), flow.numbers(call.inputs[2])
    if min(sizes) < 0:
        raise NoRule("it splits into parts whose sizes are open")
    layouts = moved(flow, call.inputs[0], move=lambda numbers: np.split(numbers, np.cumsum(sizes)[:-1], axis))
    axis %= len(flow.shape(call.inputs[0]))
    if layouts[0][axis] is not None:
        flow.count(call, 1, {index: layout[axis] for index, layout in enumerate(layouts)})  # type: ignore[misc]
    return layouts


def stack(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    layouts = [flow.layout(tensor) for tensor in call.inputs]
    rank = len(flow.shape(call.outputs[0]))
    for first, second in zip(layouts, layouts[1:], strict=False):
        for ours, theirs in zip(first, second, strict=True):
            if (ours is None) != (theirs is None):
                raise NoRule("it puts channels beside channels that are fixed")
            if ours is not None and theirs is not None:
                flow.tie(ours, theirs)
    axis = call.options.axis % rank
    return [(*layouts[0][:axis], None, *layouts[0][axis:])]


def blocks(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow an operator that moves blocks of positions into channels, or back."""
    size, (count, height, width, depth) = call.options.blockSize, flow.shape(call.inputs[0])

    def move(numbers: np.ndarray) -> list[np.ndarray]:
        if call.name == "SPACE_TO_DEPTH":
            apart = numbers.reshape(count, height // size, size, width // size, size, depth)
            moved = apart.transpose(0, 1, 3, 2, 4, 5)
        else:
            apart = numbers.reshape(count, height, width, size, size, depth // size**2)
            moved = apart.transpose(0, 1, 3, 2, 4, 5)
        return [moved.reshape(flow.shape(call.outputs[0]))]

    return moved(flow, call.inputs[0], move=move)


def read_shape(flow: FileFlow, call: OperatorCall) -> Sequence[Layout]:
    """Follow a shape of which only sizes of other axes are taken, such as the batch."""
    tracked = _axes(flow.layout(call.inputs[0]))
    for taker in flow.takers_of(call.outputs[0]) if tracked else []:
        if taker.name != "STRIDED_SLICE":
            raise NoRule("it counts them")
        (begin,), (end,) = flow.numbers(taker.inputs[1]), flow.numbers(taker.inputs[2])
        if not (taker.options.shrinkAxisMask & 1 and end) or begin in tracked:
            raise NoRule("it counts them")
    return [(None,)]


MOVES: dict[str, Rule] = {
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "EXPAND_DIMS": reshape,
    "TRANSPOSE": transpose,
    "STRIDED_SLICE": strided_slice,
    "SLICE": plain_slice,
    "SPLIT": split_evenly,
    "SPLIT_V": split_by_sizes,
    "PACK": stack,
    "SPACE_TO_DEPTH": blocks,
    "DEPTH_TO_SPACE": blocks,
    "SHAPE": read_shape,
}

"""How channels go through operations that move entries: reshape, transpose, split, roll, take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import shape_along
from tfprune.keras_models.channels.graph import Flow, Rule
from tfprune.keras_models.models.graph import Call
from tfprune.keras_models.tracing.sample_inputs import fixed_shape
from tfprune.keras_models.tracing.trace_failure import FAILURES
from tfprune.solving.dependency_graph import ChannelIndices, Layout, NoRule, differing_axes, has_channels


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


def repeat(flow: Flow, call: Call) -> Sequence[Layout]:
    """Follow what is repeated; one key that all queries share is repeated for those that are kept."""
    (layout,), axis = flow.inputs(call), call.layer.axis
    key = None if axis is None else layout[axis]
    if key is not None and np.size(call.layer.repeats) > 1:
        raise NoRule("it repeats some channels more often than others")
    if key is None or key.size > 1:
        return moved(flow, call)
    copies = flow.copies(int(call.outputs[0].shape[axis]))
    flow.note(call.layer, {"repeats": copies})
    return [tuple(copies if index == axis % len(layout) else channels for index, channels in enumerate(layout))]


# What else has to be known so that an operation does the same in a smaller graph: the arguments that count or index
# channels, and which channels have to stay. Each gets the channels along the axes of what the operation returns.
Results = list[list["np.ndarray | None"]]


def _shape(flow: Flow, call: Call, results: Results) -> None:
    (argument, result), shape = (_SHAPES[type(call.layer).__name__], results[0]), call.outputs[0].shape
    if has_channels(tuple(result)):
        sizes = zip(shape, result, strict=True)
        counted = tuple((-1 if size is None else size) if channels is None else channels for size, channels in sizes)
        flow.note(call.layer, {argument: counted})


def _parts(flow: Flow, call: Call, results: Results) -> None:
    parts = [part[call.layer.axis] for part in results]
    channel_arrays = [part for part in parts if part is not None]
    if channel_arrays and not isinstance(call.layer.indices_or_sections, int):
        raise NoRule("it splits them at fixed indices")
    for part in channel_arrays[1:]:
        flow.tie(channel_arrays[0], part)


def _slice(flow: Flow, call: Call, results: Results) -> None:
    before, after = (_known(layout) for layout in (flow.inputs(call)[0], results[0]))
    if [channels.size for channels in before] != [channels.size for channels in after]:
        flow.pin(before, f"{call.layer.name}: it takes a slice of them")


def _shifts(flow: Flow, call: Call, results: Results) -> None:
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


def _indices(flow: Flow, call: Call, results: Results) -> None:
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


def _squeezed(flow: Flow, call: Call, results: Results) -> None:
    """Name the axes, as an axis of channels of which one is kept is not among them."""
    shape = call.inputs[0].shape
    if call.layer.axis is None:
        flow.note(call.layer, {"axis": tuple(axis for axis, size in enumerate(shape) if size == 1)})


def _known(layout: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    return [channels for channels in layout if channels is not None]


_SHAPES = {"Reshape": "newshape", "BroadcastTo": "shape"}
_NOTES: dict[str, Callable[[Flow, Call, Results], None]] = {
    **dict.fromkeys(_SHAPES, _shape),
    "GetItem": _slice,
    "Roll": _shifts,
    "Split": _parts,
    "Squeeze": _squeezed,
    "Take": _indices,
}
_MOVES = (
    "BroadcastTo ExpandDims Flip GetItem Moveaxis Reshape Roll Split Squeeze Stack Swapaxes Take Tile "
    "Transpose Unstack"
)
MOVES: dict[str, Rule] = {**dict.fromkeys(_MOVES.split(), moved), "Repeat": repeat}

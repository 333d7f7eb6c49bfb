"""Channels of a file, followed from operator to operator, and the groups that can be removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfprune.export.file.document import indices_of, inputs_of, operator_name
from tfprune.export.pruning.layers import PLACES, TABLES, FileLayer, LinearOperator, find_layers
from tfprune.export.pruning.pieces import FilePart, Pieces, Variable, file_parts, integers_of
from tfprune.solving.dependency_graph import (
    ChannelFlow,
    DependencyGraph,
    Group,
    Layout,
    NoRule,
    Recorded,
    Size,
    along,
    channels_in,
    check_fits,
    differing_axes,
    flops,
    form_groups,
    has_channels,
    in_bundles,
    placed,
    sizes,
)

# Follow the channels of a file from operator to operator, and note what each constant has of them.

OPTIONS = -1  # the place of a shape that is an option of its operator
_BEGIN, _END = "WHILE", "end of WHILE"
_SHARED = "operators share a constant, and not its channels"


@dataclass(frozen=True, eq=False)
class _OperatorCall:
    """One operator of a file.

    Attributes:
        holder: Its number among the steps of all parts.
        name: Its kind.
        options: Its options.
        inputs: The tensors that it takes, -1 for one that is left out.
        outputs: The tensors that it makes.
        turns: How often it runs.
    """

    holder: int
    name: str
    options: Any
    inputs: list[int]
    outputs: list[int]
    turns: int = 1

    def takes(self, place: int) -> bool:
        """Return True if it has an input at a place."""
        return place < len(self.inputs) and self.inputs[place] >= 0


class _FileGraph:
    """The first graph of a file, with the graphs of its loops in place.

    Args:
        pieces: The file.

    Attributes:
        parts: The graphs.
        calls: Its operators.
        outputs: The tensors that it returns, and whether loops go on.
        samples: The number of samples of one run.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.parts = pieces, file_parts(pieces)
        self._sizes: dict[int, tuple[int, ...]] = {}  # of tensors whose shapes in the file leave them open
        conditions = [part for part in self.parts if part.loop is not None][1::2]
        self.outputs = [
            tensor + part.first_tensor
            for part in (self.parts[0], *conditions)
            for tensor in indices_of(part.pieces.graph.outputs)
        ]
        self.calls = [*self._calls(self.parts[0])]
        lengths = {self.shape(tensor)[:1] for tensor in pieces.inputs}
        self.samples = max([1, *lengths.pop()]) if len(lengths) == 1 else 1

    def _calls(self, part: FilePart) -> Iterator[_OperatorCall]:
        """Yield the operators of a part; a loop begins and ends, and its body and condition are between."""
        model, first = part.pieces.model, part.first_tensor
        for step, operator in enumerate(part.pieces.steps):
            inputs, outputs = (
                [tensor + first if tensor >= 0 else tensor for tensor in tensors]
                for tensors in (inputs_of(operator), indices_of(operator.outputs))
            )
            name, options = operator_name(model, operator), operator.builtinOptions
            call = _OperatorCall(part.first_step + step, name, options, inputs, outputs, part.turns)
            inner = [each for each in self.parts if each.loop == step] if part is self.parts[0] else []
            if not inner:
                yield call
                continue
            takes = [tensor + each.first_tensor for each in inner for tensor in each.pieces.inputs]
            results = [tensor + inner[0].first_tensor for tensor in inner[0].pieces.outputs]
            yield replace(call, name=_BEGIN, outputs=takes)
            for each in inner:
                yield from self._calls(each)
            yield replace(call, name=_END, inputs=[*results, *takes[: len(results)]])

    def home(self, tensor: int) -> tuple[Pieces, int]:
        """Return the graph of a tensor, and its number there."""
        part = next(part for part in reversed(self.parts) if part.first_tensor <= tensor)
        return part.pieces, tensor - part.first_tensor

    def info(self, tensor: int) -> Any:
        """Return a tensor as the file describes it."""
        pieces, own = self.home(tensor)
        return pieces.graph.tensors[own]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor; sizes that are open count as 1."""
        shape = self._sizes.get(tensor, self.info(tensor).shape)
        return () if shape is None else tuple(map(int, shape))

    def set_size(self, tensor: int, axis: int, size: int) -> None:
        """Note a size that the file leaves open."""
        signature, shape = self.info(tensor).shapeSignature, [*self.shape(tensor)]
        if signature is not None and len(signature) == len(shape) and signature[axis] < 0:
            shape[axis] = size
            self._sizes[tensor] = tuple(shape)

    def has_values(self, tensor: int) -> bool:
        """Return True if a tensor is a constant that lies in the file."""
        pieces, own = self.home(tensor)
        return pieces.has_values(own)

    def constant_behind(self, tensor: int) -> int:
        """Return the constant that a tensor is unpacked from; the tensor itself if it is not unpacked."""
        pieces, own = self.home(tensor)
        return tensor - own + pieces.constant_behind(own)

    def is_constant(self, tensor: int) -> bool:
        """Return True if a tensor is a constant of the file, or unpacked from one."""
        return self.has_values(self.constant_behind(tensor))

    def name(self, tensor: int) -> str:
        """Return the name of the constant behind a tensor."""
        return (self.info(self.constant_behind(tensor)).name or b"").decode(errors="replace")

    def numbers(self, tensor: int) -> list[int]:
        """Return the entries of a constant of integers, such as axes.

        Raises:
            NoRule: If it is computed.
        """
        if not self.has_values(tensor):
            raise NoRule("it takes a shape or axes that are computed")
        return integers_of(*self.home(tensor))

    def some_numbers(self, tensor: int) -> list[int | None]:
        """Return the entries of a list of integers, None for those that are computed before they are joined.

        Raises:
            NoRule: If it is computed in another way.
        """
        maker = (
            None if self.has_values(tensor) else next((each for each in self.calls if tensor in each.outputs), None)
        )
        if maker is None or maker.name not in ("CONCATENATION", "PACK"):
            return [*self.numbers(tensor)]
        entries: list[int | None] = []
        for part in maker.inputs:
            entries += self.numbers(part) if self.has_values(part) else [None] * math.prod(self.shape(part))
        return entries

    def takers_of(self, tensor: int) -> list[_OperatorCall]:
        """Return the operators that take a tensor."""
        return [call for call in self.calls if tensor in call.inputs]

    def head_axes(self) -> dict[int, int]:
        """Return the axis of heads of each tensor whose RESHAPE makes it: one that a product of two tensors keeps."""
        makers = {tensor: call for call in self.calls for tensor in call.outputs}
        products = [call for call in self.calls if _is_of_two_tensors(call, self.is_constant)]
        todo = [
            (tensor, axis)
            for call in products
            for tensor in call.inputs
            for axis in range(len(self.shape(tensor)) - 2)
            if self.shape(tensor)[axis] > 1
        ]
        heads: dict[int, int] = {}
        visited = set(todo)
        while todo:
            tensor, axis = todo.pop()
            if tensor not in makers:
                continue
            sources = _before(self, makers[tensor], axis)
            if sources is None:
                heads[tensor] = axis
            todo += [source for source in sources or () if source not in visited]
            visited.update(sources or ())
        return heads


def _is_of_two_tensors(call: _OperatorCall, is_constant: Callable[[int], bool]) -> bool:
    return call.name == "BATCH_MATMUL" and not any(map(is_constant, call.inputs))


def _before(graph: _FileGraph, call: _OperatorCall, axis: int) -> list[tuple[int, int]] | None:
    """Return where an axis of what an operator makes is in what it takes; None if a RESHAPE splits it off."""
    source, after = call.inputs[0], graph.shape(call.outputs[0])
    if call.name in _RESHAPES:
        before, place = graph.shape(source), (after[axis], math.prod(after[:axis]))
        same = [other for other, size in enumerate(before) if (size, math.prod(before[:other])) == place]
        return [(source, same[0])] if same else None
    if call.name == "TRANSPOSE" and graph.has_values(call.inputs[1]):
        return [(source, graph.numbers(call.inputs[1])[axis])]
    if call.name in _PARTS:
        source = call.inputs[_PARTS[call.name]]
        return [(source, axis)] if len(graph.shape(source)) == len(after) else []
    if call.name in ("GATHER", "UNPACK"):
        first = call.options.axis % len(graph.shape(source))
        return [(source, axis + (axis >= first))] if len(graph.shape(source)) == len(after) + 1 else []
    operands = [tensor for tensor in call.inputs if tensor >= 0] if call.name in _ONE_BY_ONE else []
    places = [(tensor, axis - len(after) + len(graph.shape(tensor))) for tensor in operands]
    return [(tensor, own) for tensor, own in places if own >= 0 and graph.shape(tensor)[own] == after[axis]]


def _held_in(store: Variable, pieces: Pieces) -> str | None:
    """Return why a variable cannot lose channels; None if it can."""
    if store.is_shared:
        return "another graph of the file uses it, too"
    if not store.first:
        return "nothing sets its first value"
    constants = [graph.tensors[int(operator.inputs[1])] for graph, operator in store.first]
    if any(pieces.model.buffers[constant.buffer].data is None for constant in constants):
        return "its first value is computed"
    shapes = {tuple(map(int, constant.shape)) for constant in constants}
    own = {tuple(map(int, pieces.graph.tensors[tensor].shape)) for tensor in (*store.read, *store.assigned)}
    return None if shapes == own and len(own) == 1 else "its size changes"


_Rule = Callable[["_FileFlow", _OperatorCall], Sequence[Layout]]


class _FileFlow(ChannelFlow):
    """The channels of the first graph of a file, and where they are.

    Args:
        graph: The operators of the file.
        rules: How channels go through each kind of operator.

    Attributes:
        head_axes: The axis of heads of tensors that are split into them.
        samples: The number of samples of one run.
    """

    def __init__(self, graph: _FileGraph, rules: Mapping[str, _Rule]) -> None:
        super().__init__(graph)
        self.pieces, self.parts, self.takers_of = graph.pieces, graph.parts, graph.takers_of
        self.has_values, self.constant_behind, self.info = graph.has_values, graph.constant_behind, graph.info
        self.some_numbers, self.set_size = graph.some_numbers, graph.set_size
        self.shape, self.is_constant = graph.shape, graph.is_constant
        self.numbers, self.name = graph.numbers, graph.name
        self._kernels: dict[int, Layout] = {}  # by buffer
        self.head_axes, self.samples = graph.head_axes(), graph.samples

        def rule_of(call: _OperatorCall) -> _Rule:
            if call.name not in rules:
                raise NoRule("no rule for this operator")
            return rules[call.name]

        stores = self.pieces.stores()
        for store in stores:
            self._read_variable(store)
        self.follow_calls(rule_of, reason="an output of the file")
        for store in stores:
            for tensor in store.assigned:  # the next run reads them
                layout = self.layout(store.read[0]) if store.read else ()
                self.tie_layouts(layout, self.layout(tensor), f"variable {store.name!r}: it keeps what is fixed")

    def _read_variable(self, store: Variable) -> None:
        """Let what is read from a variable have channels along its last axis, which stay where it has to."""
        shapes = {self.shape(tensor) for tensor in store.read}
        if len(shapes) == 1 and (shape := shapes.pop()):
            reason = _held_in(store, self.pieces)
            channels = self.copies(shape[-1])
            self.pin([channels] if reason else [], f"variable {store.name!r}: {reason}")
            self.layouts |= {tensor: self.placed(tensor, channels) for tensor in store.read}

    def inputs(self, call: _OperatorCall) -> list[Layout]:
        """Return the layouts of the tensors that an operator takes, in order."""
        return [self.layout(tensor) for tensor in call.inputs if tensor >= 0]

    def last(self, tensor: int) -> np.ndarray | None:
        """Return the channels along the last axis of a tensor that has none along any other.

        Raises:
            NoRule: If it has.
        """
        layout = self.layout(tensor)
        return along(layout, -1) if layout else None

    def placed(self, tensor: int, channels: np.ndarray | None) -> Layout:
        """Return the layout of a tensor that has channels along its last axis."""
        return placed(len(self.shape(tensor)), -1, channels)

    def of(self, call: _OperatorCall) -> Recorded:
        """Return what an operator has of channels, to add to it."""
        return self.recorded.setdefault(call.holder, Recorded())

    def hold(self, call: _OperatorCall, place: int, layout: Layout, *, is_kernel: bool = False) -> None:
        """Note the channels along the axes of a constant. Operators that share a kernel share its channels.

        Raises:
            NoRule: If it has another shape.
        """
        tensor = call.inputs[place]
        check_fits(layout, self.shape(tensor), "a constant")
        constant = self.constant_behind(tensor)
        if self.info(constant).sparsity is not None:
            raise NoRule("its weights are stored sparse")
        self.of(call).weights[place] = layout
        if is_kernel or constant != tensor:
            self._share(constant, layout)

    def multiply(self, call: _OperatorCall, weight: int, layout: Layout, *, at: int) -> None:
        """Note the multiplications of a kernel at each position of a tensor, along whichever axes it has them."""
        count = math.prod(self.shape(at)[:-1]) // self.samples
        self.of(call).work.append((call.turns * max(count, 1), sizes(self.shape(weight), layout)))

    def count(self, call: _OperatorCall, place: int, counts: Mapping[int, Size]) -> None:
        """Note which entries of a constant of integers count channels, by their indices.

        Raises:
            NoRule: If it is computed in another way than by joining constants with sizes that are open.
        """
        tensor = call.inputs[place]
        if self.has_values(tensor):
            entries = enumerate(self.numbers(tensor))
            self.of(call).arguments[place] = tuple(counts.get(index, number) for index, number in entries)
            return
        maker = next((other for other in self.graph.calls if tensor in other.outputs), None)
        if maker is None or maker.name != "PACK" or len(self.takers_of(tensor)) > 1:
            raise NoRule("its shape is computed in a way that cannot be followed")
        for index, size in counts.items():
            self.numbers(maker.inputs[index])
            self.of(maker).arguments[index] = (size,)

    def follow(self, call: _OperatorCall, rule_of: Callable[[_OperatorCall], _Rule]) -> Sequence[Layout]:
        """Return the layouts of what an operator makes.

        A constant that is unpacked and has no channels here has none for others who take it.
        """
        layouts = super().follow(call, rule_of)
        weights = self.recorded.get(call.holder, Recorded()).weights
        for place, tensor in enumerate(call.inputs):
            if tensor >= 0 and place not in weights and self.is_constant(tensor):
                constant = self.constant_behind(tensor)
                if constant != tensor:
                    self._share(constant, (None,) * len(self.shape(tensor)))
        return layouts

    def _share(self, constant: int, layout: Layout) -> None:
        """Let all who take the values of a constant have the same channels along its axes."""
        buffer = self.info(constant).buffer
        self.tie_layouts(self._kernels.setdefault(buffer, layout), layout, _SHARED)


# How channels go through operators that move entries: reshape, transpose, slice, split.

_Move = Callable[[np.ndarray], Sequence[np.ndarray]]


def _moved(flow: _FileFlow, tensor: int, *, move: _Move, head_axis: int | None = None) -> list[Layout]:
    """Follow an operator that moves entries, by what it does to the numbers of the channels.

    Args:
        flow: The channels.
        tensor: What the operator takes.
        move: What it does to an array.
        head_axis: The axis along which to remove entries, where they may go along several.

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
    return [_line(flow, result, head_axis) for result in move(numbers)]


def _axes(layout: Layout) -> list[int]:
    axes = [axis for axis, channels in enumerate(layout) if channels is not None]
    if len(axes) > 1:
        raise NoRule("it takes channels along several axes")
    return axes


def _line(flow: _FileFlow, numbers: np.ndarray, head_axis: int | None) -> Layout:
    """Return the channels along the axis that can lose entries as a whole, and tie those that it joins."""
    axes = sorted(differing_axes(numbers), key=lambda axis: (axis != head_axis, -axis))
    axis, channels = flow.line(numbers, axes, "an operator picks one of them")
    return placed(numbers.ndim, axis, channels)


def _reshape(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    shape, head_axis = flow.shape(call.outputs[0]), flow.head_axes.get(call.outputs[0])
    layouts = _moved(flow, call.inputs[0], move=lambda numbers: [_reshaped(numbers, shape)], head_axis=head_axis)
    counted: dict[int, Size] = {axis: channels for axis, channels in enumerate(layouts[0]) if channels is not None}
    if not counted or call.name != "RESHAPE":
        return layouts
    if call.takes(1):
        is_open = flow.has_values(call.inputs[1]) and flow.numbers(call.inputs[1])[[*counted][0]] < 0
        if not is_open:
            flow.count(call, 1, counted)
    else:
        flow.of(call).arguments[OPTIONS] = tuple(counted.get(axis, size) for axis, size in enumerate(shape))
    return layouts


def _reshaped(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers in another shape.

    Raises:
        NoRule: If there are more or fewer of them, as where sizes are open.
    """
    if numbers.size != np.prod(shape):
        raise NoRule("it reshapes positions whose number is not known")
    return numbers.reshape(shape)


def _transpose(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    if not _axes(layout):
        return [flow.layout(call.outputs[0])]
    return [tuple(layout[axis] for axis in flow.numbers(call.inputs[1]))]


def _strided_slice(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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
    return _moved(flow, call.inputs[0], move=lambda numbers: [numbers[tuple(slices)]])


def _plain_slice(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    layout, shape = flow.layout(call.inputs[0]), flow.shape(call.inputs[0])
    if not _axes(layout):
        return [flow.layout(call.outputs[0])]
    (axis,) = _axes(layout)
    channels: np.ndarray = layout[axis]  # type: ignore[assignment]
    if not all(map(flow.has_values, call.inputs[1:3])):  # positions that are computed
        if [flow.some_numbers(tensor)[axis] for tensor in call.inputs[1:3]] not in ([0, -1], [0, shape[axis]]):
            raise NoRule("it picks some of them")
        flow.set_size(call.outputs[0], axis, shape[axis])
        return [layout]
    begins, sizes = flow.numbers(call.inputs[1]), flow.numbers(call.inputs[2])
    ends = [length if size < 0 else begin + size for begin, size, length in zip(begins, sizes, shape, strict=True)]
    flow.count(call, 1, {axis: channels[: begins[axis]]})
    if sizes[axis] >= 0:
        flow.count(call, 2, {axis: channels[begins[axis] : ends[axis]]})
    slices = tuple(slice(begin, end) for begin, end in zip(begins, ends, strict=True))
    return _moved(flow, call.inputs[0], move=lambda numbers: [numbers[slices]])


def _split_evenly(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a split into equal parts, of which each has to lose as many channels."""
    tensor = call.inputs[1]
    (axis,) = flow.numbers(call.inputs[0])
    layouts = _moved(flow, tensor, move=lambda numbers: np.split(numbers, len(call.outputs), axis))
    axis %= len(flow.shape(tensor))
    parts = [layout[axis] for layout in layouts if layout[axis] is not None]
    for part in parts[1:]:
        flow.tie(parts[0], part)  # type: ignore[arg-type]
    return layouts


def _split_by_sizes(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    sizes, (axis,) = flow.numbers(call.inputs[1]), flow.numbers(call.inputs[2])
    if min(sizes) < 0:
        raise NoRule("it splits into parts whose sizes are open")
    layouts = _moved(flow, call.inputs[0], move=lambda numbers: np.split(numbers, np.cumsum(sizes)[:-1], axis))
    axis %= len(flow.shape(call.inputs[0]))
    if layouts[0][axis] is not None:
        flow.count(call, 1, {index: layout[axis] for index, layout in enumerate(layouts)})  # type: ignore[misc]
    return layouts


def _stack(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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


def _unstack(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    axis = call.options.axis % len(layout)
    if layout[axis] is not None:
        raise NoRule("it picks one of them")
    return [(*layout[:axis], *layout[axis + 1 :])] * len(call.outputs)


def _reverse(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    if any(layout[axis] is not None for axis in flow.numbers(call.inputs[1])):
        raise NoRule("it turns their order around")
    return [layout]


def _begin_loop(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Let each tensor that a loop keeps have channels along its last axis: those of what it begins with."""
    states = call.outputs[: len(call.inputs)]
    if len(call.outputs) != 2 * len(states):
        raise NoRule("no rule for this operator")
    layouts: list[Layout] = []
    for place, (tensor, state) in enumerate(zip(call.inputs, states, strict=True)):
        shape = flow.shape(state)
        layout = flow.placed(state, flow.copies(shape[-1]) if shape and flow.shape(tensor) == shape else None)
        layouts.append(layout)
        if not has_channels(layout):
            continue
        if flow.is_constant(tensor):
            flow.hold(call, place, layout)
        else:
            flow.tie_layouts(layout, flow.layout(tensor), "WHILE: it begins with what is fixed")
    return layouts * 2


def _end_loop(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    count = len(call.outputs)
    states = [flow.layout(tensor) for tensor in call.inputs[count:]]
    for state, tensor in zip(states, call.inputs, strict=False):
        flow.tie_layouts(state, flow.layout(tensor), "WHILE: it keeps what is fixed")
    return states


def _blocks(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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

    return _moved(flow, call.inputs[0], move=move)


def _read_shape(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a shape of which only sizes of other axes are taken, such as the batch."""
    tracked = _axes(flow.layout(call.inputs[0]))
    for taker in flow.takers_of(call.outputs[0]) if tracked else []:
        if taker.name != "STRIDED_SLICE":
            raise NoRule("it counts them")
        (begin,), (end,) = flow.numbers(taker.inputs[1]), flow.numbers(taker.inputs[2])
        if not (taker.options.shrinkAxisMask & 1 and end) or begin in tracked:
            raise NoRule("it counts them")
    return [(None,)]


_RESHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_PARTS = {"STRIDED_SLICE": 0, "SLICE": 0, "SPLIT": 1, "SPLIT_V": 0}  # the place of what they take parts of
_MOVES: dict[str, _Rule] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _plain_slice,
    "SPLIT": _split_evenly,
    "SPLIT_V": _split_by_sizes,
    "PACK": _stack,
    "UNPACK": _unstack,
    "SPACE_TO_DEPTH": _blocks,
    "DEPTH_TO_SPACE": _blocks,
    "SHAPE": _read_shape,
    "REVERSE_V2": _reverse,
    _BEGIN: _begin_loop,
    _END: _end_loop,
}


# How channels go through operators with kernels, and through those that treat each entry or channel by itself.


def _convolution(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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


def _depthwise(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    x, weight = call.inputs[:2]
    shape, inputs = _kernel_shape(flow, weight, rank=4), flow.last(x)
    outputs = None if inputs is None else np.repeat(inputs, shape[3] // inputs.size)
    layout = (None, None, None, outputs)
    _hold_kernel(flow, call, layout, places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def _transposed(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    weight, x = call.inputs[1:3]
    shape = _kernel_shape(flow, weight, rank=4)
    inputs, outputs = flow.last(x), flow.fresh(shape[0], name=flow.name(weight))
    layout = (outputs, None, None, inputs)
    _hold_kernel(flow, call, layout, places=(1, 3), outputs=outputs, at=x)
    flow.count(call, 0, {3: outputs})
    return [flow.placed(call.outputs[0], outputs)]


def _fully_connected(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    x, weight = call.inputs[:2]
    shape = _kernel_shape(flow, weight, rank=2)
    if call.options is not None and call.options.weightsFormat:
        raise NoRule("its weights are shuffled")
    inputs = None
    if flow.shape(x)[-1] == shape[1]:
        inputs = flow.last(x)
    elif has_channels(flow.layout(x)):  # it joins the last axes of what it takes
        (layout,) = _moved(flow, x, move=lambda numbers: [_reshaped(numbers, (numbers.size // shape[1], shape[1]))])
        inputs = layout[-1]
    outputs = flow.fresh(shape[0], name=flow.name(weight))
    _hold_kernel(flow, call, (outputs, inputs), places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def _follow_product(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a product with a constant matrix, or of two tensors."""
    x, weight = call.inputs[:2]
    if not flow.is_constant(weight):
        return _follow_product_of_two(flow, call)
    shape = flow.shape(weight)
    if call.options.adjX or np.prod(shape[:-2]) != 1:
        raise NoRule("it multiplies by several matrices, or by a transposed activation")
    inputs = flow.last(x)
    outputs = flow.fresh(shape[-2 if call.options.adjY else -1], name=flow.name(weight))
    pair = (outputs, inputs) if call.options.adjY else (inputs, outputs)
    layout = (*[None] * (len(shape) - 2), *pair)
    _hold_kernel(flow, call, layout, places=(1, 2), outputs=outputs, at=call.outputs[0])
    return [flow.placed(call.outputs[0], outputs)]


def _follow_product_of_two(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a product of tensors: channels along the axes before both matrices, such as heads, meet each other."""
    pairs = zip(call.inputs, (call.options.adjX, call.options.adjY), strict=True)
    (rows, inner), (same, columns) = (flow.layout(tensor)[-2:][:: -1 if adj else 1] for tensor, adj in pairs)
    flow.pin([inner, same], "BATCH_MATMUL: it adds up channels without a kernel")
    rank = len(flow.shape(call.outputs[0]))
    heads = tuple(_merged(flow, call, call.inputs, axis - rank) for axis in range(rank - 2))
    if not has_channels(heads):
        return [(*heads, rows, columns)]
    flow.pin([rows, columns], "BATCH_MATMUL: a head has a fixed size")
    return [(*heads, None, None)]


def _lookup(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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


def _kernel_shape(flow: _FileFlow, weight: int, *, rank: int) -> tuple[int, ...]:
    shape = flow.shape(weight)
    if not flow.is_constant(weight) or len(shape) != rank:
        raise NoRule("its weight is not a constant")
    return shape


def _hold_kernel(
    flow: _FileFlow,
    call: _OperatorCall,
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


def _each_alone(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow an operator that treats each entry by itself."""
    return [flow.layout(call.inputs[0])]


def _spatial(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow pooling and resizing, which treat each channel by itself."""
    return [flow.placed(call.outputs[0], flow.last(call.inputs[0]))]


def _padding(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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


def _normalized(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a softmax along the last axis, where each entry depends on all."""
    layout = flow.layout(call.inputs[0])
    if layout and layout[-1] is not None:
        raise NoRule("it normalizes all channels together")
    return [layout]


def _reduction(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    layout = flow.layout(call.inputs[0])
    if not has_channels(layout):
        return [flow.layout(call.outputs[0])]
    axes = {axis % len(layout) for axis in flow.numbers(call.inputs[1])}
    if any(layout[axis] is not None for axis in axes):
        raise NoRule("it adds up channels without a kernel")
    keeps = bool(call.options.keepDims)
    return [tuple(channels for axis, channels in enumerate(layout) if keeps or axis not in axes)]


def _merge(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
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


def _merged(flow: _FileFlow, call: _OperatorCall, tensors: Sequence[int], axis: int) -> np.ndarray | None:
    reason = f"{call.name}: they meet channels that are fixed"
    shapes = {tensor: shape for tensor in tensors if len(shape := flow.shape(tensor)) >= -axis}
    channels = flow.meet([(shape[axis], flow.layout(tensor)[axis]) for tensor, shape in shapes.items()], reason)
    if channels is None or channels.size == flow.shape(call.outputs[0])[axis]:
        return channels
    flow.pin([channels], reason)
    return None


def _concatenation(flow: _FileFlow, call: _OperatorCall) -> Sequence[Layout]:
    """Follow a concatenation; a constant has the channels of the others along all axes but the one that grows."""
    shapes = [flow.shape(tensor) for tensor in call.inputs]
    layouts = [flow.layout(tensor) for tensor in call.inputs]
    axis, beside = call.options.axis % len(shapes[0]), f"{call.name}: beside channels that are fixed"
    others = [next((own for own in along if own is not None), None) for along in zip(*layouts, strict=True)]
    others[axis] = None
    constants = [place for place, tensor in enumerate(call.inputs) if flow.is_constant(tensor)]
    for place in constants if has_channels(tuple(others)) else ():
        layouts[place] = tuple(others)
        flow.hold(call, place, layouts[place])
    operands = list(zip(shapes, layouts, strict=True))
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
_NORMALIZES = "SOFTMAX LOG_SOFTMAX L2_NORMALIZATION"
_ONE_BY_ONE = frozenset(f"{_ALONE} {_MERGES} {_NORMALIZES}".split())
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_ALONE.split(), _each_alone),
    **dict.fromkeys(_MERGES.split(), _merge),
    **dict.fromkeys(_SPATIAL.split(), _spatial),
    **dict.fromkeys(["PAD", "PADV2", "MIRROR_PAD"], _padding),
    **dict.fromkeys(_NORMALIZES.split(), _normalized),
    **dict.fromkeys(["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"], _reduction),
    **_MOVES,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _follow_product,
    "CONCATENATION": _concatenation,
    **dict.fromkeys(TABLES, _lookup),
}


# The channels of a file as data: the groups that are ranked together, and what a file costs without some of them.


def mixing_layers(pieces: Pieces) -> list[FileLayer]:
    """Return the weights that make channels from others and can be solved for, in order."""
    layers, _ = find_layers(pieces)
    return [layer for layer in layers if layer.kind in PLACES and not layer.is_in_others]


@dataclass(frozen=True, eq=False)
class FileChannels(DependencyGraph):
    """The dependency graph of a file.

    Attributes:
        parts: The graphs of the file whose channels these are; the first one comes first.
        layouts: The bundles along the axes of each tensor that has channels.
        recorded: What each operator has of channels, as bundles, by the number of its step.
    """

    parts: tuple[FilePart, ...]
    layouts: dict[int, Layout]
    recorded: dict[int, Recorded]

    @property
    def pieces(self) -> Pieces:
        """The file."""
        return self.parts[0].pieces

    def inside(self, part: FilePart) -> tuple[dict[int, Layout], dict[int, Recorded]]:
        """Return the layouts of the tensors of a part, and what its operators have, by their numbers there."""
        tensors, steps = range(len(part.pieces.graph.tensors)), range(len(part.pieces.steps))
        layouts = {
            each: self.layouts[each + part.first_tensor]
            for each in tensors
            if each + part.first_tensor in self.layouts
        }
        recorded = {
            each: self.recorded[each + part.first_step] for each in steps if each + part.first_step in self.recorded
        }
        return layouts, recorded

    def along_weight(self, layer: FileLayer) -> Layout:
        """Return the bundles along the axes of the weight of a layer; empty if it has none."""
        operator = layer.operators[0]
        return self.recorded.get(_number(self.parts, operator), Recorded()).weights.get(PLACES[operator.kind][1], ())

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication of a kernel."""
        return sum(flops(each.work, keep) for each in self.recorded.values())

    def flops_of(self, group: Group) -> int:
        """Return the floating-point operations of the operators that make, take or pass channels of a group."""
        own = set(group.bundles.tolist())
        works = (work for each in self.recorded.values() for work in each.work)
        meeting = [work for work in works if any(not own.isdisjoint(axis.tolist()) for axis in channels_in(work))]
        return flops(meeting, self.all_kept())


def _number(parts: Sequence[FilePart], operator: LinearOperator) -> int:
    """Return the number of the step of an operator among those of all parts; -1 if it is in none."""
    firsts = [part.first_step for part in parts if part.loop == operator.loop]
    return firsts[0] + operator.step if firsts else -1


def file_channels(pieces: Pieces, layers: Collection[FileLayer]) -> FileChannels:
    """Follow the channels of a file.

    Args:
        pieces: The file.
        layers: What `mixing_layers` returns for it.
    """
    flow = _FileFlow(_FileGraph(pieces), _RULES)
    _pin_readers_without_layer(flow, layers)
    bundles = flow.bundles()
    layouts = in_bundles(flow.layouts, bundles)
    recorded = {step: each.in_bundles(bundles) for step, each in flow.recorded.items()}
    weights = [layout for each in recorded.values() for layout in each.weights.values()]
    axes = [frozenset(axis.tolist()) for layout in (*layouts.values(), *weights) for axis in channels_in(layout)]
    return FileChannels(*form_groups(flow, bundles, axes=axes), flow.parts, layouts, recorded)


def _pin_readers_without_layer(flow: _FileFlow, layers: Collection[FileLayer]) -> None:
    """Let channels stay that an operator reads whose weights cannot be solved for."""
    steps = {_number(flow.parts, operator) for layer in layers for operator in layer.operators}
    for call in flow.graph.calls:
        if call.name in PLACES and call.holder not in steps and not _is_of_two_tensors(call, flow.is_constant):
            layout = flow.layout(call.inputs[PLACES[call.name][0]])
            flow.pin(layout, f"{call.name}: its weights cannot be solved for")

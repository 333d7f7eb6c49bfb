"""Follow the channels of a file from operator to operator, and note what each constant has of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import inputs_of, operator_name
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.stored_weight import type_name
from tfprune.solving.ties import Channels, Layout

Size = int | np.ndarray  # an array stands for the number of its channels
Place = tuple[int, int]  # the number of a step, and a place among its inputs
OPTIONS = -1  # the place of a shape that is an option of its operator


class NotFollowed(ValueError):  # noqa: N818
    """Raised by a rule where channels cannot be followed through an operator."""


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """One operator of a file.

    Attributes:
        step: Its number among the steps of the pieces.
        kind: Its name.
        options: Its options.
        inputs: The tensors that it takes, -1 for one that is left out.
        outputs: The tensors that it makes.
    """

    step: int
    kind: str
    options: Any
    inputs: list[int]
    outputs: list[int]

    def takes(self, place: int) -> bool:
        """Tell whether it has an input at a place."""
        return place < len(self.inputs) and self.inputs[place] >= 0


Rule = Callable[["FileFlow", OperatorCall], Sequence[Layout]]


class FileFlow(Channels):
    """The channels of the first graph of a file, and where they are.

    Args:
        pieces: The file.
        rules: How channels go through each kind of operator.

    Attributes:
        calls: The operators.
        layouts: For each tensor that has channels, those along each axis.
        uses: For each constant that has channels, by the place where it is taken, those along each axis.
        arguments: For each constant that counts channels, by the place where it is taken, what its entries count.
        work: The multiplications of each operator on one sample: sizes that are multiplied.
    """

    def __init__(self, pieces: Pieces, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self.pieces = pieces
        self.layouts: dict[int, Layout] = {}
        self.uses: dict[Place, Layout] = {}
        self.arguments: dict[Place, list[Size]] = {}
        self.work: list[tuple[Size, ...]] = []
        self._kernels: dict[int, Layout] = {}  # by buffer
        self.calls = [self._call(step) for step in range(len(pieces.steps))]
        for call in self.calls:
            for tensor, layout in zip(call.outputs, self._follow(call, rules), strict=True):
                if any(channels is not None for channels in layout):
                    self.layouts[tensor] = layout
        for tensor in pieces.outputs:
            self.pin(self.layout(tensor), "an output of the file")

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor; sizes that are open count as 1."""
        shape = self.pieces.graph.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))

    def name(self, tensor: int) -> str:
        """Return the name of the constant behind a tensor."""
        return (self.pieces.graph.tensors[self.pieces.constant_behind(tensor)].name or b"").decode(errors="replace")

    def layout(self, tensor: int) -> Layout:
        """Return the channels along the axes of a tensor."""
        return self.layouts.get(tensor, (None,) * len(self.shape(tensor)))

    def is_constant(self, tensor: int) -> bool:
        """Tell whether a tensor is a constant of the file, or unpacked from one."""
        return self.pieces.has_values(self.pieces.constant_behind(tensor))

    def numbers(self, tensor: int) -> list[int]:
        """Return the entries of a constant of integers, such as axes.

        Raises:
            NotFollowed: If it is computed.
        """
        if not self.pieces.has_values(tensor):
            raise NotFollowed("it takes a shape or axes that are computed")
        constant = self.pieces.graph.tensors[tensor]
        raw = np.asarray(self.pieces.model.buffers[constant.buffer].data, np.uint8)
        return raw.view(type_name(constant.type).lower()).tolist()

    def last(self, tensor: int) -> np.ndarray | None:
        """Return the channels along the last axis of a tensor that has none along any other.

        Raises:
            NotFollowed: If it has.
        """
        layout = self.layout(tensor)
        if any(channels is not None for channels in layout[:-1]):
            raise NotFollowed("it takes channels along the last axis only")
        return layout[-1] if layout else None

    def placed(self, tensor: int, channels: np.ndarray | None, axis: int = -1) -> Layout:
        """Return the layout of a tensor that has channels along one axis.

        Raises:
            NotFollowed: If it has another number of them.
        """
        shape = self.shape(tensor)
        if channels is not None and (not shape or shape[axis] != channels.size):
            raise NotFollowed(f"it makes a tensor of shape {shape} from {channels.size} channels")
        return tuple(channels if index == axis % len(shape) else None for index in range(len(shape)))

    def hold(self, call: OperatorCall, place: int, layout: Layout, *, is_kernel: bool = False) -> None:
        """Note the channels along the axes of a constant. Operators that share a kernel share its channels.

        Raises:
            NotFollowed: If it has another shape.
        """
        tensor = call.inputs[place]
        sizes = [
            length if channels is None else channels.size
            for channels, length in zip(layout, self.shape(tensor), strict=False)
        ]
        if sizes != [*self.shape(tensor)]:
            raise NotFollowed(f"it takes a constant of shape {self.shape(tensor)} with {sizes} channels")
        constant = self.pieces.constant_behind(tensor)
        if self.pieces.graph.tensors[constant].sparsity is not None:
            raise NotFollowed("its weights are stored sparse")
        self.uses[call.step, place] = layout
        if is_kernel or constant != tensor:
            buffer = self.pieces.graph.tensors[constant].buffer
            self._tie_layouts(self._kernels.setdefault(buffer, layout), layout)

    def count(self, call: OperatorCall, place: int, counted: Mapping[int, Size]) -> None:
        """Note which entries of a constant of integers count channels, by their indices.

        Raises:
            NotFollowed: If it is computed in another way than by joining constants with sizes that are open.
        """
        tensor = call.inputs[place]
        if self.pieces.has_values(tensor):
            entries: list[Size] = [*self.numbers(tensor)]
            for index, size in counted.items():
                entries[index] = size
            self.arguments[call.step, place] = entries
            return
        maker = next((other for other in self.calls if tensor in other.outputs), None)
        takers = [other for other in self.calls if tensor in other.inputs]
        if maker is None or maker.kind != "PACK" or len(takers) > 1:
            raise NotFollowed("its shape is computed in a way that cannot be followed")
        for index, size in counted.items():
            self.numbers(maker.inputs[index])
            self.arguments[maker.step, index] = [size]

    def positions(self, tensor: int) -> int:
        """Return the positions of a sample: all entries of a tensor of which one is the channel."""
        return int(np.prod(self.shape(tensor)[1:-1], dtype=np.int64))

    def takers_of(self, tensor: int) -> list[OperatorCall]:
        """Return the operators that take a tensor."""
        return [call for call in self.calls if tensor in call.inputs]

    def _call(self, step: int) -> OperatorCall:
        operator = self.pieces.steps[step]
        kind = operator_name(self.pieces.model, operator)
        return OperatorCall(step, kind, operator.builtinOptions, inputs_of(operator), indices_of(operator.outputs))

    def _follow(self, call: OperatorCall, rules: Mapping[str, Rule]) -> Sequence[Layout]:
        """Return the layouts of what an operator makes; without a rule, the channels that it takes have to stay."""
        sources, work = len(self.sources), len(self.work)
        plain: list[Layout] = [(None,) * len(self.shape(tensor)) for tensor in call.outputs]
        incoming = [self.layout(tensor) for tensor in call.inputs if tensor >= 0]
        try:
            if call.kind not in rules:
                raise NotFollowed("no rule for this operator")
            layouts = rules[call.kind](self, call)
            outputs = zip(call.outputs, layouts, strict=True)
            if any(len(layout) != len(self.shape(tensor)) for tensor, layout in outputs):
                raise NotFollowed("it makes a tensor of another rank")
        except NotFollowed as reason:
            del self.sources[sources:], self.work[work:]
            places = [place for place in (*self.uses, *self.arguments) if place[0] == call.step]
            incoming += [self.uses.pop(place) for place in places if place in self.uses]
            for place in places:
                self.arguments.pop(place, None)
            for layout in incoming:
                self.pin(layout, f"{call.kind}: {reason}")
            layouts = plain
        self._hold_others(call)
        return layouts

    def _hold_others(self, call: OperatorCall) -> None:
        """Note that a constant which is unpacked has no channels here, so that others who take it keep theirs."""
        for place, tensor in enumerate(call.inputs):
            if tensor >= 0 and (call.step, place) not in self.uses and self.is_constant(tensor):
                constant = self.pieces.constant_behind(tensor)
                if constant != tensor:
                    layout: Layout = (None,) * len(self.shape(tensor))
                    buffer = self.pieces.graph.tensors[constant].buffer
                    self._tie_layouts(self._kernels.setdefault(buffer, layout), layout)

    def _tie_layouts(self, first: Layout, second: Layout) -> None:
        reason = "operators share a constant, and not its channels"
        if len(first) != len(second):
            self.pin([*first, *second], reason)
            return
        for ours, theirs in zip(first, second, strict=True):
            if ours is not None and theirs is not None and ours.size == theirs.size:
                self.tie(ours, theirs)
            else:
                self.pin([ours, theirs], reason)

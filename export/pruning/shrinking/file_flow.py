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
from tfprune.solving.dependency_graph import (
    ChannelFlow,
    Layout,
    NoRule,
    Recorded,
    Size,
    along,
    check_fits,
    placed,
    positions,
    sizes,
)

OPTIONS = -1  # the place of a shape that is an option of its operator
_SHARED = "operators share a constant, and not its channels"


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """One operator of a file.

    Attributes:
        holder: Its number among the steps of the pieces.
        name: Its kind.
        options: Its options.
        inputs: The tensors that it takes, -1 for one that is left out.
        outputs: The tensors that it makes.
    """

    holder: int
    name: str
    options: Any
    inputs: list[int]
    outputs: list[int]

    def takes(self, place: int) -> bool:
        """Tell whether it has an input at a place."""
        return place < len(self.inputs) and self.inputs[place] >= 0


class FileGraph:
    """The first graph of a file.

    Args:
        pieces: The file.

    Attributes:
        calls: Its operators.
        outputs: The tensors that it returns.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.outputs = pieces.outputs
        self.calls = [
            OperatorCall(
                step,
                operator_name(pieces.model, operator),
                operator.builtinOptions,
                inputs_of(operator),
                indices_of(operator.outputs),
            )
            for step, operator in enumerate(pieces.steps)
        ]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor; sizes that are open count as 1."""
        shape = self.pieces.graph.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))

    def is_constant(self, tensor: int) -> bool:
        """Tell whether a tensor is a constant of the file, or unpacked from one."""
        return self.pieces.has_values(self.pieces.constant_behind(tensor))

    def name(self, tensor: int) -> str:
        """Return the name of the constant behind a tensor."""
        return (self.pieces.graph.tensors[self.pieces.constant_behind(tensor)].name or b"").decode(errors="replace")

    def numbers(self, tensor: int) -> list[int]:
        """Return the entries of a constant of integers, such as axes.

        Raises:
            NoRule: If it is computed.
        """
        if not self.pieces.has_values(tensor):
            raise NoRule("it takes a shape or axes that are computed")
        constant = self.pieces.graph.tensors[tensor]
        raw = np.asarray(self.pieces.model.buffers[constant.buffer].data, np.uint8)
        return raw.view(type_name(constant.type).lower()).tolist()

    def takers_of(self, tensor: int) -> list[OperatorCall]:
        """Return the operators that take a tensor."""
        return [call for call in self.calls if tensor in call.inputs]


Rule = Callable[["FileFlow", OperatorCall], Sequence[Layout]]


class FileFlow(ChannelFlow):
    """The channels of the first graph of a file, and where they are.

    Args:
        graph: The operators of the file.
        rules: How channels go through each kind of operator.
    """

    def __init__(self, graph: FileGraph, rules: Mapping[str, Rule]) -> None:
        super().__init__(graph)
        self.pieces, self.takers_of = graph.pieces, graph.takers_of
        self.shape, self.is_constant = graph.shape, graph.is_constant
        self.numbers, self.name = graph.numbers, graph.name
        self._kernels: dict[int, Layout] = {}  # by buffer

        def rule_of(call: OperatorCall) -> Rule:
            if call.name not in rules:
                raise NoRule("no rule for this operator")
            return rules[call.name]

        self.follow_calls(rule_of, reason="an output of the file")

    def inputs(self, call: OperatorCall) -> list[Layout]:
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

    def of(self, call: OperatorCall) -> Recorded:
        """Return what an operator has of channels, to add to it."""
        return self.recorded.setdefault(call.holder, Recorded())

    def hold(self, call: OperatorCall, place: int, layout: Layout, *, is_kernel: bool = False) -> None:
        """Note the channels along the axes of a constant. Operators that share a kernel share its channels.

        Raises:
            NoRule: If it has another shape.
        """
        tensor = call.inputs[place]
        check_fits(layout, self.shape(tensor), "a constant")
        constant = self.pieces.constant_behind(tensor)
        if self.pieces.graph.tensors[constant].sparsity is not None:
            raise NoRule("its weights are stored sparse")
        self.of(call).weights[place] = layout
        if is_kernel or constant != tensor:
            self._share(constant, layout)

    def multiply(self, call: OperatorCall, weight: int, layout: Layout, *, at: int) -> None:
        """Note the multiplications of a kernel at each position of a tensor."""
        self.of(call).work.append((positions(self.shape(at), -1), sizes(self.shape(weight), layout)))

    def count(self, call: OperatorCall, place: int, counts: Mapping[int, Size]) -> None:
        """Note which entries of a constant of integers count channels, by their indices.

        Raises:
            NoRule: If it is computed in another way than by joining constants with sizes that are open.
        """
        tensor = call.inputs[place]
        if self.pieces.has_values(tensor):
            entries = enumerate(self.numbers(tensor))
            self.of(call).arguments[place] = tuple(counts.get(index, number) for index, number in entries)
            return
        maker = next((other for other in self.graph.calls if tensor in other.outputs), None)
        if maker is None or maker.name != "PACK" or len(self.takers_of(tensor)) > 1:
            raise NoRule("its shape is computed in a way that cannot be followed")
        for index, size in counts.items():
            self.numbers(maker.inputs[index])
            self.of(maker).arguments[index] = (size,)

    def follow(self, call: OperatorCall, rule_of: Callable[[OperatorCall], Rule]) -> Sequence[Layout]:
        """Return the layouts of what an operator makes.

        A constant that is unpacked and has no channels here has none for others who take it.
        """
        layouts = super().follow(call, rule_of)
        weights = self.recorded.get(call.holder, Recorded()).weights
        for place, tensor in enumerate(call.inputs):
            if tensor >= 0 and place not in weights and self.is_constant(tensor):
                constant = self.pieces.constant_behind(tensor)
                if constant != tensor:
                    self._share(constant, (None,) * len(self.shape(tensor)))
        return layouts

    def _share(self, constant: int, layout: Layout) -> None:
        """Let all who take the values of a constant have the same channels along its axes."""
        buffer = self.pieces.graph.tensors[constant].buffer
        self.tie_layouts(self._kernels.setdefault(buffer, layout), layout, _SHARED)

"""Rewrite the convolutions of a file so that XNNPACK skips their zeros, with the same outputs, where that pays.

XNNPACK skips zeros in groups of operators that run with channels first, which begin with a 3x3 convolution of stride
2 on three channels, end in a mean or DEPTH_TO_SPACE, and hold 1x1 and small depthwise convolutions. Every convolution
of a file is written with such operators (`phases`), maps enter and leave the group by layers that only move them,
and the operators that stay dense are those for which the rewriting would cost time by the estimate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    indices_of,
    inputs_of,
    numbers_operators,
    operator_name,
    sorted_operators,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Tensor
from tfprune.export.file.report import open_batch
from tfprune.export.file.xnnpack import (
    LEAST_GAIN,
    Layers,
    RewritingReport,
    rewriting_report,
)
from tfprune.export.rewriting import phases as algebra
from tfprune.export.rewriting.phases import Chain
from tfprune.export.rewriting.planner import (
    ENTRY_CHANNELS,
    IMAGE_CHANNELS,
    NO_ACTIVATION,
    NO_PLAN,
    RELU,
    SINGLE,
    Node,
    Plan,
    Planner,
    Reader,
    Stored,
    best_plan,
    border_of,
    is_even_grid,
    spread,
)
from tfprune.export.rewriting.shapes import fix_batch

_NEXT_TO_NOTHING = 1e-30  # times a number, and then added to 1, it is lost
_AS_FLOATS = Stored()


# Write a plan.


class _Writer:
    """Puts the operators of a plan into a file.

    Args:
        reader: The file, whose objects are changed.
        plan: What is written.
    """

    def __init__(self, reader: Reader, plan: Plan) -> None:
        self.reader, self.plan = reader, plan
        self.model, self.graph = reader.model, reader.graph
        self.maps: dict[tuple[int, int], int] = {}  # by the tensor of the file that a map stands for, and phases
        self.constants: dict[Hashable, int] = {}
        self.unpacked: dict[int, int] = {}  # by the constant that DEQUANTIZE takes

    def write(self) -> None:
        plan = self.plan
        self.graph.operators = [*plan.outside]
        for node in plan.nodes:
            if node.kind == "mean":
                self._mean(node)
            else:
                self.maps[node.target, plan.phases[node.target]] = self._node(node)
        for index in plan.leaving:
            self._leave(index)
        self._drop_unpacking()
        self._unpack_others()
        self.graph.operators = sorted_operators(self.graph.operators)

    def _drop_unpacking(self) -> None:
        """Remove what unpacks kernels that nothing takes any more."""
        read = {index for operator in self.graph.operators for index in inputs_of(operator)}
        read |= {*indices_of(self.graph.outputs)}
        self.graph.operators = [
            operator
            for operator in self.graph.operators
            if self.reader.kind(operator) != "DEQUANTIZE" or read & {*indices_of(operator.outputs)}
        ]

    def _unpack_others(self) -> None:
        """Let all operators that compute in float32 take float32 kernels: XNNPACK does not mix them with 8 bits."""
        for operator in list(self.graph.operators):
            if self.reader.kind(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                continue
            inputs = inputs_of(operator)
            first, weight = (self.graph.tensors[index] for index in inputs[:2])
            if weight.type == schema.TensorType.INT8 and first.type == schema.TensorType.FLOAT32:
                inputs[1] = add_tensor(
                    self.graph, weight, type=schema.TensorType.FLOAT32, buffer=0, quantization=None
                )
                self._add("DEQUANTIZE", [inputs_of(operator)[1]], inputs[1], schema.DequantizeOptionsT())
                operator.inputs = np.array(inputs, np.int32)

    def _sources(self, node: Node) -> list[int]:
        """Return the maps that a node takes, in its phases."""
        alike = node.alike or node.sources[:1]
        taken = self.plan.taken[node.target]
        return [self._in(index, taken if index in alike else self.plan.phases[index]) for index in node.sources]

    def _in(self, index: int, phases: int) -> int:
        """Return a map in phases, which enters, or is taken apart or put together, where it was not made so."""
        if (index, phases) not in self.maps:
            if index in self.plan.entering:
                made = self._entered(index, phases=phases)
            elif phases == 2:
                made = self._in_phases(self.maps[index, 1])
            else:
                made = self._airlock(self._whole(self.maps[index, 2]))
            self.maps[index, phases] = made
        return self.maps[index, phases]

    def _phases(self, node: Node) -> tuple[int, int]:
        return self.plan.taken[node.target], self.plan.phases[node.target]

    def _node(self, node: Node) -> int:
        """Write a node, and return the map that it makes."""
        if node.ignores_border and node.kind == "depthwise":
            return self._averaged(node)
        if node.kind in _WRITING:
            return _WRITING[node.kind](self, node)
        source, phases = self._sources(node)[0], self._phases(node)
        if node.is_plain_depthwise and node.centered is not None and phases == (1, 1):
            return self._depthwise(
                source,
                node.centered,
                stride=node.window.stride,
                bias=node.bias,
                activation=node.activation,
                stored=node.stored,
            )
        channels = self._shape(node.sources[0])[3]
        if node.kind == "maximum":
            chain, bias = self._maximum(node, channels, phases), None
        else:
            if node.window.enlarges and phases[1] == 1:
                return self._doubled(node, source)
            chain = self._cheapest(spread(node.kernel, channels), node, phases)
            bias = np.tile(node.bias, phases[1] ** 2)
        return self._follow(chain, source, bias=bias, activation=node.activation, stored=node.stored)

    def _doubled(self, node: Node, source: int) -> int:
        """Write a transposed convolution, which makes phases, and put them together outside of the group."""
        chain, bias = self._cheapest(node.kernel, node, (1, 2)), np.tile(node.bias, 4)
        made = self._follow(chain, source, bias=bias, activation=node.activation, stored=node.stored)
        return self._airlock(self._whole(made))

    def _resized(self, node: Node) -> int:
        (operator,) = node.operators
        return self._copied(operator, [*self._sources(node), *inputs_of(operator)[1:]], like=node.target)

    def _join(self, node: Node) -> int:
        return self._copied(node.operators[-1], self._sources(node))

    def _maximum(self, node: Node, channels: int, phases: tuple[int, int]) -> Chain:
        is_even = is_even_grid(self.plan.grids[node.sources[0]])
        return algebra.maximum(node.window, channels=channels, phases=phases, border=border_of(node), is_even=is_even)

    def _cheapest(self, kernel: np.ndarray, node: Node, phases: tuple[int, int]) -> Chain:
        height, width = self._shape(node.target)[1:3]
        pixels = -(-height // phases[1]) * -(-width // phases[1])
        return algebra.cheapest(kernel, node.window, phases=phases, pixels=pixels)

    def _shape(self, index: int) -> tuple[int, ...]:
        return self.reader.shape(index)

    def _follow(
        self,
        chain: Chain,
        source: int,
        *,
        bias: np.ndarray | None,
        activation: int,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        """Write the steps of a chain, and return the last map."""
        maps = [source]
        for number, step in enumerate(chain.steps, 1):
            own = bias if number == chain.bias else None
            fused = activation if number == len(chain.steps) else RELU if step.clips else NO_ACTIVATION
            inputs = [maps[each] for each in step.sources]
            if step.matrix is not None:
                own = np.full(len(step.matrix), step.constant) if step.constant else own
                own = None if own is None else own[: len(step.matrix)]  # of as many phases as it has
                kept = _AS_FLOATS if step.copies else stored
                maps.append(self._product(inputs[0], step.matrix, bias=own, activation=fused, stored=kept))
            elif step.amounts is not None:
                kernel = _one_hot(step.amounts)
                kernel[:, 1, 1] -= step.differs
                maps.append(self._depthwise(inputs[0], kernel, stride=step.stride, activation=fused))
            else:
                maps.append(self._sum(*inputs, activation=fused))
        return maps[-1]

    def _map(self, height: int, width: int, channels: int) -> int:
        shape = np.array([1, height, width, channels], np.int32)
        return add_tensor(self.graph, schema.TensorT(name=b"", shape=shape, type=schema.TensorType.FLOAT32, buffer=0))

    def _constant(self, values: np.ndarray, *, steps: np.ndarray | None = None, axis: int = 0) -> int:
        """Add a constant; equal ones are one."""
        key = values.dtype.str, values.shape, values.tobytes(), None if steps is None else steps.tobytes()
        if key not in self.constants:
            index = self.constants[key] = add_constant(self.model, self.graph, name=b"", values=values)
            if steps is not None:
                zeros = np.zeros(len(steps), np.int64)
                self.graph.tensors[index].quantization = schema.QuantizationParametersT(
                    scale=steps, zeroPoint=zeros, quantizedDimension=axis
                )
        return self.constants[key]

    def _weight(self, values: np.ndarray, stored: Stored, *, axis: int) -> int:
        """Add a kernel in the precision of the one that it is made of; the outputs are along an axis."""
        if not len(stored.steps):
            return self._constant(values)
        steps = np.tile(stored.steps, values.shape[axis] // len(stored.steps)).astype(np.float32)
        along = steps.reshape([-1 if number == axis else 1 for number in range(values.ndim)])
        small = np.rint(values / along).astype(np.int8)
        if np.any(small.astype(np.float32) * along != values):
            return self._constant(values)
        constant = self._constant(small, steps=steps, axis=axis)
        if constant not in self.unpacked:
            plain = self.graph.tensors[constant]
            self.unpacked[constant] = add_tensor(
                self.graph, plain, type=schema.TensorType.FLOAT32, buffer=0, quantization=None
            )
            self._add("DEQUANTIZE", [constant], self.unpacked[constant], schema.DequantizeOptionsT())
        return self.unpacked[constant]

    def _add(self, name: str, inputs: Sequence[int], output: int, options: Any) -> int:
        alone = schema.SubGraphT()  # as they are sorted in the end, no place is looked for among all others
        add_operator(self.model, alone, name=name, inputs=inputs, outputs=[output], options=options)
        self.graph.operators += alone.operators
        return output

    def _product(
        self,
        source: int,
        matrix: np.ndarray,
        *,
        bias: np.ndarray | None = None,
        activation: int = NO_ACTIVATION,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        if algebra.runs_in_blocks(matrix):
            is_even = np.arange(len(matrix))[:, None] % 2 == 0
            halves = (matrix * is_even, bias), (matrix * ~is_even, None)
            return self._sum(
                *(self._product(source, half, bias=own, stored=stored) for half, own in halves),
                activation=activation,
            )
        _, height, width, _ = self._shape(source)
        kernel = matrix[:, None, None].astype(np.float32)
        if not kernel.any():  # which would be stored dense
            kernel[0, 0, 0, 0] = _NEXT_TO_NOTHING
        bias = np.zeros(len(matrix), np.float32) if bias is None else bias.astype(np.float32)
        options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1)
        options.fusedActivationFunction = activation
        inputs = [source, self._weight(kernel, stored, axis=0), self._constant(bias)]
        return self._add("CONV_2D", inputs, self._map(height, width, len(matrix)), options)

    def _depthwise(
        self,
        source: int,
        kernel: np.ndarray,
        *,
        stride: int,
        bias: np.ndarray | None = None,
        activation: int = NO_ACTIVATION,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        """Add a depthwise convolution; its kernel is an array [channels, rows, columns]."""
        _, height, width, channels = self._shape(source)
        around, padding = kernel.shape[1] // 2, schema.Padding.SAME
        if stride == 2:
            source, padding = self._padded(source, around), schema.Padding.VALID
        bias = np.zeros(channels, np.float32) if bias is None else bias
        options = schema.DepthwiseConv2DOptionsT(padding=padding, strideH=stride, strideW=stride, depthMultiplier=1)
        options.fusedActivationFunction = activation
        weight = np.ascontiguousarray(np.moveaxis(kernel, 0, 2)[None], np.float32)
        inputs = [source, self._weight(weight, stored, axis=3), self._constant(bias)]
        made = self._map(-(-height // stride), -(-width // stride), channels)
        return self._add("DEPTHWISE_CONV_2D", inputs, made, options)

    def _padded(self, source: int, around: int) -> int:
        _, height, width, channels = self._shape(source)
        amounts = np.array([[0, 0], [around, around], [around, around], [0, 0]], np.int32)
        made = self._map(height + 2 * around, width + 2 * around, channels)
        return self._add("PAD", [source, self._constant(amounts)], made, schema.PadOptionsT())

    def _sum(self, first: int, second: int, *, activation: int = NO_ACTIVATION) -> int:
        options = schema.AddOptionsT(fusedActivationFunction=activation)
        return self._add("ADD", [first, second], self._map(*self._shape(first)[1:]), options)

    def _copied(self, operator: schema.OperatorT, inputs: Sequence[int], *, like: int | None = None) -> int:
        """Add an operator like another one, on maps."""
        made = self._map(*self._shape(inputs[0] if like is None else like)[1:])
        return self._add(self.reader.kind(operator), inputs, made, operator.builtinOptions)

    def _concatenation(self, node: Node) -> int:
        phases = self.plan.phases[node.target]
        sizes = [self._shape(index)[3] for index in node.sources]
        made, start = [], 0
        for source, size in zip(self._sources(node), sizes, strict=True):
            matrix = np.zeros((phases**2, sum(sizes), phases**2, size), np.float32)
            for phase in range(phases**2):
                matrix[phase, start : start + size, phase] = np.eye(size)
            made.append(self._product(source, matrix.reshape(phases**2 * sum(sizes), -1)))
            start += size
        return functools.reduce(self._sum, made)

    def _enlarged(self, node: Node) -> int:
        """Copy each pixel into 2 x 2 phases, which are the enlarged map, or leave and enter the group again."""
        (source,), (before, behind), times = self._sources(node), self._phases(node), node.window.size[0]
        _, height, width, channels = self._shape(node.target)
        block = times * before
        copies = np.zeros((block, block, channels, before, before, channels), np.float32)
        for p, q in np.ndindex(block, block):
            copies[p, q, :, p // times, q // times] = np.eye(channels)
        source = self._product(source, copies.reshape(block**2 * channels, -1))
        if behind == block == 2:
            return source
        large = self._put_together(source, self._map(height, width, channels), block=block)
        return self._entered(large, phases=behind)

    def _squeezed(self, node: Node) -> int:
        """Reduce a map to one pixel; a product has to come behind it, without which XNNPACK gets the shape wrong."""
        (source,), phases = self._sources(node), self._phases(node)[0]
        channels = self._shape(source)[3]
        axes, options = self._constant(np.array([1, 2], np.int32)), schema.ReducerOptionsT(keepDims=True)
        pixel = self._add("MEAN", [source, axes], self._map(1, 1, channels), options)
        return self._product(pixel, np.tile(np.eye(channels // phases**2, dtype=np.float32), phases**2) / phases**2)

    def _averaged(self, node: Node) -> int:
        """Average the entries inside of the image: the sum of zeros around it as well, divided by that of ones."""
        (source,), phases = self._sources(node), self._phases(node)
        made = self._node(replace(node, activation=NO_ACTIVATION, ignores_border=False))
        ones = np.zeros((phases[0] ** 2, self._shape(source)[3]), np.float32)
        whole = self._product(source, ones, bias=np.ones(len(ones)))
        chain = self._cheapest(node.kernel[:1], node, phases)
        part = self._follow(chain, whole, bias=None, activation=NO_ACTIVATION)
        for kind in ("SQUARE", "RSQRT"):  # their inverse
            part = self._add(kind, [part], self._map(*self._shape(part)[1:]), None)
        spread = np.kron(np.eye(phases[1] ** 2), np.ones((len(node.kernel), 1))).astype(np.float32)
        options = schema.MulOptionsT(fusedActivationFunction=node.activation)
        return self._add("MUL", [made, self._product(part, spread)], self._map(*self._shape(made)[1:]), options)

    def _gated(self, node: Node) -> int:
        source, pixel = self._sources(node)
        if self.plan.phases[node.target] == 2:
            pixel = self._product(pixel, np.tile(np.eye(self._shape(pixel)[3], dtype=np.float32), (4, 1)))
        return self._copied(node.operators[-1], [source, pixel])

    def _clamped(self, node: Node) -> int:
        source = self._sources(node)[0]
        inputs = [source if index in node.sources else index for index in inputs_of(node.operators[-1])]
        return self._copied(node.operators[-1], inputs, like=source)

    def _difference(self, node: Node) -> int:
        first, second = self._sources(node)
        negative = self._product(second, -np.eye(self._shape(second)[3], dtype=np.float32))
        return self._sum(first, negative, activation=node.activation)

    def _leak(self, node: Node) -> int:
        """Write PRELU as relu(x) - slope relu(-x)."""
        (source,) = self._sources(node)
        slopes = np.tile(node.bias, self.plan.phases[node.target] ** 2)
        one = np.eye(len(slopes), dtype=np.float32)
        both = self._product(source, np.concatenate([one, -one]), activation=RELU)
        return self._product(both, np.concatenate([one, -slopes * one], axis=1))

    def _mean(self, node: Node) -> None:
        """Leave the group by a mean over the image."""
        (source,), phases = self._sources(node), self.plan.taken[node.target]
        channels = self._shape(node.sources[0])[3]
        if phases == 2:
            source = self._product(source, np.tile(np.eye(channels, dtype=np.float32) / 4, 4))
        shape, axes = self._shape(node.target), self._constant(np.array([1, 2], np.int32))
        if len(shape) == 2:
            self._add("MEAN", [source, axes], node.target, schema.ReducerOptionsT(keepDims=False))
            return
        flat = add_tensor(
            self.graph, self.graph.tensors[node.target], name=b"", shape=np.array([1, channels], np.int32)
        )
        self.graph.tensors[flat].shapeSignature = None
        self._add("MEAN", [source, axes], flat, schema.ReducerOptionsT(keepDims=False))
        lengths = np.array(shape, np.int32)
        self._add("RESHAPE", [flat, self._constant(lengths)], node.target, schema.ReshapeOptionsT(newShape=lengths))

    def _entered(self, index: int, *, phases: int) -> int:
        """Enter the group with a map."""
        if phases == 1:
            return self._airlock(index)
        is_image = self._shape(index)[3] <= IMAGE_CHANNELS
        return self._image(index) if is_image else self._in_phases(self._airlock(index))

    def _in_phases(self, source: int) -> int:
        """Take a plain map inside of the group apart into phases."""
        _, height, width, channels = self._shape(source)
        kernel = np.eye(channels, dtype=np.float32)[:, None, None]
        chain = algebra.cheapest(kernel, SINGLE, phases=(1, 2), pixels=height * width / 4)
        return self._follow(chain, source, bias=None, activation=NO_ACTIVATION)

    def _put_together(self, source: int, target: int, *, block: int = 2) -> int:
        """Leave the group with a map in phases."""
        return self._add("DEPTH_TO_SPACE", [source], target, schema.DepthToSpaceOptionsT(blockSize=block))

    def _image(self, index: int) -> int:
        """Enter the group with an image of at most three channels, in phases."""
        _, height, width, channels = self._shape(index)
        more = np.array([[0, 0], [0, height % 2], [0, width % 2], [0, 3 - channels]], np.int32)
        source = index
        if more.any():
            made = self._map(height + height % 2, width + width % 2, 3)
            source = self._add("PAD", [index, self._constant(more)], made, schema.PadOptionsT())
        entered = self._taken_apart(source)
        if channels == 3:
            return entered
        kept = np.eye(ENTRY_CHANNELS, dtype=np.float32).reshape(4, 3, ENTRY_CHANNELS)[:, :channels]
        return self._product(entered, kept.reshape(-1, ENTRY_CHANNELS))

    def _taken_apart(self, source: int) -> int:
        """Take an image of three channels apart into 2 x 2 phases, which begins a group."""
        _, height, width, _ = self._shape(source)
        kernel = np.zeros((2, 2, 3, 3, 3, 3), np.float32)
        for p, q, channel in np.ndindex(2, 2, 3):
            kernel[p, q, channel, 1 + p, 1 + q, channel] = 1
        options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=2, strideW=2)
        weight = self._constant(kernel.reshape(ENTRY_CHANNELS, 3, 3, 3))
        inputs = [self._padded(source, 1), weight, self._constant(np.zeros(ENTRY_CHANNELS, np.float32))]
        return self._add("CONV_2D", inputs, self._map(height // 2, width // 2, ENTRY_CHANNELS), options)

    def _airlock(self, index: int) -> int:
        """Enter the group with a map of any number of channels, twelve at a time."""
        _, height, width, channels = self._shape(index)
        source = index
        if channels < ENTRY_CHANNELS:
            more = np.array([[0, 0], [0, 0], [0, 0], [0, ENTRY_CHANNELS - channels]], np.int32)
            made = self._map(height, width, ENTRY_CHANNELS)
            source = self._add("PAD", [index, self._constant(more)], made, schema.PadOptionsT())
        parts = []
        for start in range(0, channels, ENTRY_CHANNELS):
            first = max(min(start, channels - ENTRY_CHANNELS), 0)
            part = source
            if channels > ENTRY_CHANNELS:
                cut = [np.array([0, 0, 0, first], np.int32), np.array([1, height, width, ENTRY_CHANNELS], np.int32)]
                made = self._map(height, width, ENTRY_CHANNELS)
                part = self._add("SLICE", [source, *map(self._constant, cut)], made, schema.SliceOptionsT())
            large = self._map(2 * height, 2 * width, 3)
            self._put_together(part, large)
            matrix = np.zeros((channels, ENTRY_CHANNELS), np.float32)
            for channel in range(start, min(start + ENTRY_CHANNELS, channels)):
                matrix[channel, channel - first] = 1
            parts.append(self._product(self._taken_apart(large), matrix))
        return functools.reduce(self._sum, parts)

    def _leave(self, index: int) -> None:
        """Leave the group with a map, which DEPTH_TO_SPACE puts together from its phases."""
        shape = self._shape(index)
        is_even = is_even_grid(self.plan.grids[index])
        source = self._in(index, 2) if is_even or (index, 2) in self.maps else self._in_phases(self.maps[index, 1])
        _, height, width, _ = self._shape(source)
        if (2 * height, 2 * width) == shape[1:3]:
            self._put_together(source, index)
            return
        cut = [np.zeros(4, np.int32), np.array(shape, np.int32)]
        self._add("SLICE", [self._whole(source), *map(self._constant, cut)], index, schema.SliceOptionsT())

    def _whole(self, source: int) -> int:
        """Leave the group with a map in phases, all of it."""
        _, height, width, channels = self._shape(source)
        return self._put_together(source, self._map(2 * height, 2 * width, channels // 4))


_WRITING: dict[str, Callable[[_Writer, Node], int]] = {
    "join": _Writer._join,
    "concatenation": _Writer._concatenation,
    "enlarge": _Writer._enlarged,
    "squeeze": _Writer._squeezed,
    "resize": _Writer._resized,
    "gate": _Writer._gated,
    "clamp": _Writer._clamped,
    "difference": _Writer._difference,
    "leak": _Writer._leak,
}


def _one_hot(amounts: np.ndarray) -> np.ndarray:
    """Return kernels [channels, 3, 3] that shift each channel by its own rows and columns."""
    kernel = np.zeros((len(amounts), 3, 3), np.float32)
    rows, columns = (amounts + 1).T
    kernel[np.arange(len(amounts)), rows, columns] = 1
    return kernel


def spread_convolutions(file: ModelFile) -> tuple[ModelFile, float]:
    """Write the convolutions of a file's main graph as sparse 1x1 convolutions between shifts of whole maps.

    Outputs stay the same but for the order of sums. XNNPACK skips the zeros of such a file on ARM and in WebAssembly
    once its weights are stored sparse; elsewhere it runs all of it dense, and slower than the file as it was.

    Args:
        file: A float32 file with a fixed batch of 1.

    Returns:
        The next file, whose 1x1 convolutions are still stored dense, and the estimated time of the file as it was,
        divided by that of the next one. Where the estimate is below 1.1, the file itself and 1.
    """
    model = file.objects()
    reader = Reader(model)
    plan = best_plan(reader)
    if plan.gain < LEAST_GAIN or numbers_operators(model):
        return file, 1.0
    _Writer(reader, plan).write()
    return file.saved(model), plan.gain


def estimated_gain(file: ModelFile) -> float:
    """Return the estimated time of a file on dense kernels, divided by that on the sparse ones that it reaches.

    Args:
        file: A file whose weights are stored dense. XNNPACK takes its groups once they are stored sparse.

    Returns:
        An estimate on the scale of `spread_convolutions`: 1 for a file that reaches no sparse kernels.
    """
    analysis = file.analyses[0]
    sparse = {
        analysis.steps[number].outputs[0]
        for group in analysis.groups
        if group.taken
        for number in group.members
        if not analysis.roles[number].enters
    }
    reader = Reader(file.objects())
    every = Planner(reader, [node for node in reader.nodes if isinstance(node, Node) and node.target in sparse])
    inside = [node for node in every.nodes if every.price(node, 1, 1) < float("inf")]
    planner = Planner(reader, inside)
    after = sum(planner.price(node, 1, 1) for node in inside) + sum(map(planner.dense_price, planner.outside))
    return sum(map(planner.dense_price, reader.operators)) / after if after else 1.0


# Say what would be written, without writing it, and why operators stay dense.

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_SPARSITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def plan_convolutions(file: ModelFile, *, layers: Layers = ({}, {})) -> RewritingReport | None:
    """Say what `spread_convolutions` makes of a file, which it leaves as it is, and why operators stay dense.

    Args:
        file: A file. If its batch is open, the plan is that of a batch of 1.
        layers: Paths of the Keras layers with kernels, and of all, by name; empty where they are not known.

    Returns:
        The estimate, and a row for each convolution; None for a file without convolutions.
    """
    if not any(operator.name in _CONVOLUTIONS for operator in file.graph.subgraphs[0].operators):
        return None
    reasons = []
    if open_batch(file.graph.inputs):
        try:
            file = fix_batch(file, 1)
            reasons.append("the batch is open: build the model with batch_size=1, or export it with batch=1")
        except ValueError as error:
            reasons.append(f"its batch cannot be fixed. {error}")
    model = file.objects()
    if numbers_operators(model):
        reasons.append("its metadata name operators by their numbers, which would change: leave the metadata out")
    reader = Reader(model)
    plan = NO_PLAN if numbers_operators(model) else best_plan(reader)
    dense = _reasons(reader, plan, tensors=file.graph.subgraphs[0].tensors)
    gains = {} if plan is NO_PLAN else _gains(model)
    report = rewriting_report(file.analyses[0], layers=layers, dense=dense, gain=plan.gain, gains=gains)
    return replace(report, reasons=tuple(reasons))


def _gains(model: schema.ModelT) -> dict[float, float]:
    """Return the gain by fractions of zeros in each convolution; the objects are used up."""
    gains = {}
    for zeros in _SPARSITIES:
        for operator in model.subgraphs[0].operators:
            if operator_name(model, operator) == "CONV_2D":
                _thin(model, model.subgraphs[0].tensors[inputs_of(operator)[1]], zeros)
        gains[zeros] = best_plan(Reader(model)).gain
    return gains


def _thin(model: schema.ModelT, kernel: schema.TensorT, zeros: float) -> None:
    """Give a kernel this fraction of zeros, and ones elsewhere: only their number counts."""
    data = model.buffers[kernel.buffer].data
    if data is not None and len(data) and kernel.type == schema.TensorType.FLOAT32 and kernel.sparsity is None:
        values = (np.random.default_rng(0).random(len(data) // 4, np.float32) >= zeros).astype("<f4")
        model.buffers[kernel.buffer].data = values.view(np.uint8)


def _reasons(reader: Reader, plan: Plan, *, tensors: Sequence[Tensor]) -> dict[int, str]:
    """Return why operators stay dense, by the tensors that they make: convolutions, and what is before them."""
    nodes = [node for node in reader.nodes if isinstance(node, Node)]
    running = {id(each) for node in plan.nodes for each in node.operators} if plan.gain >= LEAST_GAIN else set()
    joined = {id(each) for node in nodes for each in node.operators}
    ahead = [each for each in reader.operators if reader.kind(each) in _CONVOLUTIONS]
    before: dict[int, schema.OperatorT] = {}
    while ahead:
        operator = ahead.pop()
        if id(operator) not in before:
            before[id(operator)] = operator
            ahead += [reader.producers[index] for index in inputs_of(operator) if index in reader.producers]
    reasons = {}
    for operator, node in zip(reader.operators, reader.nodes, strict=True):
        target = int(operator.outputs[0])
        if id(operator) not in before or id(operator) in running or len(reader.shape(target)) != 4:
            continue
        if isinstance(node, Node) and reader.kind(operator) in _CONVOLUTIONS:
            reasons[target] = _why_dense(reader, node, plan)
        elif isinstance(node, str) and id(operator) not in joined:
            reasons[target] = _why_not(reader, operator, node, tensors=tensors)
    return reasons


def _why_not(reader: Reader, operator: schema.OperatorT, reason: str, *, tensors: Sequence[Tensor]) -> str:
    """Say why an operator has no form, and what to change."""
    kind, target = reader.kind(operator), int(operator.outputs[0])
    shape, dtype = reader.shape(target), tensors[target].dtype
    if dtype != "float32":
        return f"it computes with {dtype}; sparse kernels compute in float32: leave `quantize` out"
    if shape[0] > 1:
        return f"it takes {shape[0]} images at once: build the model with batch_size=1, or leave the batch open"
    if min(shape) < 0:
        return "the size of its image is open: give keras.Input a height and a width"
    if kind in _CONVOLUTIONS and reader.weight(inputs_of(operator)[1])[0] is None:
        weight = inputs_of(operator)[1]
        while weight in reader.producers and inputs_of(reader.producers[weight]):
            weight = inputs_of(reader.producers[weight])[0]
        if tensors[weight].constant and tensors[weight].dtype != "float32":
            return f"its kernel is stored as {tensors[weight].dtype}: float32, float16 and int8 have a form"
    return reason


def _why_dense(reader: Reader, node: Node, plan: Plan) -> str:
    """Say why a convolution that has a form stays dense."""
    outputs, rows, columns, inputs = node.kernel.shape
    planner = Planner(reader, [node])
    phases = [(before, behind) for before in (1, 2) for behind in (1, 2)]
    phases = [each for each in phases if planner.keeps_grid(node, each)]
    if not phases:
        return "its image gets larger by its padding: padding='same' and 'valid' have a form"

    def estimate(entries: float) -> float:
        """Return the time for one pixel, in multiplications of a dense convolution."""
        cost = functools.partial(algebra.cost, node.window, sizes=(inputs, outputs), entries=int(entries))
        return min(cost(phases=each) / each[1] ** 2 for each in phases)

    if estimate(0) == float("inf"):
        return f"its kernel of {rows}x{columns} with dilation {node.window.dilation} reaches too far to be shifts"
    if node.kind == "depthwise":
        return "a depthwise convolution is not faster by zeros; it runs between convolutions that are"
    size, zeros = node.kernel.size, 1 - node.entries / node.kernel.size
    dense = size / 4 if node.window.enlarges else size
    pays_from = next((each for each in _SPARSITIES if estimate((1 - each) * size) < dense), None)
    if pays_from is None:
        return f"it has too few channels, {inputs} to {outputs}, to be faster by zeros"
    if estimate(node.entries) >= dense:
        return f"it has too few zeros, {zeros:.0%}: it would be faster from about {pays_from:.0%}"
    if plan.gain >= LEAST_GAIN:
        return "sparse kernels begin behind it, where the estimate is best"
    return "moving maps into the sparse kernels and out of them costs more than its zeros save"

"""Plan a group for XNNPACK's sparse kernels: operators as functions of maps, and the phases of each map."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import indices_of, inputs_of, operator_name
from tfprune.export.file.xnnpack import UNARY, delegated_parts, is_delegated, runs_fused
from tfprune.export.rewriting import phases as algebra
from tfprune.export.rewriting.phases import Window

# Read operators of a file as functions of maps that have a form in the groups.

NO_ACTIVATION, RELU, RELU6 = 0, 1, 3  # of the format, whose classes are imported when a file is read
_KEEPING_SIGN = {
    *("ADD", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "PAD"),
    *("RESHAPE", "TILE", "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"),
}
_FARTHEST = 2  # rows or columns: depthwise kernels of 5x5 are the largest that XNNPACK takes in a group
_LONGEST_CHAIN, _MOST_TIMES = 12, 8  # operators that stand for one upsampling, and its factor
_ABSORBED = "it belongs to the operator behind it"
_MOST_CHANNELS_OF_A_DIAGONAL = 512  # a larger matrix takes more memory, once it is unpacked, than it saves time
_NOT_NEGATIVE = {"RELU", "RELU6", "RELU_0_TO_1", "LOGISTIC", "ABS", "SQUARE", "SQRT", "EXP"}


@dataclass(frozen=True)
class Stored:
    """How a kernel is stored, if not as float32.

    Kernels of float16 are stored as float32 again: in groups, LiteRT.js 2.5 gives wrong outputs with them.

    Attributes:
        steps: For each output, the number that its 8-bit integers are multiplied by; empty for other kernels.
    """

    steps: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)


@dataclass(frozen=True)
class Node:
    """An operator that may run in a group, as a function of maps.

    Attributes:
        kind: `convolution`, `depthwise`, `maximum`, `enlarge`, `join`, `concatenation`, `mean`, `squeeze` (a mean
            inside of the group), `gate` (a map and a map of one pixel are joined), `resize` (bilinear),
            `clamp` (with a number), `difference` or `leak` (PRELU, whose slopes are the bias).
        operators: The operators of the file that it stands for, the last of which makes its target.
        sources: The tensors that it takes.
        target: The tensor that it makes.
        window: How it moves over the image, for those that do.
        kernel: Array [outputs, rows, columns, inputs] of a convolution; of a depthwise one, inputs is 1.
        bias: Array [outputs] of a convolution.
        activation: What is fused.
        stored: How the file stores the kernel, which what is made of it keeps.
        ignores_border: Whether what is outside of the image does not count in a pool, as if the window were smaller.
    """

    kind: str
    operators: tuple[schema.OperatorT, ...] = field(repr=False)
    sources: tuple[int, ...]
    target: int
    window: Window = Window((1, 1))
    kernel: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    activation: int = NO_ACTIVATION
    ignores_border: bool = False
    stored: Stored = Stored()

    @functools.cached_property
    def entries(self) -> int:
        """The non-zero entries of its kernel."""
        return int(np.count_nonzero(self.kernel))

    @property
    def is_window(self) -> bool:
        return self.kind in ("convolution", "depthwise", "maximum")

    @functools.cached_property
    def centered(self) -> np.ndarray | None:
        """Array [channels, rows, columns] of 3x3 or 5x5 that XNNPACK takes on plain maps; None if there is none."""
        if self.kind != "depthwise" or self.window.enlarges:
            return None
        places = [
            [entry * step - before for entry in range(size)]
            for size, step, before in zip(self.window.size, self.window.dilation, self.window.padding, strict=True)
        ]
        farthest = max(1, *(abs(place) for each in places for place in each))
        if farthest > _FARTHEST:
            return None
        kernel = np.zeros((len(self.kernel), 2 * farthest + 1, 2 * farthest + 1), np.float32)
        kernel[np.ix_(np.arange(len(kernel)), *(np.add(each, farthest) for each in places))] = self.kernel[..., 0]
        return kernel

    @property
    def is_plain_depthwise(self) -> bool:
        """Whether XNNPACK takes it in a group as it is, on plain maps."""
        has_size = self.window.size != (1, 1) or len(self.kernel) > _MOST_CHANNELS_OF_A_DIAGONAL
        return has_size and self.centered is not None

    @property
    def is_affine(self) -> bool:
        """Whether it is one number times a channel, and another one added."""
        return self.kind == "depthwise" and self.window == Window((1, 1))

    @property
    def alike(self) -> tuple[int, ...]:
        """The sources that have as many phases as the target."""
        if self.kind in ("join", "concatenation", "difference"):
            return self.sources
        return self.sources[:1] if self.kind in ("gate", "clamp", "leak") else ()


class Reader:
    """Reads the main graph of a file as nodes.

    Args:
        model: The file as objects.
    """

    def __init__(self, model: schema.ModelT) -> None:
        self.model, self.graph = model, model.subgraphs[0]
        self.operators = list(self.graph.operators or ())
        self.producers = {index: each for each in self.operators for index in indices_of(each.outputs)}
        self.nodes: list[Node | str] = []  # for each operator; a string says why it is none
        self.not_negative: set[int] = set()
        self.costs: dict[tuple[int, ...], float] = {}  # of nodes, by their targets and phases, and of operators
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._kinds: dict[int, str] = {}
        self._links: dict[int, tuple[int, ...]] = {}
        self._delegated: dict[int, bool] = {}
        for operator in self.operators:
            node = self._node(operator)
            self.nodes.append(node)
            self._note_sign(operator)
        self._end_at_means()

    def kind(self, operator: schema.OperatorT) -> str:
        if operator.opcodeIndex not in self._kinds:
            self._kinds[operator.opcodeIndex] = operator_name(self.model, operator)
        return self._kinds[operator.opcodeIndex]

    def inputs(self, operator: schema.OperatorT) -> tuple[int, ...]:
        """Return what an operator of the file takes, as it was when first asked for."""
        if id(operator) not in self._links:
            self._links[id(operator)] = tuple(inputs_of(operator))
        return self._links[id(operator)]

    def is_delegated(self, operator: schema.OperatorT) -> bool:
        if id(operator) not in self._delegated:
            self._delegated[id(operator)] = is_delegated(operator, model=self.model, graph=self.graph)
        return self._delegated[id(operator)]

    def shape(self, index: int) -> tuple[int, ...]:
        if index not in self._shapes:
            tensor = self.graph.tensors[index]
            lengths = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
            self._shapes[index] = tuple(map(int, [] if lengths is None else lengths))
        return self._shapes[index]

    def is_constant(self, index: int) -> bool:
        """Tell whether the file holds the values of a tensor, in any form."""
        data = self.model.buffers[self.graph.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def values(self, index: int) -> np.ndarray | None:
        """Return a constant of float32 or int32 that is stored as it is; None for any other tensor."""
        if not self.has_values(index):
            return None
        tensor = self.graph.tensors[index]
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8)
        kind = "<f4" if tensor.type == schema.TensorType.FLOAT32 else "<i4"
        return np.frombuffer(data.tobytes(), kind).reshape(self.shape(index))

    def has_values(self, index: int) -> bool:
        """Tell whether a tensor is such a constant."""
        tensor = self.graph.tensors[index]
        is_whole = tensor.type in (schema.TensorType.FLOAT32, schema.TensorType.INT32) and tensor.sparsity is None
        return is_whole and not tensor.isVariable and self.is_constant(index)

    def weight(self, index: int) -> tuple[np.ndarray | None, Stored]:
        """Return a constant of float32, float16 or 8 bits as the numbers that it means, and how it is stored."""
        producer = self.producers.get(index)
        if producer is not None and self.kind(producer) == "DEQUANTIZE":
            index = inputs_of(producer)[0]
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        kinds = {schema.TensorType.FLOAT16: "<f2", schema.TensorType.INT8: "<i1"}
        if data is None or not len(data) or tensor.sparsity is not None or tensor.type not in kinds:
            return self.values(index), Stored()
        values = np.asarray(data, np.uint8).view(kinds[tensor.type]).reshape(self.shape(index)).astype(np.float32)
        if tensor.type == schema.TensorType.FLOAT16:
            return values, Stored()
        grid = tensor.quantization
        if grid is None or grid.details is not None or grid.scale is None or np.any(grid.zeroPoint):
            return None, Stored()
        axis, steps = int(grid.quantizedDimension or 0), np.asarray(grid.scale, np.float32)
        if len(steps) == 1:
            steps = np.repeat(steps, values.shape[axis])
        return np.moveaxis(np.moveaxis(values, axis, -1) * steps, -1, axis), Stored(steps=steps)

    def _is_given(self, index: int) -> bool:
        producer = self.producers.get(index)
        is_unpacked = producer is not None and self.kind(producer) == "DEQUANTIZE"
        return self.is_constant(inputs_of(producer)[0]) if is_unpacked else self.has_values(index)

    def is_map(self, index: int) -> bool:
        """Tell whether a tensor is one image of float32 whose size is known."""
        shape = self.shape(index)
        floats = self.graph.tensors[index].type == schema.TensorType.FLOAT32
        return floats and len(shape) == 4 and shape[0] == 1 and min(shape) > 0 and not self.has_values(index)

    def _node(self, operator: schema.OperatorT) -> Node | str:
        kind, inputs = self.kind(operator), inputs_of(operator)
        rule = _RULES.get(kind)
        if rule is None:
            return f"{kind} has no form with channels first"
        if not runs_fused(operator) or (_fused(operator) and kind == "CONCATENATION"):
            return f"the activation that is fused to it has no form: put one of its own behind the {kind}"
        running = [index for index in inputs if index >= 0 and not self._is_given(index)]
        taken = running[0] if rule is not _reshape and running else int(operator.outputs[0])
        made = int(operator.outputs[0]) if rule is not _mean else taken
        if not inputs or not self.is_map(taken) or not self.is_map(made):
            return "it does not work on one image of float32 with a fixed size"
        return rule(self, operator, kind)

    def readers(self, index: int) -> list[schema.OperatorT]:
        return [operator for operator in self.operators if index in self.inputs(operator)]

    def node_of(self, index: int) -> Node | None:
        """Return the node that makes a tensor, of those that are read so far."""
        return next((node for node in self.nodes if isinstance(node, Node) and node.target == index), None)

    def absorbed(self, index: int) -> Node | None:
        """Return the node that makes a tensor, and give it to its only reader; None if others read it, too."""
        node = self.node_of(index)
        if node is None or len(self.readers(index)) > 1 or index in indices_of(self.graph.outputs):
            return None
        self.nodes = [_ABSORBED if each is node else each for each in self.nodes]
        return node

    def _end_at_means(self) -> None:
        """Keep what follows a mean out of the group, unless it scales a map of the group again."""
        inside, means = set[int](), set[int]()
        for number, node in reversed([*enumerate(self.nodes)]):
            if not isinstance(node, Node):
                continue
            if node.kind == "gate":
                inside.update(node.sources[1:])
            elif node.target in inside:
                inside.update(index for index in node.sources if self.is_pixel(index))
                if node.kind == "mean":
                    self.nodes[number] = replace(node, kind="squeeze")
                elif node.kind == "squeeze" and len(self.readers(inputs_of(node.operators[-1])[0])) == 1:
                    means.add(inputs_of(node.operators[-1])[0])
            elif node.target in means:
                self.nodes[number] = _ABSORBED
            elif node.kind == "squeeze" or self.is_pixel(node.sources[0]):
                self.nodes[number] = "it comes behind the last mean over the image"

    def is_pixel(self, index: int) -> bool:
        return self.is_map(index) and self.shape(index)[1:3] == (1, 1)

    def unpadded(self, operator: schema.OperatorT) -> tuple[int, tuple[int, int], tuple[schema.OperatorT, ...]]:
        """Return what an operator takes before zeros are added, how many rows and columns come first, and both."""
        source = inputs_of(operator)[0]
        before = self.producers.get(source)
        if before is None or self.kind(before) != "PAD" or operator.builtinOptions.padding != schema.Padding.VALID:
            return source, (0, 0), (operator,)
        amounts = self.values(inputs_of(before)[1])
        if amounts is None or amounts.shape != (4, 2) or amounts.min() < 0 or amounts[[0, 3]].any():
            return source, (0, 0), (operator,)
        return inputs_of(before)[0], (int(amounts[1, 0]), int(amounts[2, 0])), (before, operator)

    def moved(self, operator: schema.OperatorT, numbers: np.ndarray) -> np.ndarray | None:
        """Return what an operator that only moves or repeats entries makes of an array; None for any other."""
        kind, values = self.kind(operator), [self.values(index) for index in inputs_of(operator)[1:]]
        if kind in ("RESHAPE", "EXPAND_DIMS"):
            return numbers.reshape(self.shape(int(operator.outputs[0])))
        if kind == "TILE" and values[0] is not None and len(values[0]) == numbers.ndim:
            return np.tile(numbers, values[0])
        if kind == "RESIZE_NEAREST_NEIGHBOR" and values[0] is not None and not operator.builtinOptions.alignCorners:
            times = values[0] // numbers.shape[1:3]
            return numbers.repeat(times[0], axis=1).repeat(times[1], axis=2)
        return None

    def _note_sign(self, operator: schema.OperatorT) -> None:
        """Note tensors without negative values."""
        kind, inputs = self.kind(operator), inputs_of(operator)
        keeps = kind in _KEEPING_SIGN
        if (
            kind in _NOT_NEGATIVE
            or _fused(operator) in (RELU, RELU6)
            or (keeps and set(inputs[: 1 if kind == "PAD" else None]) <= self.not_negative)
        ):
            self.not_negative.update(indices_of(operator.outputs))


def _fused(operator: schema.OperatorT) -> int:
    return getattr(operator.builtinOptions, "fusedActivationFunction", NO_ACTIVATION)


def _window(reader: Reader, operator: schema.OperatorT, size: tuple[int, int]) -> tuple[Window, int, tuple] | str:
    options = operator.builtinOptions
    dilation = getattr(options, "dilationHFactor", 1), getattr(options, "dilationWFactor", 1)
    if options.strideH != options.strideW or options.strideH not in (1, 2):
        return f"its strides are {options.strideH} and {options.strideW}; 1 or 2 in both directions has a form"
    source, padding, operators = reader.unpadded(operator)
    if options.padding == schema.Padding.SAME:
        shape = reader.shape(source)
        totals = [
            max((-(-length // options.strideH) - 1) * options.strideH + (entries - 1) * step + 1 - length, 0)
            for length, entries, step in zip(shape[1:3], size, dilation, strict=True)
        ]
        padding = totals[0] // 2, totals[1] // 2
    return Window(size, options.strideH, padding, dilation), source, operators


def _convolution(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    inputs = inputs_of(operator)
    kernel, stored = reader.weight(inputs[1])
    bias = reader.weight(inputs[2])[0] if len(inputs) > 2 and inputs[2] >= 0 else None
    if kernel is None or kernel.dtype != np.float32 or (bias is None and len(inputs) > 2 and inputs[2] >= 0):
        return "its kernel is not a dense constant"
    found = _window(reader, operator, kernel.shape[1:3])
    if isinstance(found, str):
        return found
    window, source, operators = found
    channels = reader.shape(source)[3]
    if kind == "DEPTHWISE_CONV_2D":
        kernel = np.moveaxis(kernel, (3, 0), (0, 3))
    name = "depthwise" if kernel.shape[3] == 1 and len(kernel) == channels else "convolution"
    if name == "convolution":
        kernel = spread(kernel, channels)
    bias = np.zeros(len(kernel), np.float32) if bias is None else bias
    activation = operator.builtinOptions.fusedActivationFunction
    target = int(operator.outputs[0])
    return Node(name, operators, (source,), target, window, kernel, bias, activation, stored=stored)


def spread(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return the kernel of a convolution in groups as one that takes all channels."""
    outputs, rows, columns, inputs = kernel.shape
    groups = channels // inputs
    if groups == 1:
        return kernel
    whole = np.zeros((outputs, rows, columns, channels), np.float32)
    for output in range(outputs):
        start = output * groups // outputs * inputs
        whole[output, :, :, start : start + inputs] = kernel[output]
    return whole


def _pool(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    options = operator.builtinOptions
    size = options.filterHeight, options.filterWidth
    found = _window(reader, operator, size)
    if isinstance(found, str):
        return found
    window, source, operators = found
    target, activation, channels = int(operator.outputs[0]), options.fusedActivationFunction, reader.shape(source)[3]
    is_beyond = options.padding == schema.Padding.SAME and _reaches_beyond(reader, source, target, window)
    if kind == "MAX_POOL_2D" and size != (1, 1):
        hides = is_beyond and source not in reader.not_negative
        return Node("maximum", operators, (source,), target, window, activation=activation, ignores_border=hides)
    kernel, bias = np.full((channels, *size, 1), 1 / (size[0] * size[1]), np.float32), np.zeros(channels, np.float32)
    return Node("depthwise", operators, (source,), target, window, kernel, bias, activation, is_beyond)


def _reaches_beyond(reader: Reader, source: int, target: int, window: Window) -> bool:
    """Tell whether a window takes what is outside of the image."""
    shapes = reader.shape(source)[1:3], reader.shape(target)[1:3]
    ends = [
        (made - 1) * window.stride + entries - before - length
        for length, made, entries, before in zip(*shapes, window.size, window.padding, strict=True)
    ]
    return max(*window.padding, *ends) > 0


def _join(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    inputs, target = inputs_of(operator), int(operator.outputs[0])
    if kind in UNARY:
        return Node("join", (operator,), tuple(inputs), target)
    if any(map(reader.has_values, inputs)):
        return _affine(reader, operator, kind)
    pixels = [index for index in inputs if reader.is_pixel(index) and not reader.is_pixel(target)]
    maps = [index for index in inputs if index not in pixels]
    shapes = {reader.shape(index) for index in maps}, {reader.shape(index)[3] for index in pixels}
    if not all(map(reader.is_map, inputs)) or shapes[0] != {reader.shape(target)}:
        return "it joins maps of different sizes"
    if pixels and kind in ("ADD", "MUL") and shapes[1] == {reader.shape(target)[3]}:
        return Node("gate", (operator,), (*maps, *pixels), target)
    if pixels or kind == "DIV":
        return f"{kind} of such maps has no form with channels first"
    name = "difference" if kind == "SUB" else "join"
    return Node(name, (operator,), tuple(inputs), target, activation=_fused(operator))


def _affine(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    """Read an operator with a constant for each channel as a depthwise convolution of 1x1, with the one before it."""
    inputs, target = inputs_of(operator), int(operator.outputs[0])
    number = next(number for number, index in enumerate(inputs) if reader.has_values(index))
    source, values, channels = inputs[1 - number], reader.values(inputs[number]), reader.shape(target)[3]
    is_each = values is not None and values.size in {1, *values.shape[-1:]} and values.size in (1, channels)
    if values is None or not is_each or not reader.is_map(source) or reader.shape(source) != reader.shape(target):
        return "it joins a map and a constant that is not one number for each channel"
    if kind == "DIV" and (number == 0 or not values.all()):
        return "it divides by a map"
    each, one, none = np.broadcast_to(values.ravel(), channels), np.ones(channels), np.zeros(channels)
    scale, bias = {
        "MUL": (each, none),
        "DIV": (1 / np.where(each, each, 1).astype(np.float64), none),
        "ADD": (one, each),
        "SUB": (-one, each) if number == 0 else (one, -each),
    }[kind]
    operators: tuple[schema.OperatorT, ...] = (operator,)
    before = reader.node_of(source)
    if before is not None and before.is_affine and not before.activation and reader.absorbed(source):
        bias, scale = bias + scale * before.bias, scale * before.kernel[:, 0, 0, 0]
        operators, source = (*before.operators, operator), before.sources[0]
    kernel = scale.astype(np.float32)[:, None, None, None]
    window, activation = Window((1, 1)), _fused(operator)
    return Node("depthwise", operators, (source,), target, window, kernel, bias.astype(np.float32), activation)


def _prelu(reader: Reader, operator: schema.OperatorT, _: str) -> Node | str:
    (source, slopes), target = inputs_of(operator), int(operator.outputs[0])
    values, channels = reader.values(slopes), reader.shape(target)[3]
    if values is None or values.size != values.shape[-1] or values.size not in (1, channels):
        return "its slopes are not one number for each channel"
    return Node("leak", (operator,), (source,), target, bias=np.broadcast_to(values.ravel(), channels))


def _clamp(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    inputs, target = inputs_of(operator), int(operator.outputs[0])
    limits = [index for index in inputs if (found := reader.values(index)) is not None and found.size == 1]
    if len(limits) != 1:
        return f"{kind} needs an image and one number"
    return Node("clamp", (operator,), tuple(index for index in inputs if index not in limits), target)


def _concatenation(reader: Reader, operator: schema.OperatorT, _: str) -> Node | str:
    inputs, target = inputs_of(operator), int(operator.outputs[0])
    if operator.builtinOptions.axis % 4 != 3 or not all(map(reader.is_map, inputs)):
        return "it does not join the channels of images"
    return Node("concatenation", (operator,), tuple(inputs), target)


def _enlarge(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    """Recognize nearest upsampling, which converters write as RESHAPE and TILE, by what it does."""
    chain, source, target = [operator], inputs_of(operator)[0], int(operator.outputs[0])
    while not _times(reader, source, target) and source in reader.producers and len(chain) < _LONGEST_CHAIN:
        chain.insert(0, reader.producers[source])
        source = inputs_of(chain[0])[0] if inputs_of(chain[0]) else -1
    no, times = f"{kind} has no form with channels first", _times(reader, source, target)
    if not times:
        return no
    shape = reader.shape(source)
    numbers = np.arange(np.prod(shape)).reshape(shape)
    found: np.ndarray | None = numbers
    for each in chain:
        found = None if found is None else reader.moved(each, found)
    if found is None or not np.array_equal(found, numbers.repeat(times, axis=1).repeat(times, axis=2)):
        return no
    return Node("enlarge", tuple(chain), (source,), target, Window((times, times)))


def _times(reader: Reader, source: int, target: int) -> int:
    """Return how many times a map is as high and as wide as another one; 0 where it is not, in both directions."""
    if source < 0 or not reader.is_map(source):
        return 0
    _, height, width, channels = reader.shape(source)
    times = reader.shape(target)[1] // height
    is_enlarged = reader.shape(target) == (1, times * height, times * width, channels)
    return times if is_enlarged and 2 <= times <= _MOST_TIMES else 0


def _transposed(reader: Reader, operator: schema.OperatorT, _: str) -> Node | str:
    """Read a transposed convolution that makes a map twice as high and as wide."""
    (weight, source, *biases), target = inputs_of(operator)[1:], int(operator.outputs[0])
    (kernel, stored), options = reader.weight(weight), operator.builtinOptions
    bias = reader.weight(biases[0])[0] if biases and biases[0] >= 0 else None
    if kernel is None or kernel.dtype != np.float32 or (bias is None and biases and biases[0] >= 0):
        return "its kernel is not a dense constant"
    size = kernel.shape[1], kernel.shape[2]
    if (options.strideH, options.strideW) != (2, 2) or not _is_doubled(reader, source, target):
        return "it does not make an image twice as high and as wide, as strides of 2 and padding='same' do"
    padding = max(size[0] - 2, 0) // 2, max(size[1] - 2, 0) // 2
    bias = np.zeros(len(kernel), np.float32) if bias is None else bias
    window = Window(size, padding=padding, enlarges=True)
    return Node("convolution", (operator,), (source,), target, window, kernel, bias, _fused(operator), stored=stored)


def _is_doubled(reader: Reader, source: int, target: int) -> bool:
    small, large = reader.shape(source), reader.shape(target)
    return len(small) == 4 and large[1:3] == (2 * small[1], 2 * small[2])


def _resized(reader: Reader, operator: schema.OperatorT, _: str) -> Node | str:
    source, target = inputs_of(operator)[0], int(operator.outputs[0])
    if min(reader.shape(source)[1:3]) < 2:
        return "it enlarges a single row, column or pixel"
    return Node("resize", (operator,), (source,), target)


def _reshape(reader: Reader, operator: schema.OperatorT, kind: str) -> Node | str:
    source, target = inputs_of(operator)[0], int(operator.outputs[0])
    mean = reader.node_of(source)
    if mean is not None and mean.kind == "mean" and reader.shape(target) == _pixel(reader, mean.sources[0]):
        return replace(mean, kind="squeeze", operators=(*mean.operators, operator), target=target)
    return _enlarge(reader, operator, kind)


def _pixel(reader: Reader, index: int) -> tuple[int, ...]:
    return (1, 1, 1, reader.shape(index)[3])


def _mean(reader: Reader, operator: schema.OperatorT, _: str) -> Node | str:
    axes = reader.values(inputs_of(operator)[1])
    if axes is None or sorted((axes.ravel() % 4).tolist()) != [1, 2]:
        return "it does not reduce exactly the height and the width"
    return Node("mean", (operator,), (inputs_of(operator)[0],), int(operator.outputs[0]))


_RULES: dict[str, Callable[[Reader, schema.OperatorT, str], Node | str]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "TRANSPOSE_CONV": _transposed,
    "RESIZE_BILINEAR": _resized,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _reshape,
    **dict.fromkeys(("ADD", "MUL", "SUB", "DIV"), _join),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), _clamp),
    "PRELU": _prelu,
    "CONCATENATION": _concatenation,
    "MEAN": _mean,
    **dict.fromkeys(UNARY, _join),
}


# Plan a group: which operators form it, and in how many phases each map is kept.
#
# A plan is priced in multiplications of a dense convolution (`phases`), with what maps take that enter the group,
# leave it, or are taken apart for an operator that wants them otherwise than they are made.

SINGLE = Window((1, 1))
IMAGE_CHANNELS = 3
ENTRY_CHANNELS = 12  # of a 3x3 convolution with stride 2 that takes three channels apart into 2 x 2 phases
_MOST_CHANNELS_IN_PHASES = 512
_MOST_WEIGHTS = 3 * 2**18  # of a 1x1 convolution in phases, once unpacked: sixteen times those of plain maps
_OUTSIDE = 2.0**100  # is subtracted where a map ends
_PARTIAL = {"LOG", "RSQRT", "SQRT"}  # are NaN or infinite for some numbers


@dataclass(frozen=True)
class Plan:
    """A group of operators, as it would run.

    Attributes:
        nodes: Its operators, in order.
        entering: The tensors that it takes from the rest of the graph.
        leaving: Those that it makes for the rest.
        outside: The operators of the rest.
        phases: 1 or 2 for each tensor inside of it, as it is made.
        taken: 1 or 2 for each node, by its target: how it takes its first source, and those that are alike.
        grids: Rows and columns of each tensor as it is kept; what is behind its own size is of no meaning.
        before: The estimate for the whole graph as it is, in multiplications of a dense convolution.
        after: The estimate for the rewritten graph.
    """

    nodes: tuple[Node, ...] = ()
    entering: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    outside: tuple[schema.OperatorT, ...] = field(default=(), repr=False)
    phases: Mapping[int, int] = field(default_factory=dict)
    taken: Mapping[int, int] = field(default_factory=dict)
    grids: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    before: float = 1.0
    after: float = 1.0

    @property
    def gain(self) -> float:
        return self.before / self.after


NO_PLAN = Plan()
_NEAR, _LITTLE, _HUGE = 2**16, 160_000, 900_000  # bytes: of what 32 pixels read, and of small and large maps
_RUN, _SPREAD = 128, 500  # bytes of 32 pixels in a channel; pixels for which so many take twice the room
_PER_MOVED = 28.0  # for each number that is copied with channels last
_PER_JOINED = 2.0  # for each number that an operator on single entries makes with channels last
_PER_CURVE, _CURVES = 10.0, {"LOGISTIC", "TANH", "EXP", "ELU", "GELU"}  # for each number, in either order of channels
_PER_RESIZED = 6.0  # for each number that bilinear interpolation makes, in either order of channels
_PER_WINDOW = 1.5  # for each multiplication of a dense depthwise convolution, and each comparison of a pool
_PER_NUMBER = {  # by kind, in the group
    "gate": algebra.PER_SUM,
    "clamp": algebra.PER_SUM,
    "difference": algebra.PER_PRODUCT + algebra.PER_ENTRY + algebra.PER_SUM,
    "leak": 3 * algebra.PER_PRODUCT + 4 * algebra.PER_ENTRY,
}
_BEGINNINGS, _PASSES = 6, 8  # that are planned in full, and rounds over the maps in which each may change


def best_plan(reader: Reader) -> Plan:
    """Return the plan with the lowest estimate, among those that begin at an operator and go on to the end.

    All beginnings are compared with plain maps, and the best of them planned in full.
    """
    nodes = [node for node in reader.nodes if isinstance(node, Node) and Planner(reader, [node]).has_form(node)]
    simple: list[tuple[float, int]] = []
    planners, skipped = [], 0.0  # what the operators take that come before a beginning, and stay as they are
    for number, node in enumerate(nodes):
        if len(simple) >= _BEGINNINGS and skipped > sorted(simple)[_BEGINNINGS - 1][0]:
            break
        planners.append(Planner(reader, nodes[number:]))
        plan = planners[-1].plan(passes=0)
        if plan is not None:
            simple.append((plan.after, number))
        skipped += sum(map(planners[-1].dense_price, node.operators))
    plans = (planners[number].plan(passes=_PASSES) for _, number in sorted(simple)[:_BEGINNINGS])
    return min(filter(None, plans), key=lambda plan: plan.after, default=NO_PLAN)


class Planner:
    """Chooses phases for the maps of some operators, and estimates what they take.

    Args:
        reader: The file.
        nodes: The operators of the group, in order.
    """

    def __init__(self, reader: Reader, nodes: Sequence[Node]) -> None:
        self.reader = reader
        self.grids: dict[int, tuple[int, int]] = {}
        self._found: dict[tuple[int, ...], tuple[float, int]] = {}  # of nodes, by their targets and phases
        self.nodes = tuple(node for node in nodes if self._has_grid(node))
        self.made = {node.target for node in self.nodes if node.kind != "mean"}
        sources = dict.fromkeys(index for node in self.nodes for index in node.sources)
        self.entering = tuple(index for index in sources if index not in self.made)
        needed = {index for operator in self.outside for index in reader.inputs(operator)}
        needed |= {*indices_of(reader.graph.outputs)}
        self.leaving = tuple(index for index in self.made if index in needed)
        self._maps = [*self.entering, *self.made]

    def _has_grid(self, node: Node) -> bool:
        """Tell whether a node reads only what has a meaning; then note the size at which its map is kept.

        A window without padding leaves rows and columns at the end that it should not have made, which stay.
        """
        own = [self.reader.shape(index)[1:3] for index in node.sources]
        grids = [
            self.grids.setdefault(index, (size[0], size[1])) for index, size in zip(node.sources, own, strict=True)
        ]
        is_exact = grids == own
        is_total = node.kind != "join" or self.reader.kind(node.operators[-1]) not in _PARTIAL
        grid: tuple[int, int] | None = None
        if node.is_window:
            grid = self._grid_behind(node, grids[0], own[0])
        elif is_exact or (node.alike and is_total and len({*grids[: len(node.alike)]}) == 1):
            grid = grids[0]
        if node.kind == "resize" and grid is not None:
            _, height, width, _ = self.reader.shape(node.target)
            grid = height, width
        if node.kind == "enlarge" and grid is not None:
            grid = grid[0] * node.window.size[0], grid[1] * node.window.size[1]
        if grid is not None and node.kind not in ("mean", "squeeze"):
            self.grids[node.target] = grid
        return grid is not None

    def _grid_behind(self, node: Node, grid: tuple[int, int], own: Sequence[int]) -> tuple[int, int] | None:
        """Return the size at which the map of a window is kept; None if it would read what has no meaning."""
        window, target = node.window, self.reader.shape(node.target)[1:3]
        if window.enlarges:
            return (target[0], target[1]) if grid == own else None
        rows, columns = (-(-length // window.stride) for length in grid)
        for axis, length in enumerate((rows, columns)):
            last = (target[axis] - 1) * window.stride + window.reach[axis] - 1 - window.padding[axis]
            if target[axis] > length or last >= own[axis] < grid[axis]:
                return None
        return rows, columns

    @functools.cached_property
    def outside(self) -> tuple[schema.OperatorT, ...]:
        """The operators that stay as they are; zeros that others read stay, too."""
        last = {id(node.operators[-1]) for node in self.nodes}
        inside = {id(operator) for node in self.nodes for operator in node.operators}
        between = [each for node in self.nodes for each in node.operators[:-1] if id(each) not in last]
        others = [operator for operator in self.reader.operators if id(operator) not in inside]
        if between:
            needed = {index for operator in others for index in self.reader.inputs(operator)}
            kept = {id(each) for each in between if needed & {*indices_of(each.outputs)}}
            others = [each for each in self.reader.operators if id(each) not in inside or id(each) in kept]
        return tuple(others)

    def plan(self, *, passes: int) -> Plan | None:
        """Return the best plan that was found; None if the operators cannot run in a group."""
        if not any(node.kind == "convolution" for node in self.nodes) or not self._runs_whole():
            return None
        plain = {index: 2 if index in self.entering and self._is_image(index) else 1 for index in self._maps}
        starts = [plain, {index: max(self._possible(index)) for index in self._maps}] if passes else [plain]
        plans = [self._improved(start, passes) for start in starts] if passes else starts
        cost, best = min(((self._cost(each), each) for each in plans), key=lambda pair: pair[0])
        if cost == float("inf"):
            return None
        taken = {node.target: self._best(node, best)[1] for node in self.nodes if passes}
        before, rest = (sum(map(self.dense_price, each)) for each in (self.reader.operators, self.outside))
        rest += cost
        return Plan(self.nodes, self.entering, self.leaving, self.outside, best, taken, self.grids, before, rest)

    def _improved(self, phases: dict[int, int], passes: int) -> dict[int, int]:
        """Change maps, and maps that are joined, one after the other for as long as the estimate falls."""
        users: dict[int, list[Node]] = {index: [] for index in self._maps}
        for node in self.nodes:
            for index in {*node.sources, node.target} & users.keys():
                users[index].append(node)
        groups = [*self._joined(with_windows=True), *self._joined(), *([index] for index in self._maps)]
        near = [[*{id(node): node for index in group for node in users[index]}.values()] for group in groups]
        is_changed = True
        while is_changed and passes:
            is_changed, passes = False, passes - 1
            for group, nodes in zip(groups, near, strict=True):
                for wanted in (1, 2):
                    other = phases | {index: wanted for index in group if wanted in self._possible(index)}
                    if other != phases and self._cost(other, nodes, group) < self._cost(phases, nodes, group):
                        phases, is_changed = other, True
        return phases

    def _joined(self, *, with_windows: bool = False) -> list[list[int]]:
        """Return maps that other operators than windows take and make together, or also those of stride 1."""
        leader = {index: index for index in self._maps}

        def root(index: int) -> int:
            while leader[index] != index:
                index = leader[index]
            return index

        for node in self.nodes:
            keeps = with_windows and node.is_window and node.window.stride == 1 and not node.window.enlarges
            for index in node.sources[:1] if keeps else node.alike:
                leader[root(index)] = root(node.target)
        groups: dict[int, list[int]] = {}
        for index in self._maps:
            groups.setdefault(root(index), []).append(index)
        return [group for group in groups.values() if len(group) > 1]

    def has_form(self, node: Node) -> bool:
        """Tell whether a node can run in a group at all, in some phases."""
        phases = itertools.product(self._possible(node.sources[0]), (1, 2))
        return any(self.price(node, *each) < float("inf") for each in phases)

    def _runs_whole(self) -> bool:
        """Tell whether the group is in the first part of the graph that XNNPACK gets."""
        reader = self.reader
        nodes = {id(node.operators[-1]): node for node in self.nodes}
        outside = {id(operator) for operator in self.outside}
        steps, inside = list[tuple[bool, Sequence[int], Sequence[int]]](), list[int]()
        for operator in reader.operators:
            kind, inputs, node = reader.kind(operator), reader.inputs(operator), nodes.get(id(operator))
            if node is not None:
                inside.append(len(steps))
                steps.append((True, node.sources, (node.target,)))
            elif id(operator) in outside and not (kind == "DEQUANTIZE" and reader.is_constant(inputs[0])):
                steps.append((reader.is_delegated(operator), inputs, indices_of(operator.outputs)))
        return {*inside} <= {*itertools.chain(*delegated_parts(steps)[:1])}

    def _is_image(self, index: int) -> bool:
        return self.reader.shape(index)[3] <= IMAGE_CHANNELS

    def _possible(self, index: int) -> tuple[int, ...]:
        """Return the phases that a map may have: 1, or 1 and 2."""
        height, width = self.grids[index]
        channels = self.reader.shape(index)[3]
        is_even = not (height % 2 or width % 2) or (index in self.entering and self._is_image(index))
        return (1, 2) if is_even and channels <= _MOST_CHANNELS_IN_PHASES else (1,)

    def _cost(
        self, phases: Mapping[int, int], nodes: Sequence[Node] | None = None, maps: Collection[int] | None = None
    ) -> float:
        """Estimate nodes and maps (by default, all) in the group."""
        nodes, maps = self.nodes if nodes is None else nodes, self._maps if maps is None else maps
        total = sum(self._best(node, phases)[0] for node in nodes)
        total += sum(_entry_cost(self.reader.shape(index), phases[index]) for index in self.entering if index in maps)
        return total + sum(
            _exit_cost(self.reader.shape(index), phases[index]) for index in self.leaving if index in maps
        )

    def _best(self, node: Node, phases: Mapping[int, int]) -> tuple[float, int]:
        """Return what a node costs, with maps taken apart or put together for it, and how it takes its sources."""
        behind = phases.get(node.target, 1)
        key = node.target, behind, *(phases[index] for index in node.alike or node.sources[:1])
        if key not in self._found:
            wanted = (behind,) if node.alike else self._possible(node.sources[0])
            self._found[key] = min(
                (self.price(node, each, behind) + self._moving(node, each, phases), each) for each in wanted
            )
        return self._found[key]

    def _moving(self, node: Node, wanted: int, phases: Mapping[int, int]) -> float:
        """Estimate giving the sources of a node the phases that it wants."""
        total = 0.0
        for index in node.alike or node.sources[:1]:
            shape = self.reader.shape(index)
            if wanted not in self._possible(index):
                return float("inf")
            if wanted > phases[index]:
                total += _phases_cost(shape)
            elif wanted < phases[index]:
                total += _entry_cost(shape, 1) + (0.0 if index in self.entering else _exit_cost(shape, 2))
        return total

    def price(self, node: Node, before: int, behind: int) -> float:
        """Estimate a node in the group that takes and makes maps in these phases; infinite if it cannot."""
        key = node.target, before, behind, *self.grids[node.sources[0]]
        if key not in self.reader.costs:
            self.reader.costs[key] = self._sparse(node, before, behind)
        return self.reader.costs[key]

    def _sparse(self, node: Node, before: int, behind: int) -> float:
        reader = self.reader
        is_even = is_even_grid(self.grids[node.sources[0]])
        if before == 2 and not is_even and (node.ignores_border or node.kind in ("mean", "squeeze", "enlarge")):
            return float("inf")  # the last row in phases is outside of the image
        if node.kind in ("mean", "squeeze"):
            return float(np.prod(reader.shape(node.sources[0]))) * 2
        _, height, width, channels = reader.shape(node.target)
        pixels = -(-height // behind) * -(-width // behind)
        if node.kind == "join":
            is_curve = reader.kind(node.operators[-1]) in _CURVES
            each = _PER_CURVE if is_curve else algebra.PER_SUM * max(len(node.sources) - 1, 1)
            return pixels * behind**2 * channels * each
        if node.kind in _PER_NUMBER:
            return pixels * behind**2 * channels * _PER_NUMBER[node.kind]
        inputs = [reader.shape(index)[3] for index in node.sources]
        if node.kind == "enlarge":
            return self._enlarging(node, (before, behind))
        if node.kind == "concatenation":
            return pixels * behind**2 * channels * (algebra.PER_PRODUCT + algebra.PER_SUM) * len(inputs)
        if node.kind == "resize":
            return pixels * channels * _PER_RESIZED if before == behind == 1 else float("inf")
        if node.window.enlarges and behind == 1:  # it leaves, and enters again
            shape = reader.shape(node.target)
            return self._sparse(node, before, 2) + _exit_cost(shape, 2) + _entry_cost(shape, 1)
        if not self.keeps_grid(node, (before, behind)):
            return float("inf")
        if node.kind == "maximum":
            each = algebra.cost_of_maximum(
                node.window, channels=channels, phases=(before, behind), border=border_of(node), is_even=is_even
            )
            return pixels * each
        if node.is_plain_depthwise and node.centered is not None and before == behind == 1:
            return pixels * channels * algebra.PER_SHIFT[node.window.stride] * node.centered.shape[1] ** 2 / 9
        sizes = inputs[0], channels
        if before * behind > 1 and (before * behind) ** 2 * inputs[0] * channels > _MOST_WEIGHTS:
            return float("inf")
        cost = functools.partial(
            algebra.cost, node.window, sizes=sizes, entries=node.entries, phases=(before, behind)
        )
        return pixels * cost(pixels=pixels, slowdown=self._slowdown(node, before))

    def _slowdown(self, node: Node, phases: int) -> float:
        """Return how many times as long the entries of a convolution take as those that find their inputs at hand."""
        _, height, width, channels = self.reader.shape(node.sources[0])
        if 4 * max(math.prod(self.reader.shape(index)) for index in (node.sources[0], node.target)) > _HUGE:
            return 2.0
        channels, pixels = channels * phases**2, height * width / phases**2
        is_near = _RUN * channels * (1 + pixels / _SPREAD) <= _NEAR or 4 * channels * pixels <= _LITTLE
        return 1.0 if is_near else 1.5 if phases == 1 else 1.2  # in phases, only some entries read all channels

    def _enlarging(self, node: Node, phases: tuple[int, int]) -> float:
        before, behind = phases
        shapes = self.reader.shape(node.sources[0]), self.reader.shape(node.target)
        copied = float(np.prod(shapes[1])) * (algebra.PER_PRODUCT + algebra.PER_ENTRY)
        if behind == 2 and node.window.size[0] == 2:
            return copied if before == 1 else float("inf")
        return copied + float(np.prod(shapes[1])) * _PER_MOVED + _entry_cost(shapes[1], behind)

    def keeps_grid(self, node: Node, phases: tuple[int, int]) -> bool:
        """Tell whether shifts with zeros around them give an image of the right size."""
        stride = node.window.stride_between(phases)
        sizes = [self.grids.get(index, (0, 0)) for index in (node.sources[0], node.target)]
        grids = [[-(-length // each) for length in size] for size, each in zip(sizes, phases, strict=True)]
        return stride > 0 and grids[1] == [-(-length // stride) for length in grids[0]]

    def dense_price(self, operator: schema.OperatorT) -> float:
        """Estimate an operator as it is, with channels last."""
        key = (id(operator),)
        if key not in self.reader.costs:
            self.reader.costs[key] = self._dense(operator)
        return self.reader.costs[key]

    def _dense(self, operator: schema.OperatorT) -> float:
        reader, kind, inputs = self.reader, self.reader.kind(operator), self.reader.inputs(operator)
        numbers = float(sum(np.prod(reader.shape(index)) for index in indices_of(operator.outputs)))
        if kind in ("CONV_2D", "FULLY_CONNECTED") and len(inputs) > 1:
            return numbers * float(np.prod(reader.shape(inputs[1])[1:]))
        if kind == "TRANSPOSE_CONV" and len(inputs) > 1:
            pace = operator.builtinOptions.strideH * operator.builtinOptions.strideW
            return numbers * float(np.prod(reader.shape(inputs[1])[1:])) / pace
        if kind == "RESIZE_BILINEAR":
            return numbers * _PER_RESIZED
        if kind == "DEQUANTIZE":
            return 0.0  # while the file is loaded
        if kind == "MEAN":
            return float(np.prod(reader.shape(inputs[0]))) * _PER_JOINED
        if kind == "DEPTHWISE_CONV_2D":
            return numbers * float(np.prod(reader.shape(inputs[1])[1:3])) * _PER_WINDOW
        if kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            return numbers * operator.builtinOptions.filterHeight * operator.builtinOptions.filterWidth * _PER_WINDOW
        return numbers * (_PER_CURVE if kind in _CURVES else _PER_JOINED)


def is_even_grid(grid: tuple[int, int]) -> bool:
    """Tell whether 2 x 2 phases hold a map of this size and nothing else."""
    return not (grid[0] % 2 or grid[1] % 2)


def border_of(node: Node) -> float:
    """Return what a pool subtracts where a map ends, so that nothing there is the largest; 0 if zeros may be."""
    return _OUTSIDE if node.ignores_border else 0.0


@functools.cache
def _entry_cost(shape: tuple[int, ...], phases: int) -> float:
    _, height, width, channels = shape
    if phases == 2 and channels <= IMAGE_CHANNELS:
        return height * width / 4 * ENTRY_CHANNELS * 27
    chunks = -(-channels // ENTRY_CHANNELS)
    each = ENTRY_CHANNELS * (2 * _PER_MOVED + 27) + channels * (algebra.PER_PRODUCT + algebra.PER_SUM)
    return height * width * chunks * each + (_phases_cost(shape) if phases == 2 else 0.0)


@functools.cache
def _exit_cost(shape: tuple[int, ...], phases: int) -> float:
    _, height, width, channels = shape
    return height * width * channels * _PER_MOVED + (_phases_cost(shape) if phases == 1 else 0.0)


@functools.cache
def _phases_cost(shape: tuple[int, ...]) -> float:
    """Estimate taking a plain map apart into phases."""
    _, height, width, channels = shape
    sizes = channels, channels
    pixels = -(-height // 2) * -(-width // 2)
    return pixels * algebra.cost(SINGLE, sizes=sizes, entries=channels, phases=(1, 2), pixels=pixels)

"""Read operators of a file as functions of maps that have a form in the groups of XNNPACK's sparse kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import indices_of, inputs_of, operator_name
from tfprune.export.file.xnnpack import UNARY, is_delegated, runs_fused
from tfprune.export.rewriting.phases import Window

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

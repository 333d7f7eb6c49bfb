"""Small random networks as .tflite files, built operator by operator: no converter, milliseconds each."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import add_constant, add_operator, save_objects

SAME, VALID = 0, 1
FLOAT = 0
NONE, RELU = 0, 1


class FileGraph:
    """A float32 file that grows by operators; each method returns the tensor that its operator makes.

    Args:
        seed: Of the weights.
        shape: The shape of the input.
    """

    def __init__(self, seed: int, *, shape: tuple[int, ...] = (1, 8, 8, 3)) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes, self.model.subgraphs = 3, [], [self.graph]
        self.model.buffers, self.model.metadata = [schema.BufferT()], []
        self.input = self._tensor(shape)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(length) for length in self.graph.tensors[tensor].shape)

    def content(self, *outputs: int) -> bytes:
        self.graph.inputs, self.graph.outputs = np.array([self.input], np.int32), np.array(outputs, np.int32)
        return save_objects(self.model)

    def _tensor(self, shape: tuple[int, ...]) -> int:
        tensor = schema.TensorT()
        tensor.name = b"tensor_%d" % len(self.graph.tensors)
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), FLOAT, 0
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        return add_constant(self.model, self.graph, name=b"constant_%d" % len(self.graph.tensors), values=values)

    def weights(self, *shape: int, zeros: float = 0.0) -> int:
        scale = np.sqrt(2 / max(np.prod(shape[1:]) * (1 - zeros), 1)) if len(shape) > 1 else 0.1
        values = self.random.normal(size=shape) * scale
        kept = self.random.random(shape) >= zeros if zeros else True  # the networks of other tests stay the same
        return self.constant((values * kept).astype(np.float32))

    def integers(self, *values: int) -> int:
        return self.constant(np.array(values, np.int32))

    def operator(self, name: str, inputs: list[int], shape: tuple[int, ...], **options: object) -> int:
        tensor = self._tensor(shape)
        self.add(name, inputs, [tensor], **options)
        return tensor

    def add(self, name: str, inputs: list[int], outputs: list[int], **options: object) -> None:
        kind = options.pop("kind", None)
        filled = getattr(schema, f"{kind}T")() if kind else None
        for key, value in options.items():
            setattr(filled, key, value)
        add_operator(self.model, self.graph, name=name, inputs=inputs, outputs=outputs, options=filled)

    def convolution(
        self,
        x: int,
        channels: int,
        *,
        size: int | tuple[int, int] = 3,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        zeros: float = 0.0,
        padding: int = SAME,
    ) -> int:
        count, height, width, depth = self.shape(x)
        rows, columns = (size, size) if isinstance(size, int) else size
        kernel = self.weights(channels, rows, columns, depth // groups, zeros=zeros)
        options = {"strideH": stride, "strideW": stride, "dilationHFactor": dilation, "dilationWFactor": dilation}
        options |= {"fusedActivationFunction": RELU, "padding": padding}
        less = [0 if padding == SAME else dilation * (each - 1) for each in (rows, columns)]
        shape = (count, -(-(height - less[0]) // stride), -(-(width - less[1]) // stride), channels)
        return self.operator("CONV_2D", [x, kernel, self.weights(channels)], shape, kind="Conv2DOptions", **options)

    def depthwise(self, x: int, *, multiplier: int = 1) -> int:
        *places, depth = self.shape(x)
        channels = depth * multiplier
        inputs = [x, self.weights(1, 3, 3, channels), self.weights(channels)]
        options = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": SAME}
        options |= {"depthMultiplier": multiplier, "fusedActivationFunction": NONE}
        return self.operator(
            "DEPTHWISE_CONV_2D", inputs, (*places, channels), kind="DepthwiseConv2DOptions", **options
        )

    def transposed(self, x: int, channels: int, *, size: int = 3, stride: int = 2, zeros: float = 0.0) -> int:
        count, height, width, depth = self.shape(x)
        shape = (count, stride * height, stride * width, channels)
        inputs = [self.integers(*shape), self.weights(channels, size, size, depth, zeros=zeros), x]
        options = {"strideH": stride, "strideW": stride, "padding": SAME}
        return self.operator("TRANSPOSE_CONV", inputs, shape, kind="TransposeConvOptions", **options)

    def resized(self, x: int) -> int:
        """Double height and width by bilinear interpolation, as Keras' UpSampling2D."""
        count, height, width, depth = self.shape(x)
        shape, options = (count, 2 * height, 2 * width, depth), {"halfPixelCenters": True}
        size = self.integers(*shape[1:3])
        return self.operator("RESIZE_BILINEAR", [x, size], shape, kind="ResizeBilinearOptions", **options)

    def dense(self, x: int, units: int) -> int:
        depth = self.shape(x)[-1]
        inputs = [x, self.weights(units, depth), self.weights(units)]
        return self.operator(
            "FULLY_CONNECTED", inputs, (1, units), kind="FullyConnectedOptions", fusedActivationFunction=NONE
        )

    def binary(self, name: str, x: int, y: int) -> int:
        shape = np.broadcast_shapes(self.shape(x), self.shape(y))
        kind = {"ADD": "AddOptions", "MUL": "MulOptions", "SUB": "SubOptions"}.get(name)
        return self.operator(name, [x, y], shape, **({"kind": kind} if kind else {}))

    def unary(self, name: str, x: int) -> int:
        kind = {"HARD_SWISH": "HardSwishOptions"}.get(name)
        return self.operator(name, [x], self.shape(x), **({"kind": kind} if kind else {}))

    def concatenation(self, *tensors: int) -> int:
        shape = self.shape(tensors[0])
        depth = sum(self.shape(tensor)[-1] for tensor in tensors)
        return self.operator("CONCATENATION", [*tensors], (*shape[:-1], depth), kind="ConcatenationOptions", axis=3)

    def pool(self, x: int, name: str = "MAX_POOL_2D", *, size: int = 2, padding: int = VALID, stride: int = 2) -> int:
        count, height, width, depth = self.shape(x)
        options = {"strideH": stride, "strideW": stride, "filterHeight": size, "filterWidth": size}
        less = 0 if padding == SAME else size - 1
        shape = (count, -(-(height - less) // stride), -(-(width - less) // stride), depth)
        return self.operator(name, [x], shape, kind="Pool2DOptions", padding=padding, **options)

    def enlarged(self, x: int) -> int:
        """Double height and width as converters write it."""
        count, height, width, depth = self.shape(x)
        rows = self.reshape(x, count, height, 1, width, depth)
        rows = self.operator("TILE", [rows, self.integers(1, 1, 2, 1, 1)], (count, height, 2, width, depth))
        columns = self.reshape(rows, count, 2 * height, width, 1, depth)
        columns = self.operator("TILE", [columns, self.integers(1, 1, 1, 2, 1)], (count, 2 * height, width, 2, depth))
        return self.reshape(columns, count, 2 * height, 2 * width, depth)

    def enlarged_in_turn(self, x: int) -> int:
        """Double height and then width as converters write it for an open batch."""
        for axis in (1, 2):
            shape = [*self.shape(x)]
            shape[axis] *= 2
            wide = [*self.shape(x)[: axis + 1], 1, *self.shape(x)[axis + 1 :]]
            x = self.operator("EXPAND_DIMS", [x, self.constant(np.array(axis + 1, np.int32))], tuple(wide))
            wide[axis + 1] = 2
            x = self.operator("TILE", [x, self.integers(*(2 if n == axis + 1 else 1 for n in range(5)))], tuple(wide))
            x = self.reshape(x, *shape)
        return x

    def pad(self, x: int, *, channels: tuple[int, int] = (0, 0), sides: int = 0) -> int:
        """Add zeros before the rows and behind the columns, or on all sides."""
        amounts = np.array([[0, 0], [sides or 1, sides], [sides, sides or 1], channels], np.int32)
        shape = tuple(np.add(self.shape(x), amounts.sum(axis=1)))
        return self.operator("PAD", [x, self.constant(amounts)], shape, kind="PadOptions")

    def mean(self, x: int, *, keeps: bool = False) -> int:
        count, *_, depth = self.shape(x)
        shape = (count, 1, 1, depth) if keeps else (count, depth)
        return self.operator("MEAN", [x, self.integers(1, 2)], shape, kind="ReducerOptions", keepDims=keeps)

    def reshape(self, x: int, *shape: int) -> int:
        inputs = [x, self.integers(*shape)]
        return self.operator("RESHAPE", inputs, shape, kind="ReshapeOptions", newShape=np.array(shape, np.int32))

    def flatten(self, x: int) -> int:
        return self.reshape(x, 1, int(np.prod(self.shape(x))))

    def halves(self, x: int) -> list[int]:
        *places, depth = self.shape(x)
        halves = [self._tensor((*places, depth // 2)) for _ in range(2)]
        self.add("SPLIT", [self.integers(3), x], halves, kind="SplitOptions", numSplits=2)
        return halves

    def some_channels(self, x: int, begin: int, count: int) -> int:
        *places, _ = self.shape(x)
        ends = [self.integers(0, 0, 0, begin), self.integers(*places, begin + count), self.integers(1, 1, 1, 1)]
        options = {"beginMask": 7, "endMask": 7, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}
        return self.operator("STRIDED_SLICE", [x, *ends], (*places, count), kind="StridedSliceOptions", **options)

    def to_depth(self, x: int) -> int:
        count, height, width, depth = self.shape(x)
        shape = (count, height // 2, width // 2, 4 * depth)
        return self.operator("SPACE_TO_DEPTH", [x], shape, kind="SpaceToDepthOptions", blockSize=2)

    def to_space(self, x: int) -> int:
        count, height, width, depth = self.shape(x)
        shape = (count, 2 * height, 2 * width, depth // 4)
        return self.operator("DEPTH_TO_SPACE", [x], shape, kind="DepthToSpaceOptions", blockSize=2)

    def transpose(self, x: int, *order: int) -> int:
        shape = tuple(self.shape(x)[axis] for axis in order)
        return self.operator("TRANSPOSE", [x, self.integers(*order)], shape, kind="TransposeOptions")

    def projected(self, x: int, units: int) -> int:
        """Multiply each position by a kernel."""
        inputs, shape = [x, self.weights(units, self.shape(x)[-1]), self.weights(units)], (*self.shape(x)[:-1], units)
        return self.operator("FULLY_CONNECTED", inputs, shape, kind="FullyConnectedOptions", keepNumDims=True)

    def product(self, x: int, y: int, *, transposed: bool = False) -> int:
        """Multiply two tensors."""
        rows, columns = self.shape(x), self.shape(y)
        batch = np.broadcast_shapes(rows[:-2], columns[:-2])
        shape = (*batch, rows[-2], columns[-2 if transposed else -1])
        return self.operator("BATCH_MATMUL", [x, y], shape, kind="BatchMatMulOptions", adjY=transposed)

    def part(self, x: int, axis: int, index: int) -> int:
        """Take one index of an axis, which stays."""
        begins, shape = ([*self.shape(x)] for _ in range(2))
        begins[:], shape[axis] = [index if other == axis else 0 for other in range(len(begins))], 1
        inputs = [x, self.integers(*begins), self.integers(*shape)]
        return self.operator("SLICE", inputs, tuple(shape), kind="SliceOptions")

    def picked(self, x: int, axis: int, index: int) -> int:
        """Take one index of an axis, which goes."""
        shape = self.shape(x)[:axis] + self.shape(x)[axis + 1 :]
        inputs = [x, self.constant(np.array(index, np.int32))]
        return self.operator("GATHER", inputs, shape, kind="GatherOptions", axis=axis)

    def unstacked(self, x: int, axis: int) -> list[int]:
        shape = self.shape(x)
        parts = [self._tensor(shape[:axis] + shape[axis + 1 :]) for _ in range(shape[axis])]
        self.add("UNPACK", [x], parts, kind="UnpackOptions", axis=axis, num=len(parts))
        return parts

    def loop(self, count: int, states: list[int], body: Callable[[FileGraph, list[int]], list[int]]) -> list[int]:
        """Run a body with a counter and states; the body returns the next states."""
        inner, condition = (copy.copy(self) for _ in range(2))
        starts = [self.constant(np.array(0, np.int32)), *states]
        for graph in (condition, inner):
            graph.graph = schema.SubGraphT(tensors=[], operators=[])
            self.model.subgraphs.append(graph.graph)
            inputs = [graph._tensor(self.shape(start)) for start in starts]
            graph.graph.tensors[inputs[0]].type = schema.TensorType.INT32
            graph.graph.inputs = np.array(inputs, np.int32)
        counter, *others = map(int, inner.graph.inputs)
        next_counter = inner.operator("ADD", [counter, inner.constant(np.array(1, np.int32))], (), kind="AddOptions")
        inner.graph.tensors[next_counter].type = schema.TensorType.INT32
        inner.graph.outputs = np.array([next_counter, *body(inner, [counter, *others])], np.int32)
        limit = condition.constant(np.array(count, np.int32))
        goes_on = condition.operator("LESS", [0, limit], (), kind="LessOptions")
        condition.graph.tensors[goes_on].type = schema.TensorType.BOOL
        condition.graph.outputs = np.array([goes_on], np.int32)
        results = [self._tensor(self.shape(start)) for start in starts]
        self.graph.tensors[results[0]].type = schema.TensorType.INT32
        numbers = [
            next(n for n, each in enumerate(self.model.subgraphs) if each is graph.graph)
            for graph in (condition, inner)
        ]
        options = {"condSubgraphIndex": numbers[0], "bodySubgraphIndex": numbers[1]}
        self.add("WHILE", starts, results, kind="WhileOptions", **options)
        return results[1:]


def grown(graph: FileGraph, *, steps: int) -> int:
    """Add operators at random, each to what the last one made, and return the output."""
    x, random = graph.convolution(graph.input, 8), graph.random
    for _ in range(steps):
        depth = graph.shape(x)[-1]
        draw = int(random.integers(0, 16))
        if draw == 0:
            x = graph.binary("ADD", x, graph.convolution(x, depth))
        elif draw == 1:
            x = graph.concatenation(x, graph.convolution(x, 6, size=1))
        elif draw == 2:
            x = graph.depthwise(x, multiplier=int(random.integers(1, 3)))
        elif draw == 3:
            x = graph.convolution(x, 8, groups=2) if depth % 2 == 0 else x
        elif draw == 4:
            x = graph.binary(["ADD", "MUL", "SUB"][int(random.integers(3))], x, graph.weights(depth))
        elif draw == 5:
            x = graph.binary("PRELU", x, graph.weights(1, 1, depth))
        elif draw == 6 and graph.shape(x)[1] >= 4:
            x = graph.pool(x, ["MAX_POOL_2D", "AVERAGE_POOL_2D"][int(random.integers(2))])
        elif draw == 7:
            x = graph.pad(x)
        elif draw == 8 and depth % 2 == 0:
            x = graph.binary("MUL", *graph.halves(x))
        elif draw == 9 and graph.shape(x)[1] <= 8:
            x = graph.transposed(x, 6)
        elif draw == 10:
            x = graph.binary("MUL", x, graph.unary("LOGISTIC", graph.reshape(graph.mean(x), 1, 1, 1, depth)))
        elif draw == 11 and depth > 4:
            x = graph.some_channels(x, 1, depth - 2)
        elif draw == 12 and all(length % 2 == 0 for length in graph.shape(x)[1:3]):
            x = graph.to_depth(x)
        elif draw == 13 and depth % 4 == 0 and graph.shape(x)[1] <= 8:
            x = graph.to_space(x)
        elif draw == 14:
            x = graph.pad(x, channels=(1, 3))
            x = graph.binary("ADD", x, graph.convolution(x, depth + 4)) if random.random() < 0.7 else x
        else:
            x = graph.convolution(graph.unary(["RELU", "HARD_SWISH", "TANH"][int(random.integers(3))], x), 8, size=1)
    x = graph.mean(x) if random.random() < 0.5 else graph.flatten(x)
    return graph.dense(graph.unary("RELU", graph.dense(x, 6)), 4)

"""Tensors of a graph as images of one pixel, [rows, 1, 1, channels], and operators that work on such images.

Operators on each entry alone, or on the last dimension, need no RESHAPE between 1x1 convolutions: the gates of an
unrolled LSTM or GRU, for example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import add_constant, add_operator, add_tensor, inputs_of, operator_name

DISPENSABLE = {"RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK"}  # once nothing takes what they make
ELEMENTWISE = {
    *("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "QUANTIZE", "LOGISTIC", "TANH"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "HARD_SWISH"),
}


class OnePixelImages:
    """Adds images, and the operators between them and the tensors that have the same entries.

    Args:
        model: The model, which gets operators.
        graph: The graph of it that is changed. Its tensors keep their indices.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self.model, self.graph = model, graph
        self._border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
        reshapes = [operator for operator in graph.operators or () if self.kind(operator) == "RESHAPE"]
        ends = [(int(operator.inputs[0]), int(operator.outputs[0])) for operator in reshapes]
        self._before = {after: before for before, after in ends if self._mean_the_same(before, after)}
        self._images: dict[tuple[int, int], int] = {}  # by the tensor with the same entries, and channels
        self._constants: dict[tuple[int, ...], int] = {}
        self._reshapes: list[tuple[int, int, list[int]]] = []  # from, to, and the shape: operators that are to come

    def kind(self, operator: schema.OperatorT) -> str:
        """Return the name of an operator, such as `CONV_2D`."""
        return operator_name(self.model, operator)

    def origin(self, index: int) -> int:
        """Return the tensor that a tensor was reshaped from; the tensor itself if it was not."""
        while index in self._before:
            index = self._before[index]
        return index

    def channels(self, index: int) -> int:
        """Return the channels of an image of one pixel; 0 for any other tensor."""
        sizes, lengths = shape_of(self.graph.tensors[index]), lengths_of(self.graph.tensors[index])
        return sizes[3] if len(sizes) == 4 and [*sizes[1:3], *lengths[1:3]] == [1] * 4 else 0

    def image_of(self, index: int, channels: int) -> int:
        """Return the image with the entries of a tensor; add what makes it if there is none yet."""
        index = self.origin(index)
        if self.channels(index) == channels:
            return index
        if (index, channels) not in self._images:
            image = self._images[index, channels] = self._add(index, channels)
            self._reshape(index, image, [-1, 1, 1, channels])
        return self._images[index, channels]

    def image_for(self, target: int, channels: int) -> int:
        """Add an image for an operator to make in place of a tensor, which becomes what RESHAPE makes of it."""
        image = self._add(target, channels)
        lengths = lengths_of(self.graph.tensors[target])
        self._reshape(image, target, lengths if -1 in lengths else [-1, *lengths[1:]])
        return image

    def move_name(self, target: int, image: int) -> None:
        """Give an image the name of the tensor that it stands for, which needs it no more inside of the graph."""
        self.graph.tensors[image].name = self.graph.tensors[target].name
        if target not in self._border:
            self.graph.tensors[target].name = b""

    def constant(self, numbers: Sequence[int], shape: Sequence[int] = (-1,)) -> int:
        """Return a constant of whole numbers; equal ones are one tensor."""
        key = (len(shape), *numbers)
        if key not in self._constants:
            values = np.array(numbers, np.int32).reshape(shape)
            self._constants[key] = add_constant(self.model, self.graph, name=b"", values=values)
        return self._constants[key]

    def finish(self) -> None:
        """Add the operators that reshape, and take out those whose outputs nothing takes any more."""
        used_tensors = {index for operator in self.graph.operators for index in inputs_of(operator)} | self._border
        for source, target, lengths in reversed(self._reshapes):
            if target in used_tensors:
                used_tensors.add(source)
                inputs, options = (
                    [source, self.constant(lengths)],
                    schema.ReshapeOptionsT(newShape=np.array(lengths, np.int32)),
                )
                add_operator(self.model, self.graph, name="RESHAPE", inputs=inputs, outputs=[target], options=options)
        self._drop_unread()

    def _drop_unread(self) -> None:
        reads = Counter(index for operator in self.graph.operators for index in inputs_of(operator))
        reads.update(indices_of(self.graph.outputs))
        operators = []
        for operator in reversed(self.graph.operators):
            if self.kind(operator) in DISPENSABLE and not any(reads[index] for index in indices_of(operator.outputs)):
                reads.subtract(inputs_of(operator))
            else:
                operators.append(operator)
        self.graph.operators = operators[::-1]

    def _mean_the_same(self, *indices: int) -> bool:
        tensors = [self.graph.tensors[index] for index in indices]
        return len({scales_of(tensor) for tensor in tensors}) == 1

    def _add(self, index: int, channels: int) -> int:
        """Add an image without a name: there are hundreds of them in an unrolled network."""
        tensor = self.graph.tensors[index]
        shape = np.array([max(math.prod(shape_of(tensor)) // channels, 1), 1, 1, channels], np.int32)
        signature = None if -1 not in lengths_of(tensor) else np.array([-1, *shape[1:]], np.int32)
        return add_tensor(self.graph, tensor, name=b"", shape=shape, shapeSignature=signature, buffer=0)

    def _reshape(self, source: int, target: int, lengths: list[int]) -> None:
        self._before[target] = source
        self._reshapes.append((source, target, lengths))


def scales_of(tensor: schema.TensorT) -> Hashable:
    """Turn type and scales of a tensor into a key of a dict."""
    quantization = tensor.quantization
    fields = ("scale", "zeroPoint", "quantizedDimension") if quantization is not None else ()
    return tensor.type, *(np.asarray(getattr(quantization, name)).tobytes() for name in fields)


def shape_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions; an open one is 1. A single number may have no shape at all."""
    return [] if tensor.shape is None else list(map(int, tensor.shape))


def lengths_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions, -1 for an open one."""
    return shape_of(tensor) if tensor.shapeSignature is None else list(map(int, tensor.shapeSignature))


def keep_images(images: OnePixelImages, operator: schema.OperatorT) -> None:
    """Let an operator take images, and give some, if all that it computes with was reshaped from such images."""
    kind = images.kind(operator)
    if kind in ELEMENTWISE:
        _elementwise(images, operator)
    elif kind == "SPLIT" and _is_last_axis(images, operator):
        _split(images, operator)
    elif kind == "STRIDED_SLICE":
        _slice(images, operator)


def _elementwise(images: OnePixelImages, operator: schema.OperatorT) -> None:
    tensors, inputs = images.graph.tensors, inputs_of(operator)
    origins = {index: images.origin(index) for index in inputs if not _is_spread(images, index)}
    shapes = {tuple(shape_of(tensors[origin])) for origin in origins.values()}
    channels = {_channels(images, index) for index in origins}
    if len(channels) != 1 or 0 in channels or len(shapes) > 1:
        return
    target, lengths = shape_of(tensors[operator.outputs[0]]), {tuple(lengths_of(tensors[index])) for index in origins}
    is_open = len(lengths) > 1 and -1 in {length for each in lengths for length in each}
    # Two rows of one dimension and two of another would give four.
    if is_open or math.prod(target) != math.prod(shapes.pop()) or target[-1:] != [*channels]:
        return
    operator.inputs = np.array([origins.get(index, index) for index in inputs], np.int32)
    operator.outputs = np.array([images.image_for(int(operator.outputs[0]), channels.pop())], np.int32)


def _split(images: OnePixelImages, operator: schema.OperatorT) -> None:
    source = inputs_of(operator)[1]
    if not _channels(images, source):
        return
    axis = images.constant([3], shape=())
    operator.inputs = np.array([axis, images.origin(source)], np.int32)
    targets = [(int(index), shape_of(images.graph.tensors[index])) for index in operator.outputs]
    operator.outputs = np.array([images.image_for(index, shape[-1]) for index, shape in targets], np.int32)


def _slice(images: OnePixelImages, operator: schema.OperatorT) -> None:
    """Cut channels out of an image, where all rows are taken."""
    source, *limits = inputs_of(operator)
    values = [_numbers(images, index) for index in limits]
    options = operator.builtinOptions
    if not isinstance(options, schema.StridedSliceOptionsT):
        return
    others = [options.ellipsisMask, options.newAxisMask, options.shrinkAxisMask, getattr(options, "offset", False)]
    masks = options.beginMask, options.endMask
    takes_all_rows = [mask & 1 for mask in masks] == [1, 1] and [len(value) for value in values] == [2, 2, 2]
    if any(others) or not takes_all_rows or values[2] != [1, 1] or not _channels(images, source):
        return
    target = int(operator.outputs[0])
    begin, end, strides = ([rest] * 3 + [value[1]] for rest, value in zip((0, 0, 1), values, strict=True))
    cut = [images.constant(numbers) for numbers in (begin, end, strides)]
    operator.inputs = np.array([images.origin(source), *cut], np.int32)
    channels = shape_of(images.graph.tensors[target])[-1]
    operator.outputs = np.array([images.image_for(target, channels)], np.int32)
    begin_mask, end_mask = (0b111 | (mask & 0b10) << 2 for mask in masks)
    operator.builtinOptions = schema.StridedSliceOptionsT(beginMask=begin_mask, endMask=end_mask)


def _channels(images: OnePixelImages, index: int) -> int:
    """Return the length of a tensor's last dimension if it was reshaped from an image with as many channels, or 0."""
    channels = images.channels(images.origin(index))
    return channels if shape_of(images.graph.tensors[index])[-1:] == [channels] else 0


def _is_spread(images: OnePixelImages, index: int) -> bool:
    """Tell whether a tensor is a constant that has at most one dimension, the last: it fits any image."""
    shape = shape_of(images.graph.tensors[index])
    return _is_constant(images, index) and len(shape) <= 4 and {*shape[:-1]} <= {1}


def _is_constant(images: OnePixelImages, index: int) -> bool:
    data = images.model.buffers[images.graph.tensors[index].buffer].data
    return data is not None and len(data) > 0


def _is_last_axis(images: OnePixelImages, operator: schema.OperatorT) -> bool:
    axis, source = inputs_of(operator)
    rank = len(shape_of(images.graph.tensors[source]))
    return _numbers(images, axis) in ([-1], [rank - 1])


def _numbers(images: OnePixelImages, index: int) -> list[int]:
    """Return a constant of whole numbers; an empty list if it is not known before the model runs."""
    tensor = images.graph.tensors[index]
    if not _is_constant(images, index) or tensor.type != schema.TensorType.INT32:
        return []
    return np.asarray(images.model.buffers[tensor.buffer].data, np.uint8).view("<i4").tolist()

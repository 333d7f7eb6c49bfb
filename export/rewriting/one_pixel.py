"""Tensors of a graph as images of one pixel, [rows, 1, 1, channels], and the RESHAPE operators around them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import add_constant, add_operator, add_tensor, builtin_code, inputs_of

DISPENSABLE = {"RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK"}  # once nothing takes what they make


class OnePixelImages:
    """Adds images, and the operators between them and the tensors that have the same entries.

    Args:
        model: The model, which gets operators.
        graph: The graph of it that is changed. Its tensors keep their indices.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self.model, self.graph = model, graph
        self._names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
        self._border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
        reshapes = [operator for operator in graph.operators or () if self.kind(operator) == "RESHAPE"]
        ends = [(int(operator.inputs[0]), int(operator.outputs[0])) for operator in reshapes]
        self._before = {after: before for before, after in ends if self._mean_the_same(before, after)}
        self._images: dict[tuple[int, int], int] = {}  # by the tensor with the same entries, and channels
        self._constants: dict[tuple[int, ...], int] = {}
        self._reshapes: list[tuple[int, int, list[int]]] = []  # from, to, and the shape: operators that are to come

    def kind(self, operator: schema.OperatorT) -> str:
        """Return the name of an operator, such as `CONV_2D`."""
        return self._names.get(builtin_code(self.model.operatorCodes[operator.opcodeIndex]), "")

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
        read = {index for operator in self.graph.operators for index in inputs_of(operator)} | self._border
        for source, target, lengths in reversed(self._reshapes):
            if target in read:
                read.add(source)
                inputs, options = (
                    [source, self.constant(lengths)],
                    schema.ReshapeOptionsT(newShape=np.array(lengths, np.int32)),
                )
                add_operator(self.model, self.graph, name="RESHAPE", inputs=inputs, outputs=[target], options=options)
        self._drop_unread()

    def _drop_unread(self) -> None:
        reads = Counter(index for operator in self.graph.operators for index in inputs_of(operator))
        reads.update(indices_of(self.graph.outputs))
        kept = []
        for operator in reversed(self.graph.operators):
            if self.kind(operator) in DISPENSABLE and not any(reads[index] for index in indices_of(operator.outputs)):
                reads.subtract(inputs_of(operator))
            else:
                kept.append(operator)
        self.graph.operators = kept[::-1]

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
    """Return what the numbers of a tensor mean, as a key of a dict."""
    quantization = tensor.quantization
    fields = ("scale", "zeroPoint", "quantizedDimension") if quantization is not None else ()
    return tensor.type, *(np.asarray(getattr(quantization, name)).tobytes() for name in fields)


def shape_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions; an open one is 1. A single number may have no shape at all."""
    return [] if tensor.shape is None else list(map(int, tensor.shape))


def lengths_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions, -1 for an open one."""
    return shape_of(tensor) if tensor.shapeSignature is None else list(map(int, tensor.shapeSignature))

"""Put the weights of a language model into a file that was converted without them.

The converter keeps several copies of each constant. Here it sees the weights as inputs of the signatures, of which it
needs the shapes only. Afterwards each input becomes a constant, all signatures share it, and products with it become
what the converter makes of products with constants: FULLY_CONNECTED.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import drop_hash, put_in_order
from tfprune.export.file.tflite.editor import add_tensor, inputs_of, operator_code, operator_name
from tfprune.export.keras_side.generating.fuse_biases import MISSING, fuse_biases

KEEPS_DIMENSIONS = 5  # the version of FULLY_CONNECTED that returns as many dimensions as it takes


@dataclass(frozen=True)
class ArrangedWeight:
    """A weight in the form that a file has it in, arranged only when it is read: no second copy waits in the memory.

    Attributes:
        name: The name of the weight.
        shape: Its shape in the file.
        values: Its values in the model.
        steps: The permutations and shapes that lead from one to the other, the kinds of neighbors different.
    """

    name: str
    shape: tuple[int, ...]
    values: np.ndarray = field(compare=False, repr=False)
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the values as the file has them."""
        values = self.values
        for kind, numbers in self.steps:
            values = values.transpose(numbers) if kind == "transpose" else values.reshape(numbers)
        return np.array(values, dtype, copy=copy)

    @property
    def nbytes(self) -> int:
        """The bytes of the values."""
        return self.values.nbytes

    def transposed(self, axes: tuple[int, ...]) -> ArrangedWeight:
        """Return it with its axes in another order."""
        steps, shape = self.steps, tuple(self.shape[axis] for axis in axes)
        if steps and steps[-1][0] == "transpose":
            before, steps = steps[-1][1], steps[:-1]
            axes = tuple(before[axis] for axis in axes)
        if axes != tuple(range(len(axes))):
            steps = (*steps, ("transpose", axes))
        return replace(self, shape=shape, steps=steps)

    def reshaped(self, shape: tuple[int, ...]) -> ArrangedWeight:
        """Return it with another shape of as many entries."""
        steps = self.steps[:-1] if self.steps and self.steps[-1][0] == "reshape" else self.steps
        before = replace(self, steps=steps)
        is_new = shape != (np.asarray(before).shape if steps else self.values.shape)
        return replace(self, shape=shape, steps=(*steps, ("reshape", shape)) if is_new else steps)


def bind_weights(model: schema.ModelT, weights: Mapping[str, np.ndarray]) -> None:
    """Turn inputs of all signatures into constants.

    Args:
        model: The file, which is changed. Its buffers then hold a `ArrangedWeight` for each weight.
        weights: The values, float32, by the names of the inputs.
    """
    buffers: dict[ArrangedWeight, int] = {}  # a weight lies once in a file, whatever the number of signatures
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        names = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
        bound = {
            index: ArrangedWeight(name, weights[name].shape, weights[name])
            for name, index in names.items()
            if name in weights
        }
        signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex not in bound]
        graph.inputs = np.array([index for index in graph.inputs if index not in bound], np.int32)
        _Graph(model, graph, bound).bind(buffers)
        fuse_biases(model, graph)
    drop_hash(model)
    put_in_order(model)


class _Graph:
    """One graph of a file, and its tensors that are weights."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, bound: dict[int, ArrangedWeight]) -> None:
        self._model, self._graph, self._bound = model, graph, bound

    def bind(self, buffers: dict[ArrangedWeight, int]) -> None:
        self._graph.operators = [operator for operator in self._graph.operators if not self._arranges(operator)]
        for operator in self._graph.operators:
            if operator_name(self._model, operator) == "BATCH_MATMUL":
                self._connect(operator)
        inputs = {index for operator in self._graph.operators for index in inputs_of(operator)}
        for index in sorted(inputs & {*self._bound}):
            weight = self._bound[index]
            if weight not in buffers:
                self._model.buffers.append(schema.BufferT(data=weight))
                buffers[weight] = len(self._model.buffers) - 1
            self._graph.tensors[index].buffer = buffers[weight]

    def _arranges(self, operator: schema.OperatorT) -> bool:
        """Tell whether an operator only arranges a weight, which its output then is as well."""
        inputs = inputs_of(operator)
        weight, kind = self._bound.get(inputs[0]) if inputs else None, operator_name(self._model, operator)
        if weight is None or kind not in ("RESHAPE", "TRANSPOSE"):
            return False
        output = int(operator.outputs[0])
        if kind == "RESHAPE":
            self._bound[output] = weight.reshaped(self._shape(output))
        else:
            axes = np.asarray(self._model.buffers[self._graph.tensors[inputs[1]].buffer].data).view("<i4")
            self._bound[output] = weight.transposed(tuple(axes.tolist()))
        return True

    def _connect(self, operator: schema.OperatorT) -> None:
        """Turn the product of a matrix and a weight into FULLY_CONNECTED, which takes the weight transposed."""
        values, factor = inputs_of(operator)
        weight, options = self._bound.get(factor), operator.builtinOptions
        if weight is None or options.adjX or math.prod(weight.shape[:-2]) != 1:
            return
        weight = weight.reshaped(weight.shape[-2:])
        weight = weight if options.adjY else weight.transposed((1, 0))
        if self._shape(int(operator.outputs[0])) != (*self._shape(values)[:-1], weight.shape[0]):
            return
        tensor, shape = self._graph.tensors[factor], np.array(weight.shape, np.int32)
        index = add_tensor(self._graph, tensor, shape=shape, shapeSignature=None)
        self._bound[index] = weight
        operator.inputs = np.array([values, index, MISSING], np.int32)
        operator.opcodeIndex = operator_code(self._model, schema.BuiltinOperator.FULLY_CONNECTED)
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, KEEPS_DIMENSIONS)
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT(keepNumDims=True)

    def _shape(self, index: int) -> tuple[int, ...]:
        return tuple(map(int, self._graph.tensors[index].shape))

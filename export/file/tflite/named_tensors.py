"""Look up the tensors of a file by name: their values, the grids of their integers, and their operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import load_objects, operator_name

INTEGERS = ("int8", "int16", "int32")


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor: one step, or one for each index along an axis.

    Attributes:
        scale: The step between two integers, as a real number.
        zero: The integer that means 0.
        limits: The smallest and the largest integer.
    """

    scale: np.ndarray
    zero: np.ndarray
    limits: np.iinfo

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Return the real numbers that integers mean."""
        return ((integers - self.zero) * self.scale).astype(np.float32)

    def position(self, real: np.ndarray) -> np.ndarray:
        """Return where real numbers lie among the integers, before rounding."""
        return real.astype(np.float64) / self.scale + self.zero


class NamedTensors:
    """The first graph of a file, whose tensors are found by name, and the operator that makes each of them.

    Attributes:
        model: The file as objects, which may be changed and saved.
        graph: Its first graph.
        tensors: The tensors of this graph.
        maker: The operator that makes a tensor, by the index of the tensor.
        known: The indices of the tensors with a name that no other tensor has.
    """

    def __init__(self, content: bytes) -> None:
        self.model = load_objects(content)
        self.graph = self.model.subgraphs[0]
        self.graph.operators = self.graph.operators or []
        self.tensors = self.graph.tensors
        self.maker = {index: operator for operator in self.graph.operators for index in indices_of(operator.outputs)}
        names = Counter(map(self.name, range(len(self.tensors))))
        self.known = {index for index in range(len(self.tensors)) if names[self.name(index)] == 1}

    def name(self, index: int) -> str:
        """Return the name of a tensor."""
        return self.tensors[index].name.decode()

    def kind(self, operator: schema.OperatorT) -> str:
        """Return the name of an operator's kind, such as `CONV_2D`."""
        return operator_name(self.model, operator)

    def title(self, operator: schema.OperatorT) -> str:
        """Return the kind of an operator and the name of its output, for messages."""
        return f"{self.kind(operator)} {self.name(int(operator.outputs[0]))!r}"

    def dtype(self, index: int) -> str:
        """Return the type of a tensor's values, such as `int8`."""
        kind = self.tensors[index].type
        return next(name for name, number in vars(schema.TensorType).items() if number == kind).lower()

    def grid(self, index: int) -> Grid | None:
        """Return the grid of a tensor of integers that mean real numbers."""
        tensor, dtype = self.tensors[index], self.dtype(index)
        scales = None if tensor.quantization is None else tensor.quantization.scale
        if dtype not in INTEGERS or scales is None or not len(scales):
            return None
        points = tensor.quantization.zeroPoint
        parts = [np.asarray(part, np.float64) for part in (scales, np.zeros(1) if points is None else points)]
        if len(scales) > 1:
            along = [1] * len(tensor.shape)
            along[tensor.quantization.quantizedDimension] = -1
            parts = [part.reshape(along) for part in parts]
        return Grid(parts[0], parts[1], np.iinfo(dtype))

    def constant(self, index: int) -> np.ndarray | None:
        """Return the values of a constant that is held as it is."""
        tensor, dtype = self.tensors[index], self.dtype(index)
        data = self.model.buffers[tensor.buffer].data
        if dtype not in (*INTEGERS, "float32") or data is None or not len(data) or tensor.sparsity is not None:
            return None
        return data.view(dtype).reshape(tensor.shape)

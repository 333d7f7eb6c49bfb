"""A weight of a file with the operators that use it: what it sees, how it is solved for, and how it is written."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of
from tfprune.export.pruning.layers.linear_operators import LinearOperator, linear_operators
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.stored_weight import (
    BIASES,
    StoredWeight,
    bias_scale,
    own_bias,
    read_bias,
    type_name,
)
from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.zero_solver import ZeroSolver

ROWS_PER_SAMPLE = 64


class FileLayer:
    """A weight of the dense file.

    Args:
        pieces: The dense file.
        operators: The operators that use the weight, in order.
        stored: How it is stored.

    Attributes:
        name: The name of its tensor.
        weights: For each group a matrix of outputs by inputs, and a bias as the last input where it has one.
        solver: Puts zeros into the weights.
        inputs: The number of inputs without the bias.
    """

    def __init__(self, pieces: Pieces, operators: Sequence[LinearOperator], stored: StoredWeight) -> None:
        self.operators, self.stored = operators, stored
        self._first = operators[0]
        tensor = pieces.graph.tensors[self._first.weight]
        self.name, self.kind = (tensor.name or b"").decode(errors="replace"), self._first.kind
        self.buffer = tensor.buffer
        matrix = self._first.to_matrix(stored.read(pieces.model.buffers[self.buffer]))
        self.inputs = matrix.shape[2]
        # A weight that several operators share keeps their biases, which may differ.
        self.has_bias = len(operators) == 1 and self._first.bias_place >= 0
        if self.has_bias:
            bias = inputs_of(pieces.steps[self._first.step])[self._first.bias_place]
            values = read_bias(pieces.model, pieces.graph.tensors[bias])
            matrix = np.concatenate([matrix, values.reshape(*matrix.shape[:2], 1)], axis=2)
        self.weights = matrix.astype(np.float64)
        self.solver = ZeroSolver(self.weights, inputs=self.inputs, positions=self._first.positions)
        self.size = self.kernel(self.weights).size
        self.zeros = 1 - np.count_nonzero(self.kernel(self.weights)) / self.size

    def kernel(self, weights: np.ndarray) -> np.ndarray:
        """Return weights without the bias."""
        return weights[..., : self.inputs]

    def moments(self) -> list[GramMoments]:
        """Return empty moments, one for each group."""
        groups, outputs, inputs = self.weights.shape
        return [GramMoments(inputs, outputs) for _ in range(groups)]

    def rows(self, operator: LinearOperator, tensor: schema.TensorT, x: np.ndarray, *, run: int) -> np.ndarray:
        """Return what the weight multiplies in one run: 64 rows of each sample at most, in each file the same."""
        generator = np.random.default_rng([run, operator.step, zlib.crc32(self.name.encode())])
        most = ROWS_PER_SAMPLE * (len(x) if x.ndim else 1)

        def pick(count: int) -> np.ndarray:
            return generator.choice(count, most, replace=False) if count > most else np.arange(count)

        rows = operator.rows(real(tensor, x), pick)
        return np.concatenate([rows, np.ones_like(rows[..., :1])], axis=2) if self.has_bias else rows

    def add(self, moments: list[GramMoments], rows: np.ndarray, *, dense: np.ndarray | None = None) -> None:
        """Add rows of inputs, and the outputs that the dense weights make of the rows of the dense file.

        In single precision, which is twice as fast: a ridge of 10 % hides the rounding.
        """
        weights = self.weights.astype(np.float32)
        for group, sums in enumerate(moments):
            x = rows[group]
            sums.count += len(x)
            sums.gram += x.T @ x
            if dense is not None:
                y = dense[group] @ weights[group].T
                sums.cross += y.T @ x
                sums.energy += np.einsum("ro,ro->o", y, y)

    def solve(
        self, moments: list[GramMoments], *, sparsity: float, pattern: Pattern
    ) -> tuple[np.ndarray, StoredWeight]:
        """Return weights with zeros as they will be stored, and how.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            sparsity: The fraction of zeros.
            pattern: The shape of the zeros.
        """
        masked = self.solver.masking(moments, self.solver.refit(moments), pattern=pattern)
        solved = masked(sparsity)
        stored = self.stored.grown(self.tensor(solved))  # by what real numbers would need
        if stored.is_integer:
            solved = masked(sparsity, steps=self._first.to_matrix(stored.steps())[..., 0])
        return solved, stored

    @contextlib.contextmanager
    def written(self, pieces: Pieces, weights: np.ndarray) -> Iterator[None]:
        """Put weights into a file for the time of a block."""
        stored = self.stored.grown(self.tensor(weights))
        model, graph = pieces.model, pieces.graph
        sizes, data = (len(graph.tensors), len(model.buffers)), model.buffers[self.buffer].data
        taken = [pieces.steps[operator.step].inputs for operator in self.operators]
        self.write(pieces, weights, stored)
        yield
        del graph.tensors[sizes[0] :], model.buffers[sizes[1] :]
        for operator, inputs in zip(self.operators, taken, strict=True):
            pieces.steps[operator.step].inputs = inputs
        model.buffers[self.buffer].data = data
        for tensor in (each for each in graph.tensors if each.buffer == self.buffer and stored.is_integer):
            tensor.quantization.scale = self.stored.scales.astype(np.float32)

    def write(self, pieces: Pieces, weights: np.ndarray, stored: StoredWeight) -> None:
        """Put weights into a file, and let its biases follow the scales."""
        pieces.model.buffers[self.buffer].data = stored.write(self.tensor(weights))
        growth = stored.scales / self.stored.scales if stored.is_integer else np.ones(1)
        for tensor in (each for each in pieces.graph.tensors if each.buffer == self.buffer):
            if stored.is_integer:
                tensor.quantization.scale = stored.scales.astype(np.float32)
        for operator in self.operators:
            step = pieces.steps[operator.step]
            if operator.bias_place < 0:
                continue
            inputs = inputs_of(step)
            bias = pieces.graph.tensors[inputs[operator.bias_place]]
            values = weights[..., -1].reshape(-1) if self.has_bias else read_bias(pieces.model, bias)
            inputs[operator.bias_place] = own_bias(
                pieces.model, pieces.graph, tensor=inputs[operator.bias_place], values=values, growth=growth
            )
            step.inputs = np.array(inputs, np.int32)

    def tensor(self, weights: np.ndarray) -> np.ndarray:
        """Return weights in the shape of the constant, without the bias."""
        return self._first.from_matrix(self.kernel(weights), self.stored.shape)


def real(tensor: schema.TensorT, x: np.ndarray) -> np.ndarray:
    """Return what a tensor of the file means, as float32."""
    quantization = tensor.quantization
    if x.dtype.kind == "f" or quantization is None or quantization.scale is None or not len(quantization.scale):
        return x.astype(np.float32)
    return (x.astype(np.float32) - np.float32(quantization.zeroPoint[0])) * np.float32(quantization.scale[0])


def file_layers(pieces: Pieces) -> tuple[list[FileLayer], list[tuple[str, str]]]:
    """Return the weights of a file that can be solved for, in order, and the others, each with the reason."""
    operators, skipped = linear_operators(pieces)
    by_buffer: dict[int, list[LinearOperator]] = {}
    for operator in operators:
        by_buffer.setdefault(pieces.graph.tensors[operator.weight].buffer, []).append(operator)
    layers = []
    for sharing in by_buffer.values():
        layer = _layer_of(pieces, sharing)
        if isinstance(layer, FileLayer):
            layers.append(layer)
        else:
            name = pieces.graph.tensors[sharing[0].weight].name or b""
            skipped.append((name.decode(errors="replace"), f"{sharing[0].kind}: {layer}"))
    return layers, skipped


def _layer_of(pieces: Pieces, operators: Sequence[LinearOperator]) -> FileLayer | str:
    """Return a weight with all operators that use it; a string says why it is left alone."""
    first = operators[0]
    tensor = pieces.graph.tensors[first.weight]
    stored = StoredWeight.of(tensor)
    if isinstance(stored, str):
        return stored
    outside = [each for graph in pieces.model.subgraphs[1:] for each in graph.tensors or ()]
    if any(each.buffer == tensor.buffer for each in outside):
        return "another graph of the file has the same weights"
    takers = [step for step in pieces.steps if any(_reads(pieces, step, tensor.buffer))]
    if len(takers) > len(operators):
        return "an operator of another kind uses the same weights"
    if stored.axis not in (None, first.output_axis):
        return "its scales are not those of its outputs"
    for operator in operators:
        other = StoredWeight.of(pieces.graph.tensors[operator.weight])
        is_same = isinstance(other, StoredWeight) and np.array_equal(other.scales, stored.scales)
        if not is_same or _form(operator) != _form(first):
            return "operators of other kinds or scales use the same weights"
        if operator.bias_place >= 0 and not _has_known_bias(pieces, operator):
            return "its bias has a type or scales that are not known"
    return FileLayer(pieces, operators, stored)


def _form(operator: LinearOperator) -> tuple:
    return operator.kind, operator.positions, operator.groups, operator.output_axis


def _reads(pieces: Pieces, step: schema.OperatorT, buffer: int) -> list[bool]:
    constants = [pieces.constant_behind(index) for index in inputs_of(step) if index >= 0]
    return [pieces.graph.tensors[index].buffer == buffer for index in constants]


def _has_known_bias(pieces: Pieces, operator: LinearOperator) -> bool:
    tensor = pieces.graph.tensors[inputs_of(pieces.steps[operator.step])[operator.bias_place]]
    if type_name(tensor.type) not in BIASES or tensor.sparsity is not None:
        return False
    has_scale = tensor.quantization is not None and tensor.quantization.scale is not None
    return type_name(tensor.type) == "FLOAT32" or (has_scale and bool((bias_scale(tensor) > 0).all()))

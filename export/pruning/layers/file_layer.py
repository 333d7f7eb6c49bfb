"""A weight of a file with the operators that use it: what it sees, how it is solved for, and how it is written."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of
from tfprune.export.pruning.layers.linear_operators import LinearOperator
from tfprune.export.pruning.layers.loops import Activations
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.stored_weight import StoredWeight, own_bias, real
from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.rounding import Grid
from tfprune.solving.zero_solver import ZeroSolver

ROWS_PER_SAMPLE = 64


class FileLayer:
    """A weight of the dense file.

    Args:
        pieces: A graph of the dense file.
        operators: The operators that use the weight: those of this graph in order, then those of others.
        stored: How it is stored.

    Attributes:
        operators: Those of this graph, whose inputs say which entries matter.
        is_in_others: Whether other graphs use it, too.
        name: The name of its tensor.
        weights: For each group a matrix of outputs by inputs, and a bias as the last input where it has one.
        inputs: The number of inputs without the bias.
    """

    def __init__(self, pieces: Pieces, operators: Sequence[LinearOperator], stored: StoredWeight) -> None:
        self._users, self.stored = operators, stored
        self._first = operators[0]
        self.operators = [operator for operator in operators if operator.graph == self._first.graph]
        self.is_in_others = len(self.operators) < len(operators)
        home = self._first.home(pieces)
        tensor = home.graph.tensors[self._first.weight]
        self.name, self.kind = (tensor.name or b"").decode(errors="replace"), self._first.kind
        self.buffer = tensor.buffer
        matrix = self._first.to_matrix(stored.read(pieces.model.buffers[self.buffer]))
        self.inputs = matrix.shape[2]
        # Operators that share a weight keep biases that differ.
        bias, *others = (operator.bias(pieces) for operator in operators)
        self.has_bias = bias.size > 0 and all(np.array_equal(bias, other) for other in others)
        if self.has_bias:
            matrix = np.concatenate([matrix, bias.reshape(*matrix.shape[:2], 1)], axis=2)
        self.weights = matrix.astype(np.float32)
        self.size = self.kernel(self.weights).size
        self.zeros = 1 - np.count_nonzero(self.kernel(self.weights)) / self.size

    @property
    def is_in_parallel(self) -> bool:
        """Whether it is solved for on the dense file alone: its own zeros change what it sees."""
        return len(self.operators) > 1 or self._first.is_fed_back or self._first.loop is not None

    @property
    def solver(self) -> ZeroSolver:
        """Puts zeros into the weights. Made anew each time, as it holds them in double precision."""
        return ZeroSolver(self.weights, inputs=self.inputs, positions=self._first.positions)

    def kernel(self, weights: np.ndarray) -> np.ndarray:
        """Return weights without the bias."""
        return weights[..., : self.inputs]

    def moments(self) -> list[GramMoments]:
        """Return empty moments, one for each group."""
        groups, outputs, inputs = self.weights.shape
        return [GramMoments(inputs, outputs) for _ in range(groups)]

    def rows(self, pieces: Pieces, operator: LinearOperator, x: np.ndarray, *, run: int) -> np.ndarray:
        """Return what the weight multiplies in one run: 64 rows of each sample at most, in each file the same."""
        tensor = operator.home(pieces).graph.tensors[operator.activation]
        generator = np.random.default_rng([run, operator.step, zlib.crc32(self.name.encode())])
        most = ROWS_PER_SAMPLE * (len(x) if x.ndim else 1)

        def pick(count: int) -> np.ndarray:
            return generator.choice(count, most, replace=False) if count > most else np.arange(count)

        rows = operator.rows(real(tensor, x), pick)
        return np.concatenate([rows, np.ones_like(rows[..., :1])], axis=2) if self.has_bias else rows

    def moments_in_order(self, pieces: Pieces, *, dense: Activations, now: Activations) -> list[GramMoments]:
        """Return what the layer sees in the file as it is now, and what it returned in the dense one.

        Args:
            pieces: The dense file.
            dense: Its activations, as far as the layer.
            now: Those of the file whose earlier layers have changed.
        """
        operator, moments = self.operators[0], self.moments()
        for run, pair in enumerate(zip(now.of(operator), dense.of(operator), strict=True)):
            ours, before = (self.rows(pieces, operator, x, run=run) for x in pair)
            self.add(moments, ours, dense=before)
        return moments

    def add(self, moments: list[GramMoments], rows: np.ndarray, *, dense: np.ndarray | None = None) -> None:
        """Add rows of inputs, and the outputs that the dense weights make of the rows of the dense file.

        In single precision, which is twice as fast: a ridge of 10 % hides the rounding.
        """
        for group, sums in enumerate(moments):
            x = rows[group]
            sums.count += len(x)
            sums.gram += x.T @ x
            if dense is not None:
                y = dense[group] @ self.weights[group].T
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
        solver = self.solver
        masked = solver.masking(moments, solver.refit(moments), pattern=pattern)
        solved = masked(sparsity)
        stored = self.stored.grown(self.tensor(solved))  # by what real numbers would need
        if stored.is_integer:
            grids = [Grid(steps[:, :1]) for steps in self._first.to_matrix(stored.steps())]
            solved = masked(sparsity, grids)
        return solved, stored

    @contextlib.contextmanager
    def written(self, pieces: Pieces, weights: np.ndarray) -> Iterator[None]:
        """Put weights into a file for the time of a block."""
        stored = self.stored.grown(self.tensor(weights))
        model = pieces.model
        sizes = [(graph.tensors, len(graph.tensors)) for graph in model.subgraphs]
        sizes.append((model.buffers, len(model.buffers)))
        steps = [operator.home(pieces).steps[operator.step] for operator in self._users]
        data, old_inputs = model.buffers[self.buffer].data, [step.inputs for step in steps]
        self.write(pieces, weights, stored)
        yield
        for added, size in sizes:
            del added[size:]
        for step, inputs in zip(steps, old_inputs, strict=True):
            step.inputs = inputs
        self._write_values(model, data, self.stored)

    def write(self, pieces: Pieces, weights: np.ndarray, stored: StoredWeight) -> None:
        """Put weights into a file, and let its biases follow the scales."""
        model = pieces.model
        self._write_values(model, stored.write(self.tensor(weights)), stored)
        growth = stored.scales / self.stored.scales if stored.is_integer else np.ones(1)
        for operator in self._users:
            values = weights[..., -1].reshape(-1) if self.has_bias else operator.bias(pieces)
            if not values.size:
                continue
            home, place = operator.home(pieces), operator.bias_place
            inputs = inputs_of(home.steps[operator.step])
            inputs[place] = own_bias(model, home.graph, tensor=inputs[place], values=values, growth=growth)
            home.steps[operator.step].inputs = np.array(inputs, np.int32)

    def _write_values(self, model: schema.ModelT, data: np.ndarray, stored: StoredWeight) -> None:
        """Set the bytes of the weight, and its scales in all graphs."""
        model.buffers[self.buffer].data = data
        tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors if tensor.buffer == self.buffer]
        for tensor in tensors if stored.is_integer else ():
            tensor.quantization.scale = stored.scales.astype(np.float32)

    def tensor(self, weights: np.ndarray) -> np.ndarray:
        """Return weights in the shape of the constant, without the bias."""
        return self._first.from_matrix(self.kernel(weights), self.stored.shape)

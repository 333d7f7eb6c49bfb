"""Prune the weights of a file one after the other, each on what the file returns with the zeros so far."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.child_progress import ChildProgress
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import drop_hash, put_in_order
from tfprune.export.file.tflite.editor import numbers_operators, save_objects
from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.file_outputs import FileOutputs, Runs
from tfprune.export.pruning.layers.find_layers import find_layers
from tfprune.export.pruning.layers.linear_operators import LinearOperator, weights_elsewhere
from tfprune.export.pruning.layers.loops import Activations
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.unpack_sparse import unpack_sparse
from tfprune.export.pruning.prune_tflite_report import PrunedLayer
from tfprune.patterns import NM, Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.split_by_error import LEVELS, ErrorCurve, split_by_error
from tfprune.solving.zero_solver import relative_error

CONSTANT = "it sees the same for all samples, which do not tell which of its weights matter"


class PruningInOrder:
    """A file and samples, from which files of any sparsity are made.

    A weight that several graphs use is pruned in the first of them.

    Args:
        content: The plain file.
        runs: The inputs of each run of the interpreter, by tensor, for each graph that has samples.
        pattern: The shape of the zeros.
        folder: For arrays that do not fit into the memory.
        progress: Counts the layers that were measured or pruned.

    Attributes:
        skipped: The names of the weights left alone, and why.
    """

    def __init__(
        self, content: bytes, runs: Mapping[int, Runs], *, pattern: Pattern, folder: Path, progress: ChildProgress
    ) -> None:
        self._model, self._pattern = unpack_sparse(content), pattern
        self.skipped: list[tuple[str, str]] = []
        self._graphs: list[_GraphInOrder] = []
        buffers: set[int] = set()
        for number, own in runs.items():
            graph = _GraphInOrder(Pieces(self._model, number), own, pattern=pattern, folder=folder, progress=progress)
            graph.leave_out(buffers)
            buffers |= {layer.buffer for layer in graph.layers}
            self._graphs.append(graph)
            self.skipped += graph.skipped
        others = weights_elsewhere(Pieces(self._model), runs)
        self.skipped += [(name, reason) for buffer, name, reason in others if buffer not in buffers]
        progress.expect(len(self._checked_layers()))
        for graph in self._graphs:
            self.skipped += graph.measure()
        self._checked_layers()

    def _checked_layers(self) -> list[FileLayer]:
        layers = [layer for graph in self._graphs for layer in graph.layers]
        if not layers:
            reasons = "; ".join(sorted({reason for _, reason in self.skipped})) or "it has none"
            raise ValueError(f"Expected a file with weights that can be pruned. Received: one without: {reasons}.")
        return layers

    def pruned(self, sparsity: float) -> tuple[bytes, list[PrunedLayer]]:
        """Return a file of a sparsity, and what became of each weight."""
        if isinstance(self._pattern, NM):
            shares = [sparsity] * len(self._checked_layers())
        else:
            shares = split_by_error([curve for graph in self._graphs for curve in graph.curves], sparsity)
        model, each = copy.deepcopy(self._model), iter(shares)
        rows = [row for graph in self._graphs for row in graph.prune(model, each)]
        if not numbers_operators(model):
            drop_hash(model)
            put_in_order(model)  # without the biases that others stand for now
        return save_objects(model), rows


class _GraphInOrder:
    """One graph of a file.

    Attributes:
        layers: The weights that are pruned, in order.
        skipped: The names of those left alone, and why.
        curves: What zeros in each layer cost.
    """

    def __init__(self, dense: Pieces, runs: Runs, *, pattern: Pattern, folder: Path, progress: ChildProgress) -> None:
        self._dense, self._runs, self._pattern, self._folder = dense, runs, pattern, folder
        self._progress = progress
        self.layers, self.skipped = find_layers(dense)
        self._in_parallel: dict[int, list[GramMoments]] = {}
        self.curves: list[ErrorCurve] = []

    def leave_out(self, buffers: Collection[int]) -> None:
        """Leave out weights that another graph has already."""
        self.layers = [layer for layer in self.layers if layer.buffer not in buffers]

    def prune(self, model: schema.ModelT, shares: Iterator[float]) -> list[PrunedLayer]:
        """Put the next shares of zeros into a model, and return what became of each weight."""
        file = Pieces(model, self._dense.number)
        dense, now = (Activations(pieces, self._runs, folder=self._folder) for pieces in (self._dense, file))
        rows = []
        for layer in self.layers:
            moments = self._in_parallel.get(id(layer)) or layer.moments_in_order(self._dense, dense=dense, now=now)
            weights, stored = layer.solve(moments, sparsity=next(shares), pattern=self._pattern)
            layer.write(file, weights, stored)
            values = stored.read(file.model.buffers[layer.buffer])
            rows.append(_row(layer, values, relative_error(moments, weights)))
            self._progress.add()
        return rows

    def measure(self) -> list[tuple[str, str]]:
        """Run the dense graph once, measure what zeros in each layer alone cost, and return layers without effect."""
        if not self.layers:
            return []
        states = Activations(self._dense, self._runs, folder=self._folder)
        outputs = FileOutputs(self._dense, self._runs)
        moments = {id(layer): layer.moments() for layer in self.layers}
        curves: dict[int, ErrorCurve] = {}
        varying: set[int] = set()
        uses = [(operator, layer) for layer in self.layers for operator in layer.operators]
        for operator, layer in sorted(uses, key=_order):
            first = None
            for run, x in enumerate(map(np.atleast_1d, states.of(operator))):
                layer.add(moments[id(layer)], layer.rows(self._dense, operator, x, run=run))
                first = x[:1] if first is None else first
                varying |= {id(layer)} if (x != first).any() else set()
            if operator is layer.operators[-1]:
                aimed = [sums.aimed_at(own) for sums, own in zip(moments.pop(id(layer)), layer.weights, strict=True)]
                curves[id(layer)] = self._curve(layer, aimed, states=states, outputs=outputs)
                if layer.is_in_parallel:
                    self._in_parallel[id(layer)] = aimed
                self._progress.add()
        constant = [layer for layer in self.layers if id(layer) not in varying]
        self.layers = [layer for layer in self.layers if id(layer) in varying]
        self.curves = [curves[id(layer)] for layer in self.layers]
        return [(layer.name, f"{layer.kind}: {CONSTANT}") for layer in constant]

    def _curve(
        self, layer: FileLayer, moments: list[GramMoments], *, states: Activations, outputs: FileOutputs
    ) -> ErrorCurve:
        """Scale the curve of a layer's own error by what the outputs feel at one sparsity."""
        if isinstance(self._pattern, NM):
            return ErrorCurve(layer.size, layer.zeros, np.zeros(len(LEVELS)))  # not used
        solved, errors = layer.solver.at_levels(moments, pattern=self._pattern)
        # Such a weight is felt from its first operator or turn on, which these samples have passed.
        start, values = (0, outputs.inputs) if layer.is_in_parallel else (states.step, states.all)
        with layer.written(self._dense, solved):
            output_error = outputs.error(start, values)
        return ErrorCurve(layer.size, layer.zeros, errors).scaled(output_error)


def _row(layer: FileLayer, values: np.ndarray, error: float) -> PrunedLayer:
    return PrunedLayer(layer.name, layer.kind, layer.size, int(np.count_nonzero(values)), error)


def _order(use: tuple[LinearOperator, FileLayer]) -> tuple[int, int]:
    return use[0].order

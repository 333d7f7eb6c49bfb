"""Prune the weights of a file one after the other, each on what the file returns with the zeros so far."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from tfprune.export.file.tflite.editor import load_objects, save_objects
from tfprune.export.pruning.layers.file_layer import FileLayer, file_layers
from tfprune.export.pruning.layers.file_outputs import FileOutputs, Runs
from tfprune.export.pruning.layers.live_tensors import LiveTensors
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.prune_tflite_report import PrunedLayer
from tfprune.patterns import NM, Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.split_by_error import LEVEL_FELT, LEVELS, ErrorCurve, split_by_error
from tfprune.solving.zero_solver import relative_error


class PruningInOrder:
    """A file and samples, from which files of any sparsity are made.

    Args:
        content: The plain file.
        runs: The inputs of each run of the interpreter, by tensor.
        pattern: The shape of the zeros.
        folder: For arrays that do not fit into the memory.

    Attributes:
        layers: The weights that are pruned, in order.
        skipped: The names of those left alone, and why.
        curves: What zeros in each layer cost.
    """

    def __init__(self, content: bytes, runs: Runs, *, pattern: Pattern, folder: Path) -> None:
        self._dense = Pieces(load_objects(content))
        self._content, self._runs, self._pattern, self._folder = content, runs, pattern, folder
        self.layers, self.skipped = file_layers(self._dense)
        if not self.layers:
            reasons = "; ".join(sorted({reason for _, reason in self.skipped})) or "it has none"
            raise ValueError(f"Expected a file with weights that can be pruned. Received: one without: {reasons}.")
        self._shared: dict[int, list[GramMoments]] = {}
        self.curves = self._measured()

    def pruned(self, sparsity: float) -> tuple[bytes, list[PrunedLayer]]:
        """Return a file of a sparsity, and what became of each weight."""
        if isinstance(self._pattern, NM):
            shares = [sparsity] * len(self.layers)
        else:
            shares = split_by_error(self.curves, sparsity)
        file = Pieces(copy.deepcopy(self._dense.model))
        dense, now = (LiveTensors(pieces, self._runs, folder=self._folder) for pieces in (self._dense, file))
        rows = []
        for layer, share in zip(self.layers, shares, strict=True):
            moments = self._shared.get(id(layer)) or self._seen(layer, dense, now)
            weights, stored = layer.solve(moments, sparsity=share, pattern=self._pattern)
            layer.write(file, weights, stored)
            values = stored.read(file.model.buffers[layer.buffer])
            rows.append(_row(layer, values, relative_error(moments, weights)))
        return save_objects(file.model), rows

    def _seen(self, layer: FileLayer, dense: LiveTensors, now: LiveTensors) -> list[GramMoments]:
        """Return what a layer sees in the file with the zeros so far, and what it returned in the dense one."""
        operator, moments = layer.operators[0], layer.moments()
        for states in (dense, now):
            states.advance(operator.step)
        tensor = self._dense.graph.tensors[operator.activation]
        for run in range(len(self._runs)):
            ours, before = (
                layer.rows(operator, tensor, states.get(run, operator.activation), run=run) for states in (now, dense)
            )
            layer.add(moments, ours, dense=before)
        return moments

    def _measured(self) -> list[ErrorCurve]:
        """Run the dense file once, and measure what zeros in each layer alone cost."""
        states = LiveTensors(self._dense, self._runs, folder=self._folder)
        outputs = FileOutputs(self._dense, self._runs)
        moments = {id(layer): layer.moments() for layer in self.layers}
        curves: dict[int, ErrorCurve] = {}
        uses = sorted(((operator.step, layer) for layer in self.layers for operator in layer.operators), key=_first)
        for step, layer in uses:
            operator = next(operator for operator in layer.operators if operator.step == step)
            states.advance(step)
            tensor = self._dense.graph.tensors[operator.activation]
            for run in range(len(self._runs)):
                rows = layer.rows(operator, tensor, states.get(run, operator.activation), run=run)
                layer.add(moments[id(layer)], rows)
            if operator is layer.operators[-1]:
                aimed = [sums.aimed_at(own) for sums, own in zip(moments.pop(id(layer)), layer.weights, strict=True)]
                curves[id(layer)] = self._curve(layer, aimed, states=states, outputs=outputs)
                if len(layer.operators) > 1:
                    self._shared[id(layer)] = aimed
        return [curves[id(layer)] for layer in self.layers]

    def _curve(
        self, layer: FileLayer, moments: list[GramMoments], *, states: LiveTensors, outputs: FileOutputs
    ) -> ErrorCurve:
        """Scale the curve of a layer's own error by what the outputs feel at one sparsity."""
        if isinstance(self._pattern, NM):
            return ErrorCurve(layer.size, layer.zeros, np.zeros(len(LEVELS)))  # not used
        solved, errors = layer.solver.at_levels(moments, pattern=self._pattern)
        # A weight that several operators share is felt from its first one on, which these samples have passed.
        start, known = (states.step, states.all) if len(layer.operators) == 1 else (0, outputs.inputs)
        with layer.written(self._dense, solved[LEVEL_FELT]):
            felt = outputs.error(start, known)
        return ErrorCurve(layer.size, layer.zeros, errors).scaled(felt)


def _row(layer: FileLayer, values: np.ndarray, error: float) -> PrunedLayer:
    return PrunedLayer(layer.name, layer.kind, layer.size, int(np.count_nonzero(values)), error)


def _first(pair: tuple[int, FileLayer]) -> int:
    return pair[0]

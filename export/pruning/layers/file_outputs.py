"""The outputs of a file for a few samples, before and after a change of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.pruning.layers.pieces import PieceRunner, Pieces
from tfprune.export.pruning.layers.stored_weight import real
from tfprune.solving.split_by_error import SAMPLES_FELT, output_error, variation

Runs = list[Mapping[int, np.ndarray]]


class FileOutputs:
    """The outputs of the dense file for a few samples, with which others are compared."""

    def __init__(self, pieces: Pieces, runs: Runs) -> None:
        inputs = [runs[0][index] for index in indices_of(pieces.graph.inputs)]
        rows = max(len(array) if array.ndim else 1 for array in inputs)
        self._pieces, self._runs = pieces, runs[: max(1, SAMPLES_FELT // rows)]
        self._dense = self._from(0, self.inputs)
        if not any(variation(values) for values in self._dense.values()):
            raise ValueError(
                "Expected samples for which the outputs of the file differ. Received: samples that all give the "
                "same. Pass samples as the file will see them."
            )

    def inputs(self, run: int) -> Mapping[int, np.ndarray]:
        """Return the inputs of the file in one run."""
        return self._runs[run]

    def error(self, step: int, values_of: Any) -> float:
        """Return the mean squared error of the outputs, each as a fraction of its variance."""
        changed = self._from(step, values_of)
        return output_error([self._dense[index] for index in changed], [*changed.values()])

    def _from(self, step: int, values_of: Any) -> dict[int, np.ndarray]:
        runner = PieceRunner(self._pieces.cut(step, len(self._pieces.steps)))
        parts_by_output: dict[int, list[np.ndarray]] = {}
        for run in range(len(self._runs)):
            values = values_of(run)
            results = {**values, **runner.run(values)}
            for index in self._pieces.outputs:
                parts_by_output.setdefault(index, []).append(
                    np.atleast_1d(real(self._pieces.graph.tensors[index], results[index]))
                )
        shapes = {index: {each.shape[1:] for each in parts} for index, parts in parts_by_output.items()}
        return {index: np.concatenate(parts) for index, parts in parts_by_output.items() if len(shapes[index]) == 1}

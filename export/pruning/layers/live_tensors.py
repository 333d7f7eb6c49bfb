"""The tensors that are alive between two pieces of a file, for each run: in memory, and beyond a limit in files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfprune.export.pruning.layers.pieces import PieceRunner, Pieces

BYTES_IN_MEMORY = 2**28


class LiveTensors:
    """Runs of a file, all of them as far as the same step.

    Args:
        pieces: The file. Its values may change behind the step that the runs have reached.
        runs: The inputs of each run, by tensor.
        folder: Where arrays lie that do not fit into the memory set aside for them.
    """

    def __init__(self, pieces: Pieces, runs: list[Mapping[int, np.ndarray]], *, folder: Path) -> None:
        self._pieces, self._folder = pieces, folder
        self._numbers = itertools.count()
        self._held = 0
        self._runs: list[dict[int, np.ndarray | Path]] = [{} for _ in runs]
        self.step = 0
        for run, values in zip(self._runs, runs, strict=True):
            run.update({index: self._stored(array) for index, array in values.items()})

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run: int, tensor: int) -> np.ndarray:
        """Return a tensor of one run."""
        return _loaded(self._runs[run][tensor])

    def all(self, run: int) -> dict[int, np.ndarray]:
        """Return all live tensors of one run."""
        return {index: _loaded(value) for index, value in self._runs[run].items()}

    def advance(self, step: int) -> None:
        """Run the operators up to a step, for all runs; what nothing needs any more is forgotten."""
        if step == self.step:
            return
        piece = self._pieces.cut(self.step, step)
        runner, alive = PieceRunner(piece), self._pieces.alive(step)
        inputs = {*piece.inputs}
        states = {tensor: assigned for tensor, assigned in self._pieces.states.items() if tensor in inputs}
        for before, run in zip([{}, *self._runs], self._runs, strict=False):
            for tensor in [tensor for tensor, assigned in states.items() if assigned in before]:
                self._forget(run[tensor])
                run[tensor] = self._stored(_loaded(before[states[tensor]]))
            results = runner.run({index: _loaded(run[index]) for index in piece.inputs})
            for index in [index for index in run if index not in alive]:
                self._forget(run.pop(index))
            run.update({index: self._stored(array) for index, array in results.items()})
        self.step = step

    def _stored(self, array: np.ndarray) -> np.ndarray | Path:
        if self._held + array.nbytes <= BYTES_IN_MEMORY:
            self._held += array.nbytes
            return array
        path = self._folder / f"live-{id(self)}-{next(self._numbers)}.npy"
        np.save(path, array)
        return path

    def _forget(self, value: np.ndarray | Path) -> None:
        if isinstance(value, Path):
            value.unlink()
        else:
            self._held -= value.nbytes


def _loaded(value: np.ndarray | Path) -> np.ndarray:
    return np.load(value) if isinstance(value, Path) else value

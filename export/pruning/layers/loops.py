"""Follow the samples through a file: to each of its operators, and into the turns of its loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.pruning.layers.linear_operators import LinearOperator
from tfprune.export.pruning.layers.live_tensors import LiveTensors
from tfprune.export.pruning.layers.pieces import PieceRunner, Pieces

TURNS = 16  # of each run of a loop, evenly spaced: neighbors are alike


class Activations:
    """The tensors that operators multiply, in all runs of a file, asked for in the order of `LinearOperator.order`.

    Args:
        pieces: The file. Its values may change behind the step that the runs have reached.
        runs: The inputs of each run, by tensor.
        folder: Where arrays lie that do not fit into the memory set aside for them.
    """

    def __init__(self, pieces: Pieces, runs: list[Mapping[int, np.ndarray]], *, folder: Path) -> None:
        self._pieces, self._folder = pieces, folder
        self._live = LiveTensors(pieces, runs, folder=folder)
        self._turns: tuple[int, LiveTensors] | None = None  # those of the loop that the runs have reached

    @property
    def step(self) -> int:
        """The step that the runs have reached."""
        return self._live.step

    def all(self, run: int) -> dict[int, np.ndarray]:
        """Return all live tensors of one run."""
        return self._live.all(run)

    def of(self, operator: LinearOperator) -> Iterator[np.ndarray]:
        """Yield what an operator multiplies, in each run of the file or turn of its loop."""
        first, inner = operator.order
        self._live.advance(first)
        live = self._live
        if operator.loop is not None:
            live = self._inside(operator.loop)
            live.advance(inner)
        for run in range(len(live)):
            yield live.get(run, operator.activation)

    def _inside(self, loop: int) -> LiveTensors:
        if self._turns is None or self._turns[0] != loop:
            runner = LoopRunner(self._pieces, loop)
            turns = [turn for run in range(len(self._live)) for turn in runner.turns(self._live.all(run))]
            self._turns = loop, LiveTensors(self._pieces.bodies[loop], turns, folder=self._folder)
        return self._turns[1]


class LoopRunner:
    """Runs a WHILE turn by turn.

    Args:
        pieces: The graph that it stands in.
        step: Its number among the steps.
    """

    def __init__(self, pieces: Pieces, step: int) -> None:
        operator = pieces.steps[step]
        self._inputs = indices_of(operator.inputs)
        self._constants = pieces.constants(self._inputs)
        self._condition = Pieces(pieces.model, operator.builtinOptions.condSubgraphIndex)
        self._body = pieces.bodies[step]
        self._runners = [PieceRunner(each.cut(0, len(each.steps))) for each in (self._condition, self._body)]
        self._body_constants = self._body.constants(self._body.outputs)

    def turns(self, values: Mapping[int, np.ndarray]) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of the body in some of the turns that live tensors lead to."""
        tensors, turns = {**self._constants, **values}, []
        state = [tensors[index] for index in self._inputs]
        again, following = self._runners
        while True:
            entry = dict(zip(self._condition.inputs, state, strict=True))
            (is_on,) = ({**entry, **again.run(entry)}[index] for index in self._condition.outputs)
            if not is_on:
                break
            turns.append(dict(zip(self._body.inputs, state, strict=True)))
            results = {**self._body_constants, **turns[-1], **following.run(turns[-1])}
            state = [results[index] for index in self._body.outputs]
        sampled = np.linspace(0, len(turns) - 1, min(TURNS, len(turns))).round().astype(int)
        return [turns[index] for index in sampled]

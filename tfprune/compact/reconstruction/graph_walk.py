"""Run a graph part by part on all batches, so that a part sees the new weights of the parts before it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.linear_map import LinearMap
from tfprune.compact.reconstruction.spool import Spool
from tfprune.keras_models.models.graph import Call, Graph
from tfprune.keras_models.models.layer_hooks import hooked_calls
from tfprune.keras_models.models.token_ids import token_masks


class GraphWalk:
    """A graph that is run on data from its first call to its last, each batch of each part when it is asked for.

    The data are read once. What later parts need of earlier ones lies in files, and one batch is in memory.

    Args:
        graph: The graph.
        batches: The arrays for the inputs of the model, batch by batch.
        weights: Returns variables with the values to use in their place; None takes all as they are.
    """

    def __init__(
        self, graph: Graph, batches: Iterable[Sequence[Any]], *, weights: Callable[[], list[tuple]] | None = None
    ) -> None:
        self._calls, self._weights = graph.calls, weights
        self._position, self._spool, self.count = 0, Spool(), 0
        self._inputs = [id(tensor) for tensor in graph.model.inputs]
        self._outputs = [id(tensor) for tensor in graph.model.outputs]
        self._token_masks: list[list[np.ndarray]] = []
        for arrays in batches:
            self._token_masks.append(list(token_masks(graph, arrays).values()))
            for tensor, array in zip(self._inputs, arrays, strict=True):
                self._spool.put(tensor, self.count, array)
            self.count += 1

    def inputs(self) -> Iterator[list[Any]]:
        """Yield the arrays for the inputs of the model again, as long as no call was left behind."""
        for batch in range(self.count):
            yield [self._spool.get(tensor, batch) for tensor in self._inputs]

    def seen(self, maps: Sequence[LinearMap], *, end: int) -> Iterator[list[tuple[int, Any]]]:
        """Run the calls up to `end`, and yield for each batch what the kernels of some maps multiply.

        Yields:
            The index of a map, and its rows of inputs without those of padding, for each call of it.
        """
        for batch, masks in enumerate(self._token_masks):
            yield self._taken(batch, maps, end=end, take=functools.partial(_seen, masks=masks))

    def first_inputs(self, maps: Sequence[LinearMap], *, end: int) -> list[tuple[int, Any]]:
        """Return the index of a map and the tensor that it is called on, for each call of it on the first batch."""
        return self._taken(0, maps, end=end, take=lambda each, x: x)

    def _taken(
        self, batch: int, maps: Sequence[LinearMap], *, end: int, take: Callable[[LinearMap, Any], Any]
    ) -> list[tuple[int, Any]]:
        results: list[tuple[int, Any]] = []

        def listen(leaf: Any, inputs: Any, outputs: Any) -> None:
            own = [index for index, each in enumerate(maps) if each.leaf is leaf]  # a recurrent layer has two maps
            results.extend((index, take(maps[index], inputs)) for index in own)

        with hooked_calls([each.leaf for each in maps], listen):
            self._run(batch, end, keep=set())
        return results

    def outputs(self, batch: int) -> list[Any]:
        """Run all later calls on one batch, and return the outputs of the model, in its order."""
        made = self._run(batch, len(self._calls), keep=set(self._outputs))
        return [made[tensor] if tensor in made else self._spool.get(tensor, batch) for tensor in self._outputs]

    def advance(self, end: int) -> None:
        """Run the calls up to `end`, and go on from there; stay where they have been run."""
        if end <= self._position:
            return
        later = self._needed(end, len(self._calls)) | set(self._outputs)
        before = self._needed(self._position, len(self._calls)) | set(self._inputs)
        for batch in range(self.count):
            for tensor, value in self._run(batch, end, keep=later).items():
                self._spool.put(tensor, batch, value)
        for tensor in before - later:
            self._spool.drop(tensor)
        self._position = end

    def _needed(self, start: int, end: int) -> set[int]:
        """Return the tensors that calls take and none of them makes."""
        tensor_ids: set[int] = set()
        returned: set[int] = set()
        for call in self._calls[start:end]:
            tensor_ids |= {id(tensor) for tensor in call.inputs} - returned
            returned |= {id(tensor) for tensor in call.outputs}
        return tensor_ids

    def _run(self, batch: int, end: int, *, keep: set[int]) -> dict[int, Any]:
        """Run the calls up to `end` on one batch; return of what they make the tensors to keep."""
        calls = self._calls[self._position : end]
        values = {tensor: self._spool.get(tensor, batch) for tensor in self._needed(self._position, end)}
        last = {id(tensor): index for index, call in enumerate(calls) for tensor in call.inputs}
        to_return: dict[int, Any] = {}
        with keras.StatelessScope(state_mapping=self._weights()) if self._weights else nullcontext():
            for index, call in enumerate(calls):
                for tensor, value in zip(call.outputs, _outputs(call, values), strict=True):
                    values[id(tensor)] = value
                    if id(tensor) in keep:
                        to_return[id(tensor)] = value
                for tensor in call.inputs:
                    if last[id(tensor)] == index:
                        values.pop(id(tensor), None)
        return to_return


def _seen(linear: LinearMap, x: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    return linear.seen(x, masks)


def _outputs(call: Call, values: Mapping[int, Any]) -> list[Any]:
    def value(leaf: Any) -> Any:
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
    return keras.tree.flatten(call.layer(*args, **kwargs))

"""The calls that all ways through a graph go through: a block can end in one of them only."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call, Graph


class Cuts:
    """For each call of a graph the next one through which everything goes that depends on it (its post-dominator)."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._next: dict[int, Call | None] = {}
        self._depth = {id(None): 0}  # how many cuts there are up to the outputs
        for call in reversed(graph.calls):
            takers = graph.consumers(call)
            found = self.after_all(takers) if takers else None
            self._next[id(call)] = found
            self._depth[id(call)] = self._depth[id(found)] + 1

    def _common(self, one: Any, other: Any) -> Any:
        while one is not other:
            if self._depth[id(one)] >= self._depth[id(other)]:
                one = self._next[id(one)]
            else:
                other = self._next[id(other)]
        return one

    def after_all(self, calls: Iterable[Any]) -> Call | None:
        """Return the first call, perhaps one of them, that everything after some calls goes through."""
        return functools.reduce(self._common, calls)

    def chain(self, source: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Return an input of the model, and what the cuts after it hand on, in order, each if it is one tensor."""
        takers = [call for call in self._graph.calls if any(tensor is source for tensor in call.inputs)]
        return [source, *self.following(self.after_all(takers))] if takers else [source]

    def following(self, call: Call | None) -> list[keras.KerasTensor]:
        """Return what a call and the cuts after it hand on, in order, each if it is one tensor."""
        found = []
        while call is not None:
            tensors = _handed_on(self._graph, call)
            found += tensors if len(tensors) == 1 else []
            call = self._next[id(call)]
        return found


def _handed_on(graph: Graph, call: Call) -> list[keras.KerasTensor]:
    """Return the outputs of a call that something reads."""
    read = {id(tensor) for taker in graph.consumers(call) for tensor in taker.inputs}
    read |= {id(tensor) for tensor in graph.model.outputs}
    return [tensor for tensor in call.outputs if id(tensor) in read]

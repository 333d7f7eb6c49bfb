"""Post-dominators of a graph: the calls that all paths to the outputs go through. Only there can a block end."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call, Graph


class PostDominators:
    """The immediate post-dominator of each call: the next call that everything depending on it goes through."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._next: dict[int, Call | None] = {}
        self._depth = {id(None): 0}  # the number of post-dominators up to the outputs
        for call in reversed(graph.calls):
            readers = graph.consumers(call)
            following = self.common(readers) if readers else None
            self._next[id(call)] = following
            self._depth[id(call)] = self._depth[id(following)] + 1

    def common(self, calls: Iterable[Any]) -> Call | None:
        """Return the first call, perhaps one of them, that all paths from the calls go through; None if none does."""
        return functools.reduce(self._common_of_two, calls)

    def _common_of_two(self, first: Any, second: Any) -> Any:
        while first is not second:
            if self._depth[id(first)] >= self._depth[id(second)]:
                first = self._next[id(first)]
            else:
                second = self._next[id(second)]
        return first

    def chain(self, source: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Return an input of the model, and the tensors that all paths from it go through, in order."""
        readers = [call for call in self._graph.calls if any(tensor is source for tensor in call.inputs)]
        return [source, *self.following(self.common(readers))] if readers else [source]

    def following(self, call: Call | None) -> list[keras.KerasTensor]:
        """Return the outputs of a call and its post-dominators, in order, of those that have one output in use."""
        tensors: list[keras.KerasTensor] = []
        while call is not None:
            outputs = self._outputs_in_use(call)
            tensors += outputs if len(outputs) == 1 else []
            call = self._next[id(call)]
        return tensors

    def _outputs_in_use(self, call: Call) -> list[keras.KerasTensor]:
        used = {id(tensor) for reader in self._graph.consumers(call) for tensor in reader.inputs}
        used |= {id(tensor) for tensor in self._graph.model.outputs}
        return [tensor for tensor in call.outputs if id(tensor) in used]

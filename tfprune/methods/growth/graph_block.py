"""A block of a graph: the calls between two tensors, where it can end, and whether two blocks are built alike."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.graph import Call, Graph


@dataclass(frozen=True, eq=False)
class GraphBlock:
    """The calls between two tensors.

    Attributes:
        calls: The calls in an order in which they can be made; an index is the same part in every block.
        entry: The tensor that the block reads from the block before it.
        end: The tensor that the next block reads.
    """

    calls: tuple[Call, ...]
    entry: keras.KerasTensor
    end: keras.KerasTensor


class NoBlocks(ValueError):  # noqa: N818
    """The reason why calls are not blocks."""


def describe_call(call: Any) -> str:
    """Name a call in messages."""
    return f"{call.layer.name!r} ({type(layer_inside(call.layer)).__name__})"


def descendants(graph: Graph, tensors: Iterable[keras.KerasTensor]) -> list[Call]:
    """Return the calls that depend on at least one of the tensors, in order."""
    reached, calls = {id(tensor) for tensor in tensors}, []
    for call in graph.calls:
        if any(id(tensor) in reached for tensor in call.inputs):
            reached |= {id(tensor) for tensor in call.outputs}
            calls.append(call)
    return calls


def ancestors(calls: Sequence[Call], tensor: keras.KerasTensor) -> list[Call]:
    """Return those of the calls that a tensor depends on, in order."""
    needed, sources = {id(tensor)}, []
    for call in reversed(calls):
        if any(id(output) in needed for output in call.outputs):
            needed |= {id(source) for source in call.inputs}
            sources.append(call)
    return sources[::-1]


def between(graph: Graph, *, entry: keras.KerasTensor, end: keras.KerasTensor) -> list[Call]:
    """Return the calls on the paths from one tensor to another."""
    return ancestors(descendants(graph, [entry]), end)


def with_own_context(graph: Graph, calls: Sequence[Call], *, entry: keras.KerasTensor) -> list[Call]:
    """Add to the calls of a block those that only it reads, and that do not depend on the blocks before it."""
    own = {id(call) for call in calls}
    before = {id(call) for call in ancestors(graph.calls, entry)}
    for call in reversed(graph.calls):
        readers = graph.consumers(call)
        is_read = readers and not graph.is_output(call) and id(call) not in before
        if is_read and all(id(reader) in own for reader in readers):
            own.add(id(call))
    return [call for call in graph.calls if id(call) in own]


def entry_like(graph: Graph, template: GraphBlock, *, end: keras.KerasTensor) -> keras.KerasTensor:
    """Return the tensor from which another block starts, as the block `template` starts from its entry.

    Raises:
        NoBlocks: If the other block is built in another way.
    """
    inside = {id(call) for call in template.calls}
    entries: dict[int, keras.KerasTensor] = {}
    pairs: list[tuple[Any, Any]] = [(graph.producer(template.end), graph.producer(end))]
    seen: set[int] = set()
    while pairs:
        call, counterpart = pairs.pop()
        if id(call) in seen:
            continue
        seen.add(id(call))
        _check_alike(call, counterpart)
        for tensor, other in zip(call.inputs, counterpart.inputs, strict=True):
            if tensor is template.entry:
                entries[id(other)] = other
            elif id(graph.producer(tensor)) in inside:
                pairs.append((graph.producer(tensor), graph.producer(other)))
    if len(entries) != 1:
        end_of_block = describe_call(graph.producer(end))
        raise NoBlocks(f"the block that ends in {end_of_block} starts from {len(entries)} tensors")
    return next(iter(entries.values()))


def align(graph: Graph, block: GraphBlock, *, template: GraphBlock) -> GraphBlock:
    """Return a block with its calls in the order of those of another, `template`.

    Raises:
        NoBlocks: If it is built in another way.
    """
    insides = [{id(call) for call in side.calls} for side in (template, block)]
    counterparts: dict[int, Call] = {}
    pairs: list[tuple[Any, Any]] = [(graph.producer(template.end), graph.producer(block.end))]
    while pairs:
        call, counterpart = pairs.pop()
        if id(call) in counterparts:
            if counterparts[id(call)] is not counterpart:
                raise NoBlocks(f"{describe_call(call)} is read in another way than {describe_call(counterpart)}")
            continue
        _check_alike(call, counterpart)
        counterparts[id(call)] = counterpart
        for sources in zip(call.inputs, counterpart.inputs, strict=True):
            makers = [graph.producer(tensor) for tensor in sources]
            is_inside = [id(maker) in inside for maker, inside in zip(makers, insides, strict=True)]
            if is_inside[0] != is_inside[1]:
                raise NoBlocks(f"{describe_call(call)} reads other things than {describe_call(counterpart)}")
            if is_inside[0]:
                pairs.append((makers[0], makers[1]))
    return GraphBlock(tuple(counterparts[id(call)] for call in template.calls), block.entry, block.end)


def _check_alike(call: Any, counterpart: Any) -> None:
    if call is None or counterpart is None:
        raise NoBlocks(f"an input of the model stands where the other block has {describe_call(call or counterpart)}")
    is_same_class = type(layer_inside(call.layer)) is type(layer_inside(counterpart.layer))
    if not is_same_class or len(call.inputs) != len(counterpart.inputs):
        raise NoBlocks(f"{describe_call(counterpart)} stands where the other block has {describe_call(call)}")


class PostDominators:
    """The immediate post-dominator of each call: the next call that everything depending on it goes through.

    Only there can a block end.
    """

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
        inputs = {id(tensor) for reader in self._graph.consumers(call) for tensor in reader.inputs}
        inputs |= {id(tensor) for tensor in self._graph.model.outputs}
        return [tensor for tensor in call.outputs if id(tensor) in inputs]

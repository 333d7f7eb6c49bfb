"""A block of a graph: the calls between two tensors, and whether two blocks are built alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call, Graph


@dataclass(frozen=True, eq=False)
class Block:
    """The calls between two tensors.

    Attributes:
        calls: What the block calls, in an order in which it can; the same position is the same part in each block.
        entry: The tensor that it takes from the block before it.
        end: The tensor that it hands on.
    """

    calls: tuple[Call, ...]
    entry: keras.KerasTensor
    end: keras.KerasTensor


class NoBlocks(ValueError):  # noqa: N818
    """Why calls do not make blocks."""


def layer_inside(layer: Any) -> Any:
    """Return the layer in a wrapper of weights under masks, anything else as it is."""
    return layer.layer if hasattr(layer, "masks") and hasattr(layer, "layer") else layer


def label(call: Any) -> str:
    """Name a call in messages."""
    return f"{call.layer.name!r} ({type(layer_inside(call.layer)).__name__})"


def below(graph: Graph, tensors: Iterable[keras.KerasTensor]) -> list[Call]:
    """Return the calls that depend on some of the tensors."""
    known, found = {id(tensor) for tensor in tensors}, []
    for call in graph.calls:
        if any(id(tensor) in known for tensor in call.inputs):
            known |= {id(tensor) for tensor in call.outputs}
            found.append(call)
    return found


def above(calls: Sequence[Call], tensor: keras.KerasTensor) -> list[Call]:
    """Return those among calls that a tensor depends on."""
    wanted, found = {id(tensor)}, []
    for call in reversed(calls):
        if any(id(output) in wanted for output in call.outputs):
            wanted |= {id(source) for source in call.inputs}
            found.append(call)
    return found[::-1]


def between(graph: Graph, *, entry: keras.KerasTensor, end: keras.KerasTensor) -> list[Call]:
    """Return the calls on the ways from one tensor to another."""
    return above(below(graph, [entry]), end)


def with_own_context(graph: Graph, calls: Sequence[Call], *, entry: keras.KerasTensor) -> list[Call]:
    """Add to the calls of a block those that only it reads, and that do not depend on the blocks before it."""
    own = {id(call) for call in calls}
    before = {id(call) for call in above(graph.calls, entry)}
    for call in reversed(graph.calls):
        takers = graph.consumers(call)
        is_read = takers and not graph.is_output(call) and id(call) not in before
        if is_read and all(id(taker) in own for taker in takers):
            own.add(id(call))
    return [call for call in graph.calls if id(call) in own]


def entry_like(graph: Graph, model: Block, *, end: keras.KerasTensor) -> keras.KerasTensor:
    """Return the tensor from which another block starts, as the block `model` starts from its entry.

    Raises:
        NoBlocks: If the other block is built in another way.
    """
    inside = {id(call) for call in model.calls}
    found: dict[int, keras.KerasTensor] = {}
    pairs: list[tuple[Any, Any]] = [(graph.producer(model.end), graph.producer(end))]
    seen: set[int] = set()
    while pairs:
        one, other = pairs.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        _check_alike(one, other)
        for tensor, counterpart in zip(one.inputs, other.inputs, strict=True):
            if tensor is model.entry:
                found[id(counterpart)] = counterpart
            elif id(graph.producer(tensor)) in inside:
                pairs.append((graph.producer(tensor), graph.producer(counterpart)))
    if len(found) != 1:
        raise NoBlocks(f"the block that ends in {label(graph.producer(end))} starts from {len(found)} tensors")
    return next(iter(found.values()))


def aligned(graph: Graph, block: Block, *, model: Block) -> Block:
    """Return a block with its calls in the order of those of another, `model`.

    Raises:
        NoBlocks: If it is built in another way.
    """
    insides = [{id(call) for call in side.calls} for side in (model, block)]
    counterparts: dict[int, Call] = {}
    pairs: list[tuple[Any, Any]] = [(graph.producer(model.end), graph.producer(block.end))]
    while pairs:
        one, other = pairs.pop()
        if id(one) in counterparts:
            if counterparts[id(one)] is not other:
                raise NoBlocks(f"{label(one)} is read in another way than {label(other)}")
            continue
        _check_alike(one, other)
        counterparts[id(one)] = other
        for sources in zip(one.inputs, other.inputs, strict=True):
            makers = [graph.producer(tensor) for tensor in sources]
            is_inside = [id(maker) in inside for maker, inside in zip(makers, insides, strict=True)]
            if is_inside[0] != is_inside[1]:
                raise NoBlocks(f"{label(one)} reads other things than {label(other)}")
            if is_inside[0]:
                pairs.append((makers[0], makers[1]))
    return Block(tuple(counterparts[id(call)] for call in model.calls), block.entry, block.end)


def _check_alike(one: Any, other: Any) -> None:
    if one is None or other is None:
        raise NoBlocks(f"an input of the model stands where the other block has {label(one or other)}")
    classes = [type(layer_inside(call.layer)) for call in (one, other)]
    if classes[0] is not classes[1] or len(one.inputs) != len(other.inputs):
        raise NoBlocks(f"{label(other)} stands where the other block has {label(one)}")

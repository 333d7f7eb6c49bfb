"""Blocks by the names of their layers: a regular expression, whose group is the number of the block."""

from __future__ import annotations

import re

import keras

from tfprune.keras_models.models.graph import Call, Graph
from tfprune.methods.growth.graph_block import (
    GraphBlock,
    NoBlocks,
    PostDominators,
    between,
    describe_call,
    entry_like,
)


def named_blocks(graph: Graph, pattern: re.Pattern[str]) -> list[GraphBlock]:
    """Return the blocks whose layers a regular expression matches, in the order of their numbers.

    Raises:
        NoBlocks: If it matches none, or the layers are not blocks.
    """
    if pattern.groups != 1:
        raise NoBlocks(f"the expression has {pattern.groups} groups, and needs one, for the block's number")
    calls_of: dict[int, list[Call]] = {}
    for call in graph.calls:
        number = _number(call, pattern)
        if number is not None:
            calls_of.setdefault(number, []).append(call)
    if not calls_of:
        names = [call.layer.name for call in graph.calls if isinstance(call.layer, keras.layers.Layer)]
        raise NoBlocks(f"it finds none of the layers {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")
    dominators = PostDominators(graph)
    ends = [_end(graph, dominators, calls_of[number], number) for number in sorted(calls_of)]
    if len(ends) == 1:
        return [_only(graph, dominators, next(iter(calls_of.values())), ends[0])]
    later = [
        GraphBlock(tuple(between(graph, entry=entry, end=end)), entry, end)
        for entry, end in zip(ends[:-1], ends[1:], strict=True)
    ]
    for block, number in zip(later, sorted(calls_of)[1:], strict=True):
        if not block.calls:
            raise NoBlocks(f"the block with number {number} does not read the block before it")
    entry = entry_like(graph, later[0], end=ends[0])
    return [GraphBlock(tuple(between(graph, entry=entry, end=ends[0])), entry, ends[0]), *later]


def _number(call: Call, pattern: re.Pattern[str]) -> int | None:
    match = pattern.search(call.layer.name) if isinstance(call.layer, keras.layers.Layer) else None
    if match is None:
        return None
    if match[1] is None or not match[1].isdecimal():
        raise NoBlocks(f"its group finds {match[1]!r} in {call.layer.name!r}, which is not a number")
    return int(match[1])


def _end(graph: Graph, dominators: PostDominators, calls: list[Call], number: int) -> keras.KerasTensor:
    """Return the first tensor after a block that all paths from an input of the model go through."""
    chains = {id(tensor) for source in graph.model.inputs for tensor in dominators.chain(source)}
    for tensor in dominators.following(dominators.common(calls)):
        if id(tensor) in chains:
            return tensor
    first = describe_call(calls[0])
    raise NoBlocks(f"nothing is computed from all of the block with number {number}, such as {first}")


def _only(graph: Graph, dominators: PostDominators, calls: list[Call], end: keras.KerasTensor) -> GraphBlock:
    """Return the shortest block that ends in a tensor and holds the calls: it has no other to be compared with."""
    named = {id(call) for call in calls}
    starts = (tensor for source in graph.model.inputs for tensor in dominators.chain(source))
    blocks = [GraphBlock(tuple(between(graph, entry=tensor, end=end)), tensor, end) for tensor in starts]
    whole = [block for block in blocks if named <= {id(call) for call in block.calls}]
    if not whole:
        raise NoBlocks("it finds one block only, and where this starts cannot be told")
    return min(whole, key=lambda block: len(block.calls))

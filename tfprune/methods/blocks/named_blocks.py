"""Blocks by the names of their layers: a regular expression, whose group is the number of the block."""

from __future__ import annotations

import re

import keras

from tfprune.keras_models.models.graph import Call, Graph
from tfprune.methods.blocks.block import Block, NoBlocks, between, entry_like, label
from tfprune.methods.blocks.post_dominators import Cuts


def named_blocks(graph: Graph, pattern: re.Pattern[str]) -> list[Block]:
    """Return the blocks whose layers a regular expression finds, in the order of their numbers.

    Raises:
        NoBlocks: If it finds none, or what it finds makes no blocks.
    """
    if pattern.groups != 1:
        raise NoBlocks(f"the expression has {pattern.groups} groups, and needs one, for the block's number")
    numbered: dict[int, list[Call]] = {}
    for call in graph.calls:
        number = _number(call, pattern)
        if number is not None:
            numbered.setdefault(number, []).append(call)
    if not numbered:
        names = [call.layer.name for call in graph.calls if isinstance(call.layer, keras.layers.Layer)]
        raise NoBlocks(f"it finds none of the layers {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")
    cuts = Cuts(graph)
    ends = [_end(graph, cuts, numbered[number], number) for number in sorted(numbered)]
    if len(ends) == 1:
        return [_only(graph, cuts, next(iter(numbered.values())), ends[0])]
    later = [
        Block(tuple(between(graph, entry=entry, end=end)), entry, end)
        for entry, end in zip(ends[:-1], ends[1:], strict=True)
    ]
    for block, number in zip(later, sorted(numbered)[1:], strict=True):
        if not block.calls:
            raise NoBlocks(f"the block with number {number} does not read the block before it")
    entry = entry_like(graph, later[0], end=ends[0])
    return [Block(tuple(between(graph, entry=entry, end=ends[0])), entry, ends[0]), *later]


def _number(call: Call, pattern: re.Pattern[str]) -> int | None:
    found = pattern.search(call.layer.name) if isinstance(call.layer, keras.layers.Layer) else None
    if found is None:
        return None
    if found[1] is None or not found[1].isdecimal():
        raise NoBlocks(f"its group finds {found[1]!r} in {call.layer.name!r}, which is not a number")
    return int(found[1])


def _end(graph: Graph, cuts: Cuts, calls: list[Call], number: int) -> keras.KerasTensor:
    """Return the first tensor after a block that everything goes through which comes from an input of the model."""
    first = cuts.after_all(calls)
    chains = {id(tensor) for source in graph.model.inputs for tensor in cuts.chain(source)}
    for tensor in cuts.following(first):
        if id(tensor) in chains:
            return tensor
    raise NoBlocks(f"nothing is computed from all of the block with number {number}, such as {label(calls[0])}")


def _only(graph: Graph, cuts: Cuts, calls: list[Call], end: keras.KerasTensor) -> Block:
    """Return a block that stands alone: it starts from the last cut before its layers."""
    named = {id(call) for call in calls}
    found: keras.KerasTensor | None = None
    for source in graph.model.inputs:
        for tensor in cuts.chain(source):
            inside = {id(call) for call in between(graph, entry=tensor, end=end)}
            if named <= inside and (found is None or len(inside) < len(between(graph, entry=found, end=end))):
                found = tensor
    if found is None:
        raise NoBlocks("it finds one block only, and where this starts cannot be told")
    return Block(tuple(between(graph, entry=found, end=end)), found, end)

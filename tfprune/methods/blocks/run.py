"""Run a graph with its blocks in another order, on symbolic tensors or on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call
from tfprune.methods.blocks.block import below
from tfprune.methods.blocks.find_blocks import Blocks

Perform = Callable[[Call, int | None], Any]  # what is called in place of a call, at a place among the blocks


@dataclass(frozen=True, eq=False)
class Values:
    """What a run computed.

    Attributes:
        outputs: The outputs of the model, in order.
        stream: What goes into the first block, and what each block hands on.
        context: What is computed outside of the blocks before they run, by the id of the tensor.
    """

    outputs: list[Any]
    stream: list[Any]
    context: dict[int, Any]


def as_they_are(call: Call, place: int | None) -> Any:
    """Perform a call by its own layer."""
    return call.layer


def run(found: Blocks, order: Sequence[int], *, inputs: Sequence[Any], perform: Perform = as_they_are) -> Values:
    """Run a graph with other blocks than it has.

    Args:
        found: The graph and its blocks.
        order: The numbers of the blocks to run, one after the other.
        inputs: A tensor or array for each input of the model.
        perform: Returns what is called in place of a call: see `Perform`; the place is None outside of blocks.
    """
    graph, blocks = found.graph, found.blocks
    inside = found.inside()
    late = {id(call) for call in below(graph, [block.end for block in blocks])}
    outside = [call for call in graph.calls if id(call) not in inside]
    values = dict(zip(map(id, graph.model.inputs), inputs, strict=True))
    for call in outside:
        if id(call) not in late:
            _call(call, values, perform(call, None))
    context, first = dict(values), values[id(blocks[0].entry)]
    stream, last = [first], {}
    for place, number in enumerate(order):

        def own(call: Call, place: int = place) -> Any:
            return perform(call, place)

        stream.append(run_block(found, number, entry=stream[-1], context=context, perform=own))
        last[number] = stream[-1]
    handed = first
    for number, block in enumerate(blocks):  # what was read of a block that is gone is what came before it
        handed = last.get(number, handed)
        values[id(block.end)] = handed if number < len(blocks) - 1 else stream[-1]
    for call in outside:
        if id(call) in late:
            _call(call, values, perform(call, None))
    return Values([values[id(tensor)] for tensor in graph.model.outputs], stream, context)


def run_block(
    found: Blocks, number: int, *, entry: Any, context: dict[int, Any], perform: Callable[[Call], Any]
) -> Any:
    """Return what a block hands on.

    Args:
        found: The graph and its blocks.
        number: Which block.
        entry: What goes into it.
        context: What is computed outside of the blocks.
        perform: Returns what is called in place of a call.
    """
    block = found.blocks[number]
    values = {**context, id(block.entry): entry}
    for call in block.calls:
        _call(call, values, perform(call))
    return values[id(block.end)]


def _call(call: Call, values: dict[int, Any], function: Any) -> None:
    def value(leaf: Any) -> Any:
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
    returned = keras.tree.flatten(function(*args, **kwargs))
    values.update(zip(map(id, call.outputs), returned, strict=True))

"""The repeated blocks of a model, run in any order, on symbolic tensors or on arrays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call, Graph
from tfprune.methods.growth.graph_block import GraphBlock, descendants

Perform = Callable[[Call, int | None], Any]  # returns what to call for a call, at an index among the blocks
NameAt = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Values:
    """The values that a run computed.

    Attributes:
        outputs: The outputs of the model, in order.
        stream: The input of the first block, and the output of each block.
        context: The values computed outside of the blocks before these run, by the id of the tensor.
    """

    outputs: list[Any]
    stream: list[Any]
    context: dict[int, Any]


def own_layer(call: Call, index: int | None) -> Any:
    """Perform a call by its own layer."""
    return call.layer


@dataclass(frozen=True, eq=False)
class Blocks:
    """The repeated blocks in the graph of a copy of a model.

    Attributes:
        copy: The copy, of the same kind as the model, wrappers included.
        graph: The calls of its layers, those of nested models included.
        blocks: The blocks in the order in which they are called, built alike.
        flatten: Returns the flat model that is traced, for the copy or for a model of the same class.
    """

    copy: keras.Model
    graph: Graph
    blocks: tuple[GraphBlock, ...]
    flatten: Callable[[keras.Model], keras.Model]

    @cached_property
    def inside(self) -> set[int]:
        """The ids of the calls in blocks."""
        return {id(call) for block in self.blocks for call in block.calls}

    @cached_property
    def outside(self) -> list[Call]:
        """The calls outside of the blocks, in order."""
        return [call for call in self.graph.calls if id(call) not in self.inside]

    def is_shared(self, layer: Any) -> bool:
        """Tell whether several blocks call a layer, or a block and the rest, so that all of its copies are one."""
        return self._users[id(layer)] > 1

    @cached_property
    def _users(self) -> Counter[int]:
        """The number of blocks, the rest of the graph counted as one, that call a layer, by its id."""
        uses = {(id(call.layer), index) for index, block in enumerate(self.blocks) for call in block.calls}
        return Counter(layer for layer, _ in uses | {(id(call.layer), -1) for call in self.outside})

    def names(self) -> list[NameAt | None]:
        """Return for each part of a block the function from index to name; None where the name has no number."""
        parts = zip(*(block.calls for block in self.blocks), strict=True)
        return [numbered([call.layer.name for call in calls]) for calls in parts]

    def run(self, order: Sequence[int], *, inputs: Sequence[Any], perform: Perform = own_layer) -> Values:
        """Run the graph with other blocks than it has.

        Args:
            order: The numbers of the blocks to run, one after the other.
            inputs: A tensor or array for each input of the model.
            perform: Returns the function that is called for a call: see `Perform`; the index is None outside of the
                blocks.
        """
        late = {id(call) for call in descendants(self.graph, [block.end for block in self.blocks])}
        values = dict(zip(map(id, self.graph.model.inputs), inputs, strict=True))
        for call in self.outside:
            if id(call) not in late:
                _call(call, values, perform(call, None))
        context, first = dict(values), values[id(self.blocks[0].entry)]
        stream, last = [first], {}
        for index, number in enumerate(order):

            def own(call: Call, index: int = index) -> Any:
                return perform(call, index)

            stream.append(self.run_block(number, entry=stream[-1], context=context, perform=own))
            last[number] = stream[-1]
        returned = first
        for number, block in enumerate(self.blocks):  # readers of a dropped block get the output of the one before
            returned = last.get(number, returned)
            values[id(block.end)] = returned if number < len(self.blocks) - 1 else stream[-1]
        for call in self.outside:
            if id(call) in late:
                _call(call, values, perform(call, None))
        return Values([values[id(tensor)] for tensor in self.graph.model.outputs], stream, context)

    def run_block(self, number: int, *, entry: Any, context: dict[int, Any], perform: Callable[[Call], Any]) -> Any:
        """Return the output of a block.

        Args:
            number: The number of the block.
            entry: The input of the block.
            context: The values computed outside of the blocks.
            perform: Returns the function that is called for a call.
        """
        block = self.blocks[number]
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


def numbered(names: Sequence[str]) -> NameAt | None:
    """Return the function from index to name, for names that count; None if they do not.

    Example:
        >>> name_at = numbered(["block_1_norm2", "block_2_norm2"])
        >>> name_at(4)
        'block_5_norm2'
    """
    for digits in re.finditer(r"\d+", names[0]):
        before, after = names[0][: digits.start()], names[0][digits.end() :]
        width, first = len(digits[0]), int(digits[0])

        def name_at(index: int, *, around: tuple = (before, after), start: tuple = (first, width)) -> str:
            return f"{around[0]}{start[0] + index:0{start[1]}d}{around[1]}"

        if [name_at(index) for index in range(len(names))] == list(names):
            return name_at
    return None

"""Find the repeated blocks of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from tfprune.base.spec import check_regex
from tfprune.keras_models.models.copyable import check_model
from tfprune.keras_models.models.graph import Call, Graph, flatten, trace_to_run
from tfprune.keras_models.models.kinds import as_graph, check_keras
from tfprune.keras_models.models.layers import sublayers
from tfprune.keras_models.tracing.open_layers import open_layers
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.methods.blocks.block import Block, NoBlocks, aligned, below, label, with_own_context
from tfprune.methods.blocks.named_blocks import named_blocks
from tfprune.methods.blocks.repeated_blocks import repeated_blocks


@dataclass(frozen=True, eq=False)
class Blocks:
    """The repeated blocks in the graph of a copy of a model.

    Attributes:
        copy: The copy, of the same kind as the model, wrappers included.
        graph: The calls of its layers, those of models in it included.
        blocks: The blocks in the order in which they are called, built alike.
        flat: Returns the model whose calls are looked at, of the copy or of one of the same class.
    """

    copy: keras.Model
    graph: Graph
    blocks: tuple[Block, ...]
    flat: Callable[[keras.Model], keras.Model]

    def inside(self) -> set[int]:
        """Return the ids of the calls in blocks."""
        return {id(call) for block in self.blocks for call in block.calls}

    def is_shared(self, layer: Any) -> bool:
        """Tell whether a layer is called in several places, so that all of its copies are one."""
        return self._counts[id(layer)] > 1

    @cached_property
    def _counts(self) -> Counter[int]:
        """In how many blocks, and outside of them, each layer is called, by its id."""
        places = [*((id(call.layer), index) for index, block in enumerate(self.blocks) for call in block.calls)]
        inside = self.inside()
        places += [(id(call.layer), -1) for call in self.graph.calls if id(call) not in inside]
        return Counter(layer for layer, _ in set(places))


def find_blocks(model: keras.Model, pattern: str | None) -> Blocks:
    """Return the repeated blocks of a model, in a copy of it.

    Args:
        model: A built model. It is left untouched.
        pattern: A regular expression for the names of the layers in blocks, whose group is the number of the block;
            None finds what repeats.

    Raises:
        TypeError: If it is not a Keras model, or the pattern is not a string.
        ValueError: If the model is not a graph, or has no repeated blocks; what stands in the way is named.
    """
    check_keras(model)
    expression = None if pattern is None else check_regex(pattern, "`blocks`")
    if as_graph(model) is None:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass, such as a backbone of "
            f"KerasHub. Received: {model.name!r} of class {type(model).__name__}, whose calls cannot be followed. "
            f"Build it as keras.Model(inputs, outputs)."
        )
    check_model(model)
    copy = copy_with(model, lambda path, layer: None)
    reasons = []
    for flat in (_flat, _opened):
        graph = trace_to_run(flat(copy))
        try:
            found = repeated_blocks(graph) if expression is None else named_blocks(graph, expression)
            return Blocks(copy, graph, tuple(_checked(graph, found)), flat)
        except NoBlocks as reason:
            reasons.append(str(reason))
    received = f"{model.name!r}" if pattern is None else f"blocks={pattern!r} for {model.name!r}"
    raise ValueError(
        f"Expected a model of repeated blocks, one after the other. Received: {received}, where {reasons[0]}. Name "
        f"the layers of each block with its number, and pass, for example, blocks=r'block_(\\d+)_'."
    )


def _flat(model: keras.Model) -> keras.Model:
    return flatten(model, opens=lambda layer: as_graph(layer) is not None)


def _opened(model: keras.Model) -> keras.Model:
    """Return the graph in which a layer is opened that holds several large ones of one class, as blocks in a list."""
    flat = _flat(model)
    opened = open_layers(flat, is_known=lambda layer: not _is_stack(layer))
    return opened.model if opened.is_open_shaped else flat


def _is_stack(layer: keras.layers.Layer) -> bool:
    classes = Counter(type(part) for part in sublayers(layer) if part.weights and sublayers(part))
    return max(classes.values(), default=0) > 1


def _checked(graph: Graph, found: list[Block]) -> list[Block]:
    """Return blocks with all that belongs to each of them, in one order; refuse what cannot be put in another."""
    whole = [
        Block(tuple(with_own_context(graph, block.calls, entry=block.entry)), block.entry, block.end)
        for block in found
    ]
    alike = [whole[0], *(aligned(graph, block, model=whole[0]) for block in whole[1:])]
    dependent = {id(call) for call in below(graph, [found[0].entry])}
    for index, block in enumerate(alike):
        is_float = [keras.backend.is_float_dtype(one.dtype) for one in (block.entry, block.end)]  # of any precision
        if block.entry.shape != block.end.shape or is_float[0] != is_float[1]:
            raise NoBlocks(
                f"block {index} makes {tuple(block.end.shape)} of {tuple(block.entry.shape)}, and these would have "
                f"to be the same"
            )
        inside = {id(call) for call in block.calls}
        for call in block.calls:
            _check_reads(graph, call, block, inside=inside, dependent=dependent, index=index)
            _check_readers(graph, call, block, inside=inside, index=index)
    _check_entries(graph, alike)
    return alike


def _check_reads(
    graph: Graph, call: Call, block: Block, *, inside: set[int], dependent: set[int], index: int
) -> None:
    """Refuse a block that reads, besides its entry, what comes from other blocks."""
    for tensor in call.inputs:
        maker = graph.producer(tensor)
        if tensor is not block.entry and id(maker) not in inside and id(maker) in dependent:
            raise NoBlocks(f"{label(call)} in block {index} reads {label(maker)}, which is not the block before it")


def _check_readers(graph: Graph, call: Call, block: Block, *, inside: set[int], index: int) -> None:
    """Refuse a block of which something besides its end is read elsewhere."""
    if graph.producer(block.end) is call:
        return
    outside = [taker for taker in graph.consumers(call) if id(taker) not in inside]
    if outside or graph.is_output(call):
        reader = label(outside[0]) if outside else "an output of the model"
        raise NoBlocks(f"{label(call)} inside of block {index} is also read by {reader}")


def _check_entries(graph: Graph, blocks: list[Block]) -> None:
    """Refuse blocks that read the entry of another one, besides their own."""
    for index, block in enumerate(blocks):
        for later in (other for other in blocks if other is not block):
            readers = [call for call in later.calls if any(tensor is block.entry for tensor in call.inputs)]
            if readers:
                raise NoBlocks(f"{label(readers[0])} also reads what block {index} starts from")

"""Find the repeated blocks of a model."""

from __future__ import annotations

from collections import Counter

import keras

from tfprune.base.spec import check_regex
from tfprune.keras_models.models.anatomy import Anatomy, check_model, kind_of
from tfprune.keras_models.models.graph import Call, Graph, flatten, trace_to_run
from tfprune.keras_models.models.layers import sublayers
from tfprune.keras_models.tracing.open_layers import open_layers
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.graph_block import (
    GraphBlock,
    NoBlocks,
    align,
    descendants,
    describe_call,
    with_own_context,
)
from tfprune.methods.growth.named_blocks import named_blocks
from tfprune.methods.growth.repeated_blocks import repeated_blocks


def find_blocks(model: keras.Model, pattern: str | None) -> Blocks:
    """Find the repeated blocks of a model, in a copy of it.

    Args:
        model: A built model. It is left untouched.
        pattern: A regular expression for the names of the layers in blocks, whose group is the number of the block;
            None searches for parts that repeat.

    Raises:
        TypeError: If it is not a Keras model, or the pattern is not a string.
        ValueError: If the model is not a graph, or has no repeated blocks; the message gives the reason.
    """
    anatomy = Anatomy.of(model)
    expression = None if pattern is None else check_regex(pattern, "`blocks`")
    if not anatomy.kind.has_graph:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass, such as a backbone of "
            f"KerasHub. Received: {model.name!r} of class {type(model).__name__}, whose calls cannot be followed. "
            f"Build it as keras.Model(inputs, outputs)."
        )
    check_model(anatomy)
    copy = copy_with(anatomy)
    reasons = []
    for flat in (_flat, _with_stacks_open):
        graph = trace_to_run(flat(copy))
        try:
            blocks = repeated_blocks(graph) if expression is None else named_blocks(graph, expression)
            return Blocks(copy, graph, tuple(_complete(graph, blocks)), flat)
        except NoBlocks as reason:
            reasons.append(str(reason))
    received = f"{model.name!r}" if pattern is None else f"blocks={pattern!r} for {model.name!r}"
    raise ValueError(
        f"Expected a model of repeated blocks, one after the other. Received: {received}, where {reasons[0]}. Name "
        f"the layers of each block with its number, and pass, for example, blocks=r'block_(\\d+)_'."
    )


def _flat(model: keras.Model) -> keras.Model:
    return flatten(model, opens=lambda layer: kind_of(layer).has_graph)


def _with_stacks_open(model: keras.Model) -> keras.Model:
    """Flatten a model; also open each layer that holds several large layers of one class, as blocks in a list."""
    flat = _flat(model)
    opened = open_layers(flat, is_known=lambda layer: not _is_stack(layer))
    return opened.model if opened.is_open_shaped else flat


def _is_stack(layer: keras.layers.Layer) -> bool:
    classes = Counter(type(part) for part in sublayers(layer) if part.weights and sublayers(part))
    return max(classes.values(), default=0) > 1


def _complete(graph: Graph, blocks: list[GraphBlock]) -> list[GraphBlock]:
    """Return blocks with the context of each and calls in the same order; refuse what cannot be reordered."""
    whole = [
        GraphBlock(tuple(with_own_context(graph, block.calls, entry=block.entry)), block.entry, block.end)
        for block in blocks
    ]
    alike = [whole[0], *(align(graph, block, template=whole[0]) for block in whole[1:])]
    dependent = {id(call) for call in descendants(graph, [blocks[0].entry])}
    for index, block in enumerate(alike):
        _check_shapes(block, index=index)
        inside = {id(call) for call in block.calls}
        for call in block.calls:
            _check_reads(graph, call, block, inside=inside, dependent=dependent, index=index)
            _check_readers(graph, call, block, inside=inside, index=index)
    _check_entries(graph, alike)
    return alike


def _check_shapes(block: GraphBlock, *, index: int) -> None:
    """Refuse a block whose output another block cannot read; floats of two precisions are alike."""
    is_float = [keras.backend.is_float_dtype(tensor.dtype) for tensor in (block.entry, block.end)]
    if block.entry.shape != block.end.shape or is_float[0] != is_float[1]:
        raise NoBlocks(
            f"block {index} makes {tuple(block.end.shape)} of {tuple(block.entry.shape)}, and these would have to be "
            f"the same"
        )


def _check_reads(
    graph: Graph, call: Call, block: GraphBlock, *, inside: set[int], dependent: set[int], index: int
) -> None:
    """Refuse a block that reads something other than its entry from other blocks."""
    for tensor in call.inputs:
        maker = graph.producer(tensor)
        if tensor is not block.entry and id(maker) not in inside and id(maker) in dependent:
            reader = f"{describe_call(call)} in block {index}"
            raise NoBlocks(f"{reader} reads {describe_call(maker)}, which is not the block before it")


def _check_readers(graph: Graph, call: Call, block: GraphBlock, *, inside: set[int], index: int) -> None:
    """Refuse a block if something other than its end is read elsewhere."""
    if graph.producer(block.end) is call:
        return
    outside = [reader for reader in graph.consumers(call) if id(reader) not in inside]
    if outside or graph.is_output(call):
        reader = describe_call(outside[0]) if outside else "an output of the model"
        raise NoBlocks(f"{describe_call(call)} inside of block {index} is also read by {reader}")


def _check_entries(graph: Graph, blocks: list[GraphBlock]) -> None:
    """Refuse blocks that read the entry of another one, besides their own."""
    for index, block in enumerate(blocks):
        for other in (other for other in blocks if other is not block):
            readers = [call for call in other.calls if any(tensor is block.entry for tensor in call.inputs)]
            if readers:
                raise NoBlocks(f"{describe_call(readers[0])} also reads what block {index} starts from")

"""The repeated blocks of a model: found by names or because they repeat, run in any order, and ranked."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count, check_regex
from tfprune.masking.strip import copy_with
from tfprune.models.anatomy import Anatomy, as_numpy, check_model, kernels, kind_of, sublayers
from tfprune.models.graph import Call, Graph, flatten, trace_to_run
from tfprune.models.tracing import open_layers
from tfprune.models.training import Batches, batch_loss, check_token_ids, loss_of, token_masks, without_padding
from tfprune.models.twin import layer_inside
from tfprune.report import Report, table

# A block of a graph: the calls between two tensors, where it can end, and whether two blocks are built alike.


@dataclass(frozen=True, eq=False)
class _GraphBlock:
    """The calls between two tensors.

    Attributes:
        calls: The calls in an order in which they can be made; an index is the same part in every block.
        entry: The tensor that the block reads from the block before it.
        end: The tensor that the next block reads.
    """

    calls: tuple[Call, ...]
    entry: keras.KerasTensor
    end: keras.KerasTensor


class _NoBlocks(ValueError):  # noqa: N818
    """The reason why calls are not blocks."""


def _describe_call(call: Any) -> str:
    """Name a call in messages."""
    return f"{call.layer.name!r} ({type(layer_inside(call.layer)).__name__})"


def _descendants(graph: Graph, tensors: Iterable[keras.KerasTensor]) -> list[Call]:
    """Return the calls that depend on at least one of the tensors, in order."""
    reached, calls = {id(tensor) for tensor in tensors}, []
    for call in graph.calls:
        if any(id(tensor) in reached for tensor in call.inputs):
            reached |= {id(tensor) for tensor in call.outputs}
            calls.append(call)
    return calls


def _ancestors(calls: Sequence[Call], tensor: keras.KerasTensor) -> list[Call]:
    """Return those of the calls that a tensor depends on, in order."""
    needed, sources = {id(tensor)}, []
    for call in reversed(calls):
        if any(id(output) in needed for output in call.outputs):
            needed |= {id(source) for source in call.inputs}
            sources.append(call)
    return sources[::-1]


def _between(graph: Graph, *, entry: keras.KerasTensor, end: keras.KerasTensor) -> list[Call]:
    """Return the calls on the paths from one tensor to another."""
    return _ancestors(_descendants(graph, [entry]), end)


def _with_own_context(graph: Graph, calls: Sequence[Call], *, entry: keras.KerasTensor) -> list[Call]:
    """Add to the calls of a block those that only it reads, and that do not depend on the blocks before it."""
    own = {id(call) for call in calls}
    before = {id(call) for call in _ancestors(graph.calls, entry)}
    for call in reversed(graph.calls):
        readers = graph.consumers(call)
        is_read = readers and not graph.is_output(call) and id(call) not in before
        if is_read and all(id(reader) in own for reader in readers):
            own.add(id(call))
    return [call for call in graph.calls if id(call) in own]


def _entry_like(graph: Graph, template: _GraphBlock, *, end: keras.KerasTensor) -> keras.KerasTensor:
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
        end_of_block = _describe_call(graph.producer(end))
        raise _NoBlocks(f"the block that ends in {end_of_block} starts from {len(entries)} tensors")
    return next(iter(entries.values()))


def _align(graph: Graph, block: _GraphBlock, *, template: _GraphBlock) -> _GraphBlock:
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
                raise _NoBlocks(f"{_describe_call(call)} is read in another way than {_describe_call(counterpart)}")
            continue
        _check_alike(call, counterpart)
        counterparts[id(call)] = counterpart
        for sources in zip(call.inputs, counterpart.inputs, strict=True):
            makers = [graph.producer(tensor) for tensor in sources]
            is_inside = [id(maker) in inside for maker, inside in zip(makers, insides, strict=True)]
            if is_inside[0] != is_inside[1]:
                raise _NoBlocks(f"{_describe_call(call)} reads other things than {_describe_call(counterpart)}")
            if is_inside[0]:
                pairs.append((makers[0], makers[1]))
    return _GraphBlock(tuple(counterparts[id(call)] for call in template.calls), block.entry, block.end)


def _check_alike(call: Any, counterpart: Any) -> None:
    if call is None or counterpart is None:
        raise _NoBlocks(
            f"an input of the model stands where the other block has {_describe_call(call or counterpart)}"
        )
    is_same_class = type(layer_inside(call.layer)) is type(layer_inside(counterpart.layer))
    if not is_same_class or len(call.inputs) != len(counterpart.inputs):
        raise _NoBlocks(f"{_describe_call(counterpart)} stands where the other block has {_describe_call(call)}")


class _PostDominators:
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


# The repeated blocks of a model, run in any order, on symbolic tensors or on arrays.

_Perform = Callable[[Call, int | None], Any]  # returns what to call for a call, at an index among the blocks
_NameAt = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class _Values:
    """The values that a run computed.

    Attributes:
        outputs: The outputs of the model, in order.
        stream: The input of the first block, and the output of each block.
        context: The values computed outside of the blocks before these run, by the id of the tensor.
    """

    outputs: list[Any]
    stream: list[Any]
    context: dict[int, Any]


def _own_layer(call: Call, index: int | None) -> Any:
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
    blocks: tuple[_GraphBlock, ...]
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
        """Return True if several blocks call a layer, or a block and the rest, so that all of its copies are one."""
        return self._users[id(layer)] > 1

    @cached_property
    def _users(self) -> Counter[int]:
        """The number of blocks, the rest of the graph counted as one, that call a layer, by its id."""
        uses = {(id(call.layer), index) for index, block in enumerate(self.blocks) for call in block.calls}
        return Counter(layer for layer, _ in uses | {(id(call.layer), -1) for call in self.outside})

    def names(self) -> list[_NameAt | None]:
        """Return for each part of a block the function from index to name; None where the name has no number."""
        parts = zip(*(block.calls for block in self.blocks), strict=True)
        return [_numbered([call.layer.name for call in calls]) for calls in parts]

    def run(self, order: Sequence[int], *, inputs: Sequence[Any], perform: _Perform = _own_layer) -> _Values:
        """Run the graph with other blocks than it has.

        Args:
            order: The numbers of the blocks to run, one after the other.
            inputs: A tensor or array for each input of the model.
            perform: Returns the function that is called for a call: see `_Perform`; the index is None outside of the
                blocks.
        """
        late = {id(call) for call in _descendants(self.graph, [block.end for block in self.blocks])}
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
        return _Values([values[id(tensor)] for tensor in self.graph.model.outputs], stream, context)

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


def _numbered(names: Sequence[str]) -> _NameAt | None:
    """Return the function from index to name, for names that count; None if they do not.

    Example:
        >>> name_at = _numbered(["block_1_norm2", "block_2_norm2"])
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


# Blocks by the names of their layers: a regular expression, whose group is the number of the block.


def _named_blocks(graph: Graph, pattern: re.Pattern[str]) -> list[_GraphBlock]:
    """Return the blocks whose layers a regular expression matches, in the order of their numbers.

    Raises:
        NoBlocks: If it matches none, or the layers are not blocks.
    """
    if pattern.groups != 1:
        raise _NoBlocks(f"the expression has {pattern.groups} groups, and needs one, for the block's number")
    calls_of: dict[int, list[Call]] = {}
    for call in graph.calls:
        number = _number(call, pattern)
        if number is not None:
            calls_of.setdefault(number, []).append(call)
    if not calls_of:
        names = [call.layer.name for call in graph.calls if isinstance(call.layer, keras.layers.Layer)]
        raise _NoBlocks(f"it finds none of the layers {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")
    dominators = _PostDominators(graph)
    ends = [_end(graph, dominators, calls_of[number], number) for number in sorted(calls_of)]
    if len(ends) == 1:
        return [_only(graph, dominators, next(iter(calls_of.values())), ends[0])]
    later = [
        _GraphBlock(tuple(_between(graph, entry=entry, end=end)), entry, end)
        for entry, end in zip(ends[:-1], ends[1:], strict=True)
    ]
    for block, number in zip(later, sorted(calls_of)[1:], strict=True):
        if not block.calls:
            raise _NoBlocks(f"the block with number {number} does not read the block before it")
    entry = _entry_like(graph, later[0], end=ends[0])
    return [_GraphBlock(tuple(_between(graph, entry=entry, end=ends[0])), entry, ends[0]), *later]


def _number(call: Call, pattern: re.Pattern[str]) -> int | None:
    match = pattern.search(call.layer.name) if isinstance(call.layer, keras.layers.Layer) else None
    if match is None:
        return None
    if match[1] is None or not match[1].isdecimal():
        raise _NoBlocks(f"its group finds {match[1]!r} in {call.layer.name!r}, which is not a number")
    return int(match[1])


def _end(graph: Graph, dominators: _PostDominators, calls: list[Call], number: int) -> keras.KerasTensor:
    """Return the first tensor after a block that all paths from an input of the model go through."""
    chains = {id(tensor) for source in graph.model.inputs for tensor in dominators.chain(source)}
    for tensor in dominators.following(dominators.common(calls)):
        if id(tensor) in chains:
            return tensor
    first = _describe_call(calls[0])
    raise _NoBlocks(f"nothing is computed from all of the block with number {number}, such as {first}")


def _only(graph: Graph, dominators: _PostDominators, calls: list[Call], end: keras.KerasTensor) -> _GraphBlock:
    """Return the shortest block that ends in a tensor and holds the calls: it has no other to be compared with."""
    named = {id(call) for call in calls}
    starts = (tensor for source in graph.model.inputs for tensor in dominators.chain(source))
    blocks = [_GraphBlock(tuple(_between(graph, entry=tensor, end=end)), tensor, end) for tensor in starts]
    whole = [block for block in blocks if named <= {id(call) for call in block.calls}]
    if not whole:
        raise _NoBlocks("it finds one block only, and where this starts cannot be told")
    return min(whole, key=lambda block: len(block.calls))


# Blocks without names: parts that repeat along the tensors that all paths go through.

_RIVAL_WEIGHT_FRACTION = 0.25  # a second group of this size is the user's choice, not ours


@dataclass(frozen=True, eq=False)
class _Run:
    """A part of a chain of tensors that repeats: `count` times `period` steps from step `start`."""

    chain: list[keras.KerasTensor]
    calls: list[list[Call]]
    start: int
    period: int
    count: int

    @property
    def inside(self) -> list[Call]:
        steps = self.calls[self.start : self.start + self.period * self.count]
        return [call for step in steps for call in step]

    @property
    def weights(self) -> int:
        return sum(call.layer.count_params() for call in self.inside if isinstance(call.layer, keras.layers.Layer))

    def blocks(self) -> list[_GraphBlock]:
        ends = self.chain[self.start :: self.period][: self.count + 1]
        steps = [self.calls[self.start + index * self.period :][: self.period] for index in range(self.count)]
        return [
            _GraphBlock(tuple(call for part in step for call in part), entry, end)
            for step, entry, end in zip(steps, ends[:-1], ends[1:], strict=True)
        ]


def _repeated_blocks(graph: Graph) -> list[_GraphBlock]:
    """Return the largest group of blocks that repeat: the most weights, in the most blocks.

    Raises:
        NoBlocks: If none repeats, or several groups do.
    """
    runs = sorted((run for run in _runs(graph) if run.weights), key=lambda run: (-run.weights, run.period, run.start))
    if not runs:
        raise _NoBlocks("no part with weights is followed by one that is built alike")
    best = runs[0]
    inside = {id(call) for call in best.inside}
    for run in runs[1:]:
        if run.weights >= _RIVAL_WEIGHT_FRACTION * best.weights and not inside & {id(call) for call in run.inside}:
            raise _NoBlocks(
                f"several groups of blocks repeat: {best.count} that begin with {_describe_call(best.inside[0])}, "
                f"and {run.count} that begin with {_describe_call(run.inside[0])}"
            )
    return best.blocks()


def _runs(graph: Graph) -> Iterator[_Run]:
    dominators = _PostDominators(graph)
    for source in graph.model.inputs:
        chain = dominators.chain(source)
        calls = [_between(graph, entry=entry, end=end) for entry, end in itertools.pairwise(chain)]
        yield from _repeating(chain, calls)


def _repeating(chain: list[keras.KerasTensor], calls: list[list[Call]]) -> Iterator[_Run]:
    """Yield the longest runs of blocks that are built alike, for each number of steps in a block.

    The tensors between blocks have one shape. Inside of them weights may differ in size, or be gone, as heads are.
    """
    kinds = [tuple(map(_kind, step)) for step in calls]
    for period in range(1, len(kinds) // 2 + 1):
        start = 0
        while start + 2 * period <= len(kinds):
            end = start
            while end + period < len(kinds) and kinds[end] == kinds[end + period]:
                end += 1
            phases = [range(first, end + period + 1, period) for first in range(start, min(start + period, end + 1))]
            groups = [_of_one_shape(chain, bounds) for bounds in phases]
            best = max(groups, key=lambda runs: sum(map(len, runs)), default=[])
            yield from (_Run(chain, calls, bounds[0], period, len(bounds) - 1) for bounds in best)
            start = max(end, start) + 1


def _of_one_shape(chain: list[keras.KerasTensor], bounds: range) -> list[list[int]]:
    """Return the runs of two blocks or more between tensors of one shape, as the numbers of these tensors."""
    runs = [list(run) for _, run in itertools.groupby(bounds, key=lambda bound: tuple(chain[bound].shape))]
    return [run for run in runs if len(run) > 2]


def _kind(call: Call) -> tuple:
    return type(layer_inside(call.layer)), len(call.inputs)


# Find the repeated blocks of a model.


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
    expression = None if pattern is None else check_regex(pattern, "blocks")
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
            blocks = _repeated_blocks(graph) if expression is None else _named_blocks(graph, expression)
            return Blocks(copy, graph, tuple(_complete(graph, blocks)), flat)
        except _NoBlocks as reason:
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


def _complete(graph: Graph, blocks: list[_GraphBlock]) -> list[_GraphBlock]:
    """Return blocks with the context of each and calls in the same order; refuse what cannot be reordered."""
    whole = [
        _GraphBlock(tuple(_with_own_context(graph, block.calls, entry=block.entry)), block.entry, block.end)
        for block in blocks
    ]
    alike = [whole[0], *(_align(graph, block, template=whole[0]) for block in whole[1:])]
    dependent = {id(call) for call in _descendants(graph, [blocks[0].entry])}
    for index, block in enumerate(alike):
        _check_shapes(block, index=index)
        inside = {id(call) for call in block.calls}
        for call in block.calls:
            _check_reads(graph, call, block, inside=inside, dependent=dependent, index=index)
            _check_readers(graph, call, block, inside=inside, index=index)
    _check_entries(graph, alike)
    return alike


def _check_shapes(block: _GraphBlock, *, index: int) -> None:
    """Refuse a block whose output another block cannot read; floats of two precisions are alike."""
    is_float = [keras.backend.is_float_dtype(tensor.dtype) for tensor in (block.entry, block.end)]
    if block.entry.shape != block.end.shape or is_float[0] != is_float[1]:
        raise _NoBlocks(
            f"block {index} makes {tuple(block.end.shape)} of {tuple(block.entry.shape)}, and these would have to be "
            f"the same"
        )


def _check_reads(
    graph: Graph, call: Call, block: _GraphBlock, *, inside: set[int], dependent: set[int], index: int
) -> None:
    """Refuse a block that reads something other than its entry from other blocks."""
    for tensor in call.inputs:
        maker = graph.producer(tensor)
        if tensor is not block.entry and id(maker) not in inside and id(maker) in dependent:
            reader = f"{_describe_call(call)} in block {index}"
            raise _NoBlocks(f"{reader} reads {_describe_call(maker)}, which is not the block before it")


def _check_readers(graph: Graph, call: Call, block: _GraphBlock, *, inside: set[int], index: int) -> None:
    """Refuse a block if something other than its end is read elsewhere."""
    if graph.producer(block.end) is call:
        return
    outside = [reader for reader in graph.consumers(call) if id(reader) not in inside]
    if outside or graph.is_output(call):
        reader = _describe_call(outside[0]) if outside else "an output of the model"
        raise _NoBlocks(f"{_describe_call(call)} inside of block {index} is also read by {reader}")


def _check_entries(graph: Graph, blocks: list[_GraphBlock]) -> None:
    """Refuse blocks that read the entry of another one, besides their own."""
    for index, block in enumerate(blocks):
        for other in (other for other in blocks if other is not block):
            readers = [call for call in other.calls if any(tensor is block.entry for tensor in call.inputs)]
            if readers:
                raise _NoBlocks(f"{_describe_call(readers[0])} also reads what block {index} starts from")


# Losses of a model without some of its blocks, and the blocks to drop one by one.


def mean_loss(blocks: Blocks, order: Sequence[int], *, batches: Batches, loss: Callable) -> float:
    """Return the mean loss of a model that runs some of its blocks."""
    total, count = 0.0, 0
    for inputs, targets in batches:
        values = blocks.run(order, inputs=[keras.ops.convert_to_tensor(array) for array in inputs])
        total += len(inputs[0]) * batch_loss(loss, values.outputs[0], targets=targets)
        count += len(inputs[0])
    return total / count


def one_by_one(count: int, measure: Callable[[list[int]], float]) -> Iterator[tuple[int, float]]:
    """Yield the blocks to drop, one after the other, each with the loss of the model without it and those before.

    Args:
        count: The number of blocks of the model. All but the last one are yielded.
        measure: Returns the loss of the model with the blocks of these numbers.

    Example:
        >>> list(one_by_one(3, lambda kept: float(10 - sum(kept))))
        [(0, 7.0), (1, 8.0)]
    """
    remaining = list(range(count))
    while len(remaining) > 1:
        losses = {block: measure([other for other in remaining if other != block]) for block in remaining}
        least = min(remaining, key=lambda block: losses[block])
        remaining.remove(least)
        yield least, losses[least]


# Report of `rank_blocks`: how much a model needs each of its blocks.


@dataclass(frozen=True)
class RankedBlock(Report):
    """A block of a model and its importance.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        parameters: The number of entries of its weights.
        similarity: The cosine between its input and its output, the mean over positions, in [-1, 1].
        loss: The loss of the model without the block; None if it was not measured.
    """

    block: int
    layer: str
    parameters: int
    similarity: float
    loss: float | None


@dataclass(frozen=True)
class BlockRanking(Report):
    """The blocks of a model, ranked by their importance.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.
        criterion: `"loss"` or `"similarity"`.
        loss: The loss of the whole model; None if it was not measured.

    Example:
        >>> rows = (RankedBlock(0, "first", 20, 0.9, None), RankedBlock(1, "second", 20, 0.99, None))
        >>> BlockRanking(rows, criterion="similarity", loss=None).order
        (1, 0)
    """

    JSON_NAMES = ("rows", "criterion", "loss", "order")

    rows: tuple[RankedBlock, ...]
    criterion: str
    loss: float | None

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks, the least important first: `drop_blocks(model, ranking.order[:2])`."""
        ranked = sorted(self.rows, key=lambda row: -row.similarity if row.loss is None else row.loss)
        return tuple(row.block for row in ranked)

    def __str__(self) -> str:
        ranks = {block: rank for rank, block in enumerate(self.order, 1)}
        lines = [
            [
                *(row.block, row.layer, f"{row.parameters:,}", f"{row.similarity:.4f}"),
                *([] if row.loss is None else [f"{row.loss:.4f}"]),
                ranks[row.block],
            ]
            for row in self.rows
        ]
        header = [
            "block",
            "first layer",
            "parameters",
            "similarity",
            *(["loss without"] if self.loss is not None else []),
        ]
        title = "" if self.loss is None else f"The loss of the whole model is {self.loss:.4f}.\n\n"
        return title + table([*header, "drop order"], lines, left=2)


# Rank the blocks of a model.


def rank_blocks(
    model: keras.Model,
    data: Any,
    *,
    blocks: str | None = None,
    criterion: str = "loss",
    loss: Any = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> BlockRanking:
    """Rank the repeated blocks of a model by their importance.

    Use it to choose the blocks for `drop_blocks`. With the loss as criterion, it evaluates `data` once for each
    block. With the similarity, it evaluates `data` once, and needs no labels.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        data: A tuple (x, y), or a dataset of such batches that can be read more than once. A few hundred samples are
            enough.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        criterion: `"loss"` (the default): the loss without each block alone. `"similarity"`: the cosine between the
            input and the output of each block, over all positions but padding.
        loss: A loss, its name or a function; None (the default) takes the loss that the model is compiled with.
        batch_size: Samples in a batch, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            a bar after three seconds, in a terminal or a notebook.

    Returns:
        A `BlockRanking`: a row for each block, and `order`, the least important block first. Blocks depend on each
        other: to drop many, use `drop_blocks(model, count=..., data=data)`, which ranks the rest again after each.

    Raises:
        TypeError: If `model` is not a Keras model, or `data` is not data.
        ValueError: If the model has no repeated blocks, or, for the loss, several outputs or no loss.
        ValueError: If `data` are empty, of another shape or not finite, have token ids beyond the vocabulary, or,
                for the loss, have no labels, or have sample weights.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(1)])
        >>> x = keras.random.normal((64, 4), seed=0)
        >>> ranking = rank_blocks(model, (x, x[:, :1]), loss="mse")
        >>> sorted(ranking.order)
        [0, 1, 2]

    Reference:
        Men et al., 2024, "ShortGPT", arXiv:2403.03853 (Block Influence is 1 - similarity).
    """
    check_choice(criterion, "criterion", choices=("loss", "similarity"))
    check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    measured = loss_of(model, loss) if criterion == "loss" and isinstance(model, keras.Model) else None
    source = find_blocks(model, blocks)
    batches = Batches(data, source.graph.model, batch_size=batch_size, is_for_loss=measured is not None)
    check_token_ids(source.graph, batches, argument="data")
    order = list(range(len(source.blocks)))
    losses: list[float] = []
    with Progress(1 + (len(order) if measured else 0), verbose=verbose, unit="evaluation") as progress:
        whole, similarities = _evaluate(source, order, batches, measured)
        if measured is not None:
            for block in order:
                progress.add()
                others = [other for other in order if other != block]
                losses.append(mean_loss(source, others, batches=batches, loss=measured))
    rows = [_ranked_row(source, block, similarities[block], losses[block] if measured else None) for block in order]
    return BlockRanking(tuple(rows), criterion, whole if measured else None)


def _evaluate(source: Blocks, order: list[int], batches: Batches, loss: Callable | None) -> tuple[float, list[float]]:
    """Return the mean loss of a model with some blocks, 0 without a loss, and the similarity of each block."""
    total, count = 0.0, 0
    cosines: list[list[np.ndarray]] = [[] for _ in order]
    for inputs, targets in batches:
        masks = list(token_masks(source.graph, inputs).values())
        values = source.run(order, inputs=[keras.ops.convert_to_tensor(array) for array in inputs])
        size = len(inputs[0])
        for index, pair in enumerate(itertools.pairwise(values.stream)):
            cosines[index].append(_cosines(*pair, masks))
        if loss is not None:
            advice = ' Or pass criterion="similarity".'
            total += size * batch_loss(loss, values.outputs[0], targets=targets, advice=advice)
        count += size
    return total / count, [float(np.concatenate(some).mean()) for some in cosines]


def _ranked_row(source: Blocks, block: int, similarity: float, loss: float | None) -> RankedBlock:
    layers = [call.layer for call in source.blocks[block].calls if isinstance(call.layer, keras.layers.Layer)]
    parameters = sum(layer_inside(layer).count_params() for layer in layers)
    return RankedBlock(block, layers[0].name, parameters, similarity, loss)


def _cosines(inputs: Any, outputs: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cosines between the input and the output of a block, of each position without padding."""
    inputs, outputs = (
        without_padding(keras.ops.convert_to_numpy(value).astype("float32"), masks) for value in (inputs, outputs)
    )
    norms = np.linalg.norm(inputs, axis=-1) * np.linalg.norm(outputs, axis=-1)
    return (np.sum(inputs * outputs, axis=-1) / np.maximum(norms, 1e-12)).ravel()


# The norms of the weights by block, which tell whether a model is trained long enough to repeat its blocks.

_LEAST_RISE = 0.05  # of the mean norm, from the first block to the last one
_LEAST_TAU = 0.5  # of the pairs of blocks, three rise for each that falls


@dataclass(frozen=True)
class BlockNorm(Report):
    """The norm of a block.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        norm: The mean over its kernels of the root of the mean square of their entries.
    """

    block: int
    layer: str
    norm: float


@dataclass(frozen=True)
class NormProfile(Report):
    """The norms of the blocks of a model, from the first one to the last.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.

    Example:
        >>> rows = [BlockNorm(index, f"block_{index}", norm) for index, norm in enumerate([0.030, 0.033, 0.035])]
        >>> profile = NormProfile(tuple(rows))
        >>> profile.trend, round(profile.rise, 3), round(profile.seam, 1)
        ('rising', 0.153, 2.0)
    """

    JSON_NAMES = ("rows", "trend", "rise", "seam")

    rows: tuple[BlockNorm, ...]

    @property
    def rise(self) -> float:
        """How much the norm rises from the first block to the last one, by a fitted line, in parts of its mean."""
        if len(self.rows) < 2:
            return 0.0
        norms = np.array([row.norm for row in self.rows])
        slope = np.polyfit(np.arange(len(norms)), norms, 1)[0]
        return float(slope * (len(norms) - 1) / max(norms.mean(), np.finfo(float).tiny))

    @property
    def trend(self) -> str:
        """`"rising"` or `"falling"` by at least 5 % and in three pairs of blocks of four, otherwise `"flat"`."""
        norms = [row.norm for row in self.rows]
        signs = [np.sign(after - before) for before, after in itertools.combinations(norms, 2)]
        if abs(self.rise) < _LEAST_RISE or np.sign(self.rise) * np.mean(signs) < _LEAST_TAU:
            return "flat"
        return "rising" if self.rise > 0 else "falling"

    @property
    def seam(self) -> float:
        """The step from the last block to the first one, where stacks meet, in mean steps between neighbors."""
        norms = np.array([row.norm for row in self.rows])
        steps = np.abs(np.diff(norms))
        return float(abs(norms[-1] - norms[0]) / steps.mean()) if steps.any() else 0.0

    def __str__(self) -> str:
        lines = [[row.block, row.layer, f"{row.norm:.4g}"] for row in self.rows]
        typical = {
            "rising": "as in a language model after long training: interposed copies keep this profile",
            "falling": "unlike those of a language model after long training",
            "flat": "as in a model at the start of its training",
        }
        return table(["block", "first layer", "norm"], lines, left=2) + (
            f"\n\nThe norms are {self.trend} ({self.rise:+.1%} of the mean over the depth), {typical[self.trend]}.\n"
            f"If you stacked two copies of all blocks, the norm would jump between the copies by {self.seam:.1f} "
            f"times the mean\ndifference between neighboring blocks."
        )


def norm_profile(model: keras.Model, *, blocks: str | None = None) -> NormProfile:
    """Measure the norms of the kernels of each repeated block.

    Use it before `grow_depth`. In language models that are trained for long, norms rise with the depth; the source
    found interposition better than stacking for such models, and stacking for those that are trained less.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        blocks: A regular expression for the names of the layers in blocks, whose group is the number of the block,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.

    Returns:
        A profile: a row for each block, and whether the norms rise.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no repeated blocks, or they have no kernels.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(64, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((64,)), *map(block, range(3)), keras.layers.Dense(1)])
        >>> tfprune.growth.norm_profile(model).trend
        'flat'

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (figure 2: Frobenius norm over the root of the
        number of entries).
    """
    source = find_blocks(model, blocks)
    return NormProfile(tuple(_norm_row(source, number) for number in range(len(source.blocks))))


def _norm_row(source: Blocks, number: int) -> BlockNorm:
    layers = {
        id(call.layer): call.layer
        for call in source.blocks[number].calls
        if isinstance(call.layer, keras.layers.Layer)
    }
    first, *_ = layers.values()
    values = [as_numpy(kernel.variable).astype(np.float64) for layer in layers.values() for kernel in kernels(layer)]
    if not values:
        raise ValueError(
            f"Expected blocks with kernels. Received: block {number} of {source.copy.name!r}, which begins with "
            f"{first.name!r} and has none. Name other blocks: blocks=r'block_(\\d+)_'."
        )
    return BlockNorm(number, first.name, float(np.mean([np.sqrt(np.mean(value**2)) for value in values])))

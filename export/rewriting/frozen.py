"""Fewer operators with the same outputs: variables become constants, and operators a part of those before them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfprune.export.device.runner import plain_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_constant,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    operator_code,
    operator_name,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.rewriting.shapes import drop_unread, scales_of

# What is computed without inputs: the interpreter computes it once, and it becomes constants.

_SIGNATURE = b"serving_default"  # as converters name it
_GRAPHS = ("WHILE", "IF", "CALL", "STABLEHLO_COMPOSITE")  # operators that run other graphs


def frozen(
    file: ModelFile, signature: str, *, prepare: Callable[[Any], object], names: Mapping[str, str]
) -> ModelFile:
    """Return a file of one signature in which variables are constants.

    Args:
        file: A file with variables.
        signature: The name of the signature that is kept.
        prepare: Called with an interpreter of the file, in which it sets the variables.
        names: What constants are called that are computed from a variable, by the name of the variable.

    Returns:
        The file. It computes the same from its inputs, in fewer operators.

    Raises:
        ValueError: If the signature runs other graphs, as loops do.
    """
    model = file.objects()
    definition = next(each for each in model.signatureDefs if each.signatureKey == signature.encode())
    graph = model.subgraphs[definition.subgraphIndex]
    ahead, others = _apart(model, graph)
    loops = sorted({operator_name(model, operator) for operator in others} & {*_GRAPHS})
    if loops:
        raise ValueError(f"Expected a signature without loops. Received: {signature!r} with {', '.join(loops)}.")
    computed = {index for operator in ahead for index in indices_of(operator.outputs)}
    reads = {index for operator in others for index in inputs_of(operator)} | {*indices_of(graph.outputs)}
    values = _computed(file, signature, sorted(computed & reads), prepare)
    origins = _origins(model, ahead)
    for index, array in values.items():
        tensor = graph.tensors[index]
        tensor.buffer, tensor.shape, tensor.shapeSignature = add_values(model, array), _shape(array.shape), None
        tensor.name = next((names[each].encode() for each in origins[index] if each in names), tensor.name)
    graph.operators, model.subgraphs = others, [graph]
    definition.subgraphIndex, definition.signatureKey, model.signatureDefs = 0, _SIGNATURE, [definition]
    model.metadata = model.metadataBuffer = None  # they describe the file with variables
    for entry in (*definition.inputs, *definition.outputs):
        graph.tensors[entry.tensorIndex].name = entry.name
    return file.saved(model).after(_fold)


def _apart(model: schema.ModelT, graph: schema.SubGraphT) -> tuple[list[Any], list[Any]]:
    """Return the operators that need no input of the graph, and the others."""
    needs, ahead, others = {*indices_of(graph.inputs)}, [], []
    for operator in graph.operators:
        if needs & {*inputs_of(operator)}:
            needs.update(indices_of(operator.outputs))
            others.append(operator)
        else:
            ahead.append(operator)
    return ahead, others


def _computed(
    file: ModelFile, signature: str, indices: Iterable[int], prepare: Callable[[Any], object]
) -> dict[int, np.ndarray]:
    """Return tensors that a signature computes without inputs, by their indices."""
    model = file.objects()
    definition = next(each for each in model.signatureDefs if each.signatureKey == signature.encode())
    graph = model.subgraphs[definition.subgraphIndex]
    graph.operators, _ = _apart(model, graph)
    graph.inputs, graph.outputs = np.empty(0, np.int32), np.array([*indices], np.int32)
    definition.inputs, definition.outputs = (
        [],
        [schema.TensorMapT(name=b"%d" % index, tensorIndex=index) for index in indices],
    )
    interpreter = plain_interpreter(file.saved(model).content)
    prepare(interpreter)
    return {int(name): np.array(array) for name, array in interpreter.get_signature_runner(signature)().items()}


def _origins(model: schema.ModelT, operators: Iterable[Any]) -> dict[int, tuple[str, ...]]:
    """Return the names of the variables that each tensor is computed from, in the order in which they are read."""
    origins: dict[int, tuple[str, ...]] = {}
    for operator in operators:
        names = [name for index in inputs_of(operator) for name in origins.get(index, ())]
        if operator_name(model, operator) == "VAR_HANDLE":
            names.append((operator.builtinOptions.sharedName or b"").decode())
        origins.update(dict.fromkeys(indices_of(operator.outputs), tuple(dict.fromkeys(names))))
    return origins


def _shape(sizes: Iterable[int]) -> np.ndarray:
    return np.array([*sizes], np.int32)


# What follows a layer becomes a part of it.

_LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # the axis of the filter that makes channels
_NUMBERS = {"MUL", "ADD", "SUB"}


def _fold(model: schema.ModelT) -> bool:
    """Write products with constants as layers, and what is done with each channel after a layer into the layer.

    Products of a matrix become FULLY_CONNECTED. Constants that are added to the channels of a convolution or a dense
    layer, or multiply them, as batch normalization does, become a part of its bias and its filter, and an activation
    a part of its options. Zeros of filters stay zeros. A RESHAPE to sizes of which one is computed gets them as a
    constant, so that XNNPACK knows all shapes.

    Args:
        model: An open file.

    Returns:
        Whether there was something to change.
    """
    return sum(_Folding(model, graph)() for graph in model.subgraphs) > 0


class _Folding:
    """Folds the operators of one graph.

    Args:
        model: The model.
        graph: The graph, which is changed.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model, self._graph = model, graph
        self._operators = graph.operators or []
        self._readers: dict[int, list[Any]] = {}
        for operator in self._operators:
            for index in inputs_of(operator):
                self._readers.setdefault(index, []).append(operator)
        self._makers = {index: each for each in self._operators for index in indices_of(each.outputs)}
        self._transposed: dict[int, int] = {}  # matrices of several products, by their tensors
        self._gone: set[int] = set()  # operators that are a part of others now, by id

    def __call__(self) -> bool:
        """Fold all operators, and leave out those that nothing reads any more."""
        changed = [self._as_layer(each) or self._known_sizes(each) for each in self._operators]
        for operator in self._operators:
            if self._kind(operator) in _LAYERS and id(operator) not in self._gone:
                while self._take_in(operator):
                    changed.append(True)
        if any(changed):
            self._graph.operators = [each for each in self._operators if id(each) not in self._gone]
            drop_unread(self._graph)
        return any(changed)

    def _kind(self, operator: Any) -> str:
        return operator_name(self._model, operator)

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))

    def _values(self, index: int) -> np.ndarray | None:
        """Return a constant of float32 that is stored as it is; None for all other tensors."""
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if data is None or not len(data) or tensor.type != schema.TensorType.FLOAT32 or tensor.sparsity is not None:
            return None
        return np.asarray(data, np.uint8).view("<f4").reshape(self._shape(index))

    def _replace(self, index: int, values: np.ndarray) -> int:
        """Add a constant in place of another one, whose name it has."""
        name = self._graph.tensors[index].name
        return add_constant(self._model, self._graph, name=name, values=np.asarray(values, np.float32))

    def _as_layer(self, operator: Any) -> bool:
        """Turn the product with a constant matrix into FULLY_CONNECTED."""
        if self._kind(operator) != "BATCH_MATMUL" or operator.builtinOptions.adjX:
            return False
        source, index = inputs_of(operator)
        matrix = self._values(index)
        if matrix is None or matrix.ndim != 2:
            return False
        if not operator.builtinOptions.adjY:
            if index not in self._transposed:
                self._transposed[index] = self._replace(index, matrix.T)
            index = self._transposed[index]
        operator.opcodeIndex = operator_code(self._model, schema.BuiltinOperator.FULLY_CONNECTED)
        operator.inputs = _shape([source, index, -1])
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT(keepNumDims=len(self._shape(source)) > 2)
        return True

    def _known_sizes(self, operator: Any) -> bool:
        """Give a RESHAPE its sizes where one of them is computed: a constant may leave out one."""
        if self._kind(operator) != "RESHAPE" or len(inputs_of(operator)) < 2:
            return False
        maker = self._makers.get(inputs_of(operator)[1])
        if maker is None or self._kind(maker) != "PACK":
            return False
        parts = [self._model.buffers[self._graph.tensors[index].buffer].data for index in inputs_of(maker)]
        sizes = [-1 if data is None or not len(data) else int(np.asarray(data).view("<i4")[0]) for data in parts]
        if sizes.count(-1) != 1:
            return False
        constant = add_constant(self._model, self._graph, name=b"", values=_shape(sizes))
        operator.inputs = _shape([inputs_of(operator)[0], constant])
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT(newShape=_shape(sizes))
        return True

    def _take_in(self, layer: Any) -> bool:
        """Make what follows a layer a part of it, if it can be; a RESHAPE of the output may stand between."""
        if layer.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.NONE:
            return False
        last = layer
        reader = self._only_reader(layer)
        while reader is not None and self._kind(reader) == "RESHAPE":
            last, reader = reader, self._only_reader(reader)
        if reader is None:
            return False
        kind = self._kind(reader)
        activation = getattr(schema.ActivationFunctionType, kind, None)
        if kind in _NUMBERS:
            if not self._fold_numbers(layer, reader, output=int(last.outputs[0])):
                return False
            activation = reader.builtinOptions.fusedActivationFunction
        elif activation is None or kind == "TANH":  # which has no fused kernel
            return False
        layer.builtinOptions.fusedActivationFunction = activation
        last.outputs = reader.outputs
        self._gone.add(id(reader))
        return True

    def _only_reader(self, operator: Any) -> Any:
        """Return the one operator that takes an output, if that is no output of the graph."""
        output = int(operator.outputs[0])
        readers = self._readers.get(output, [])
        return readers[0] if len(readers) == 1 and output not in indices_of(self._graph.outputs) else None

    def _fold_numbers(self, layer: Any, reader: Any, *, output: int) -> bool:
        """Fold a product, sum or difference with a constant for each channel into the filter and the bias."""
        kind, inputs = self._kind(reader), inputs_of(reader)
        filters, bias = int(layer.inputs[1]), int(layer.inputs[2]) if len(layer.inputs) > 2 else -1
        weights, axis = self._values(filters), _LAYERS[self._kind(layer)]
        numbers = self._values(inputs[1] if inputs[0] == output else inputs[0])
        first = np.zeros((), np.float32) if bias < 0 else self._values(bias)
        if weights is None or numbers is None or first is None or (kind == "SUB" and inputs[0] != output):
            return False
        channels = weights.shape[axis]
        if numbers.size != 1 and not self._are_channels(numbers, channels, output):
            return False
        numbers, first = (np.broadcast_to(each.reshape(-1), (channels,)) for each in (numbers, first))
        if kind == "MUL":
            spread = numbers.reshape([-1 if n == axis else 1 for n in range(weights.ndim)])
            filters = self._replace(filters, weights * spread)
        added = {"MUL": first * numbers, "ADD": first + numbers, "SUB": first - numbers}[kind]
        constant = add_constant(self._model, self._graph, name=b"", values=added.astype(np.float32))
        layer.inputs = _shape([int(layer.inputs[0]), filters, constant])
        return True

    def _are_channels(self, numbers: np.ndarray, channels: int, output: int) -> bool:
        """Tell whether numbers fall on channels in order: heads have them on two axes."""
        sizes = [*numbers.shape]
        while sizes and sizes[0] == 1:
            sizes.pop(0)
        return numbers.size == channels and [*self._shape(output)[-len(sizes) :]] == sizes


# Fewer moves of entries: those between PyTorch's order of dimensions and the runtime's mostly cancel each other.

_RESHAPES = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}
_MOVES = _RESHAPES | {"TRANSPOSE"}
_MOST_AXES = 5  # that every interpreter can transpose
_PASSED = {  # they treat each entry by itself, and round it alike wherever it is
    *("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "HARD_SWISH", "ABS", "NEG", "QUANTIZE", "DEQUANTIZE"),
    *("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "CONCATENATION", "PAD"),
}


def join_moves(model: schema.ModelT) -> bool:
    """Let the first graph of a file move entries as seldom as it can: a chain of moves has one TRANSPOSE at most.

    Where all that an operator takes was transposed in the same way, its result is transposed instead, and where all
    parts of a SPLIT are, what it splits. Outputs stay the same, bit for bit. Sizes that are open are left alone.

    Args:
        model: An open file.

    Returns:
        Whether there was something to change.
    """
    graph = model.subgraphs[0]
    inner = [operator_name(model, operator) for operator in graph.operators or ()]
    if inner.count("TRANSPOSE") == 0:
        return False
    is_changed, place = False, _MoveGraph(model, graph).change(0)
    while place is not None:
        is_changed, place = True, _MoveGraph(model, graph).change(place)
    return is_changed


class _Move(NamedTuple):
    """An operator that moves entries.

    Attributes:
        name: TRANSPOSE or RESHAPE.
        shape: The shape that it makes.
        order: For a TRANSPOSE, the axis that each axis of its result was.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()


class _Digits:
    """The entries of a tensor in another order. The number of an entry has a digit for each axis.

    Args:
        shape: The shape of the tensor.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._sizes = [size for size in shape if size > 1]
        self._first = [*range(len(self._sizes))]  # the digits in order before all moves
        self._now = [*self._first]

    def grouped(self, shape: Sequence[int], *, before: bool = False) -> list[tuple[int, ...]] | None:
        """Return the digits along each axis of a shape, now or before all moves; None if some would be cut apart."""
        axes: list[tuple[int, ...]] = []
        for size in shape:
            axis: list[int] = []
            digits = self._first if before else self._now
            while (rest := size // math.prod(self._sizes[digit] for digit in axis)) > 1:
                place = sum(map(len, axes)) + len(axis)
                if place >= len(digits) or not self._fits(digits[place], rest):
                    return None
                axis.append(digits[place])
            axes.append(tuple(axis))
        return axes

    def _fits(self, digit: int, size: int) -> bool:
        """Return True if a digit divides a size, perhaps after it was split into two."""
        own = self._sizes[digit]
        if own > size and own % size == 0:
            self._sizes[digit] = size
            self._sizes.append(own // size)
            for order in (self._first, self._now):
                order.insert(order.index(digit) + 1, len(self._sizes) - 1)
        return size % self._sizes[digit] == 0

    def transpose(self, shape: Sequence[int], order: Sequence[int]) -> bool:
        """Move the axes of a shape that the entries have now. False if they do not have it."""
        axes = self.grouped(shape)
        if axes is not None:
            self._now = [digit for axis in order for digit in axes[axis]]
        return axes is not None

    def moves(self, before: tuple[int, ...], after: tuple[int, ...]) -> list[_Move] | None:
        """Return the fewest moves from one shape to another, with one TRANSPOSE at most; None if there are none."""
        if self._now == self._first:
            return [] if before == after else [_Move("RESHAPE", after)]
        count = 0
        while count < len(self._sizes):  # what one of them splits counts for the others
            count = len(self._sizes)
            ways = [self.grouped(before, before=True), self.grouped(after), self._runs()]
        choices = [self._through(way, before, after) for way in ways if way is not None]
        fits = [choice for choice in choices if choice and max(len(move.order) for move in choice) <= _MOST_AXES]
        return min(fits, key=lambda choice: (len(choice), choice[-1].name == "RESHAPE"), default=None)

    def _runs(self) -> list[tuple[int, ...]]:
        """Return the digits in as few runs as stay together in both orders."""
        runs: list[tuple[int, ...]] = []
        for digit in self._now:
            is_next = runs and self._first.index(digit) == self._first.index(runs[-1][-1]) + 1
            runs = [*runs[:-1], (*runs[-1], digit)] if is_next else [*runs, (digit,)]
        return runs

    def _through(
        self, axes: list[tuple[int, ...]], before: tuple[int, ...], after: tuple[int, ...]
    ) -> list[_Move] | None:
        """Return the moves whose TRANSPOSE takes these axes apart; None if they do not stay together."""
        wide = [axis for axis in axes if axis]
        orders = [sorted(wide, key=lambda axis: own.index(axis[0])) for own in (self._first, self._now)]
        if any(sum(own, ()) != tuple(digits) for own, digits in zip(orders, (self._first, self._now), strict=True)):
            return None
        ones = len(axes) - len(wide)
        sources = self._with_ones(orders[0], ones, before)
        results = self._with_ones(orders[1], ones, after)
        places: dict[tuple[int, ...], list[int]] = {}
        for place, axis in enumerate(sources):
            places.setdefault(axis, []).append(place)
        order = tuple(places[axis].pop(0) for axis in results)
        shapes = [tuple(self._size(axis) for axis in own) for own in (sources, results)]
        first = [_Move("RESHAPE", shapes[0])] if shapes[0] != before else []
        last = [_Move("RESHAPE", after)] if shapes[1] != after else []
        return [*first, _Move("TRANSPOSE", shapes[1], order), *last]

    def _size(self, axis: tuple[int, ...]) -> int:
        return math.prod(self._sizes[digit] for digit in axis)

    def _with_ones(self, axes: list[tuple[int, ...]], ones: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return axes with some of size 1 between them, where a shape has these, or else in front."""
        wide, result = [*axes], list[tuple[int, ...]]()
        for size in shape:
            if size == 1 and ones:
                result.append(())
                ones -= 1
            elif wide and size > 1:
                result.append(wide.pop(0))
        return [*[()] * ones, *result, *wide]


class _MoveGraph:
    """The operators of a graph that move entries, and those that they can pass.

    Args:
        model: The model, which is changed.
        graph: The graph of it.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model, self._graph = model, graph
        self._outputs = {*indices_of(graph.outputs)}
        self._makers = {index: each for each in graph.operators for index in indices_of(each.outputs)}
        self._readers: dict[int, list[Any]] = {}
        for operator in graph.operators:
            for index in {*inputs_of(operator)}:
                self._readers.setdefault(index, []).append(operator)

    def change(self, start: int) -> int | None:
        """Make one change, from an operator on, and return where; None if there is none left to make."""
        operators = [*self._graph.operators]
        count = len(operators)
        for place in (number % count for number in range(start, start + count)):
            operator = operators[place]
            name = self._name(operator)
            if name in _MOVES:
                is_changed = self._join(operator)
            elif name in ("SPLIT", "SPLIT_V"):
                is_changed = self._transpose_before(operator, name)
            else:
                is_changed = self._transpose_after(operator, name)
            if is_changed:
                drop_unread(self._graph, where=lambda each: self._name(each) in _MOVES)
                return place
        return None

    def _name(self, operator: Any) -> str:
        return operator_name(self._model, operator)

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))

    def _is_fixed(self, index: int) -> bool:
        tensor = self._graph.tensors[index]
        signature = () if tensor.shapeSignature is None else tensor.shapeSignature
        return not tensor.isVariable and all(size > 0 for size in (*self._shape(index), *signature))

    def _constant(self, index: int) -> np.ndarray | None:
        """Return the bytes of a dense constant, the last axis for those of an entry; None for another tensor."""
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        count = math.prod(self._shape(index))
        if data is None or not len(data) or tensor.sparsity is not None or not count or len(data) % count:
            return None
        return np.asarray(data, np.uint8).reshape(*self._shape(index), len(data) // count)

    def _integers(self, index: int) -> list[int] | None:
        """Return the entries of a constant of int32."""
        values = self._constant(index)
        is_short = values is not None and self._graph.tensors[index].type == schema.TensorType.INT32
        return np.ascontiguousarray(values).view("<i4").reshape(-1).tolist() if is_short else None

    def _order(self, operator: Any) -> tuple[int, ...]:
        """Return the order of a TRANSPOSE; empty for another operator, or where it is computed."""
        if operator is None or self._name(operator) != "TRANSPOSE" or not self._is_fixed(int(operator.outputs[0])):
            return ()
        return tuple(self._integers(int(operator.inputs[1])) or ())

    # One TRANSPOSE for a chain of moves.

    def _join(self, last: Any) -> bool:
        """Write a chain of moves with fewer of them, or with its TRANSPOSE at the end, where others may join it."""
        chain = self._chain(last)
        own = next((n for n in range(len(chain) - 1, 0, -1) if self._is_shared(chain[n - 1])), 0)
        choices = []
        for start in range(len(chain)):
            moves = self._moves_of(chain[start:])
            if moves is not None:
                before = self._cost([self._name(each) for each in chain[max(start, own) :]])
                choices.append((self._cost([move.name for move in moves]), before, start, moves))
        better = [choice for choice in choices if choice[0] < choice[1]]
        if not better or not any(self._name(each) == "TRANSPOSE" for each in chain):
            return False
        *_, start, moves = min(better, key=lambda choice: [now - old for now, old in zip(*choice[:2], strict=True)])
        self._replace(last, int(chain[start].inputs[0]), moves)
        return True

    def _is_shared(self, operator: Any) -> bool:
        """Return True if another operator takes what a move makes, or the user."""
        return len(self._readers.get(int(operator.outputs[0]), [])) > 1 or int(operator.outputs[0]) in self._outputs

    @staticmethod
    def _cost(names: list[str]) -> tuple[int, int, int]:
        return names.count("TRANSPOSE"), len(names), int(bool(names) and names[-1] != "TRANSPOSE")

    def _chain(self, last: Any) -> list[Any]:
        """Return the moves that lead to a move, in order."""
        chain = [last]
        while (maker := self._makers.get(int(chain[0].inputs[0]))) is not None and self._name(maker) in _MOVES:
            chain.insert(0, maker)
        return chain

    def _moves_of(self, chain: list[Any]) -> list[_Move] | None:
        """Return the fewest moves that do what a chain does; None if that is not known."""
        source, result = int(chain[0].inputs[0]), int(chain[-1].outputs[0])
        tensors = [source, *(int(each.outputs[0]) for each in chain)]
        numbers = {scales_of(self._graph.tensors[index]) for index in tensors}
        if len(numbers) > 1 or not all(map(self._is_fixed, tensors)):
            return None
        digits = _Digits(self._shape(source))
        for each in chain:
            if self._name(each) == "TRANSPOSE":
                order = self._order(each)
                if not order or not digits.transpose(self._shape(int(each.inputs[0])), order):
                    return None
        moves = digits.moves(self._shape(source), self._shape(result))
        return [_Move("RESHAPE", self._shape(result))] if moves == [] and result in self._outputs else moves

    def _replace(self, last: Any, source: int, moves: list[_Move]) -> None:
        """Let moves make what the last operator of a chain made."""
        result = int(last.outputs[0])
        if not moves:
            self._read_instead(result, source)
        place = next(n for n, each in enumerate(self._graph.operators) if each is last)
        self._graph.operators[place : place + 1] = self._move_operators(source, moves, result)

    def _move_operators(self, source: int, moves: list[_Move], result: int) -> list[Any]:
        """Return operators that move the entries of a tensor until they are those of another one."""
        operators = []
        for number, move in enumerate(moves):
            is_last = number == len(moves) - 1
            target = result if is_last else self._like(result, move.shape)
            operators.append(self._operator(move, source, target))
            source = target
        return operators

    def _operator(self, move: _Move, source: int, target: int) -> Any:
        numbers = np.array(move.order if move.name == "TRANSPOSE" else move.shape, np.int32)
        code = operator_code(self._model, getattr(schema.BuiltinOperator, move.name))
        operator = schema.OperatorT(opcodeIndex=code)
        constant = add_constant(self._model, self._graph, name=b"", values=numbers)
        operator.inputs, operator.outputs = _shape([source, constant]), _shape([target])
        if move.name == "RESHAPE":
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT(newShape=numbers)
        else:
            operator.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
            operator.builtinOptions = schema.TransposeOptionsT()
        return operator

    def _like(self, index: int, shape: Sequence[int]) -> int:
        """Add a tensor of another shape."""
        return add_tensor(self._graph, self._graph.tensors[index], shape=_shape(shape), shapeSignature=None)

    def _read_instead(self, old: int, new: int) -> None:
        for operator in self._readers.get(old, []):
            operator.inputs = _shape(new if index == old else index for index in inputs_of(operator))

    # A TRANSPOSE passes an operator.

    def _transpose_after(self, operator: Any, name: str) -> bool:
        """Let an operator take what was transposed before it, and transpose what it makes."""
        if name not in _PASSED or not self._is_fixed(int(operator.outputs[0])):
            return False
        count = 1 if name == "PAD" else len(inputs_of(operator))
        inputs = inputs_of(operator)[:count]
        computed = [index for index in inputs if self._constant(index) is None]
        orders = {self._order(self._makers.get(index)) for index in computed}
        result = int(operator.outputs[0])
        if len(orders) != 1 or () in orders:
            return False
        (order,) = orders
        fewer = sum(not self._is_shared(self._makers[index]) for index in {*computed}) - 1
        if len(order) != len(self._shape(result)) or fewer < 0 or (fewer == 0 and not self._leads_to_moves(result)):
            return False
        back = [order.index(axis) for axis in range(len(order))]
        sources = [
            int(self._makers[index].inputs[0]) if index in computed else self._turned(index, back) for index in inputs
        ]
        if min(sources) < 0:
            return False
        inner = self._like(result, [self._shape(result)[axis] for axis in back])
        if name == "PAD":
            pads = np.array(self._integers(inputs_of(operator)[1]), np.int32).reshape(-1, 2)[back]
            sources.append(add_constant(self._model, self._graph, name=b"", values=pads))
        if name == "CONCATENATION":
            operator.builtinOptions.axis = order[operator.builtinOptions.axis % len(order)]
        operator.inputs, operator.outputs = _shape(sources), _shape([inner])
        place = next(n for n, each in enumerate(self._graph.operators) if each is operator)
        move = _Move("TRANSPOSE", self._shape(result), order)
        self._graph.operators.insert(place + 1, self._operator(move, inner, result))
        return True

    def _leads_to_moves(self, index: int) -> bool:
        """Return True if a TRANSPOSE that makes a tensor would meet another one."""
        readers = self._readers.get(index, [])
        names = [self._name(each) for each in readers]
        if "TRANSPOSE" in names or len(readers) != 1:
            return "TRANSPOSE" in names
        (reader,) = readers
        has_one = all(self._constant(other) is not None for other in inputs_of(reader) if other not in (index, -1))
        return has_one and names[0] in _PASSED | _RESHAPES and self._leads_to_moves(int(reader.outputs[0]))

    def _turned(self, index: int, back: Sequence[int]) -> int:
        """Return a constant with its axes in another order; one of a single entry as it is; -1 if it cannot be."""
        values = self._constant(index)
        quantization = self._graph.tensors[index].quantization
        scales = None if quantization is None else quantization.scale
        if math.prod(self._shape(index)) == 1 and len(self._shape(index)) <= len(back):
            return index
        if values is None or len(self._shape(index)) > len(back) or (scales is not None and len(scales) > 1):
            return -1
        shape = (1,) * (len(back) - len(self._shape(index))) + self._shape(index)
        turned = values.reshape(*shape, -1).transpose(*back, len(back))
        buffer = add_values(self._model, np.ascontiguousarray(turned))
        return add_tensor(
            self._graph,
            self._graph.tensors[index],
            buffer=buffer,
            shape=_shape(turned.shape[:-1]),
            shapeSignature=None,
        )

    def _transpose_before(self, operator: Any, name: str) -> bool:
        """Transpose what is split, where all parts are transposed."""
        source_place, axis_place = (1, 0) if name == "SPLIT" else (0, 2)
        source, parts = int(operator.inputs[source_place]), indices_of(operator.outputs)
        readers = list(itertools.chain.from_iterable(self._readers.get(index, []) for index in parts))
        orders = {self._order(reader) for reader in readers}
        axes = self._integers(int(operator.inputs[axis_place]))
        if len(orders) != 1 or () in orders or len(readers) < 2 or axes is None or self._outputs & {*parts}:
            return False
        (order,) = orders
        results = {int(reader.outputs[0]) for reader in readers}
        if not all(map(self._is_fixed, (source, *parts))) or self._outputs & results:
            return False
        shape = tuple(self._shape(source)[axis] for axis in order)
        inner = self._like(source, shape)
        inputs = inputs_of(operator)
        axis = np.full(self._shape(inputs[axis_place]), order.index(axes[0] % len(order)), np.int32)
        inputs[source_place] = inner
        inputs[axis_place] = add_constant(self._model, self._graph, name=b"", values=axis)
        outputs = [self._like(part, [self._shape(part)[axis] for axis in order]) for part in parts]
        for reader in readers:
            self._read_instead(int(reader.outputs[0]), outputs[parts.index(int(reader.inputs[0]))])
        operator.inputs, operator.outputs = _shape(inputs), _shape(outputs)
        place = next(n for n, each in enumerate(self._graph.operators) if each is operator)
        self._graph.operators.insert(place, self._operator(_Move("TRANSPOSE", shape, order), source, inner))
        return True

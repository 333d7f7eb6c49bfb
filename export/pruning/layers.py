"""The weights of a file as linear maps: what each sees of samples, how it is solved for, and how it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_values,
    graphs_of_signatures,
    indices_of,
    inputs_of,
    load_with_graph,
    numbers_operators,
    operator_name,
)
from tfprune.export.file.sparse_tensors import PLAIN
from tfprune.export.pruning.pieces import (
    BIASES,
    LiveTensors,
    PieceRunner,
    Pieces,
    StoredWeight,
    bias_scale,
    own_bias,
    read_bias,
    real,
    type_name,
)
from tfprune.export.rewriting.sparsify import make_dense, unpacked
from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments, Grid
from tfprune.solving.zeros import RIDGE_KEPT, ZeroSolver

# The rows of numbers that a weight multiplies, taken from the tensor that an operator reads.

_Pick = Callable[[int], np.ndarray]  # how many rows there are -> the indices of those to take
_Rows = Callable[[np.ndarray, _Pick], np.ndarray]  # the tensor -> rows, of shape (groups, rows, inputs)


def _vectors(inputs: int) -> _Rows:
    """Return a function from a tensor to the vectors along its last axis."""

    def rows(x: np.ndarray, pick: _Pick) -> np.ndarray:
        flat = x.reshape(-1, inputs)
        return flat[np.newaxis, pick(len(flat))]

    return rows


def _patches(options: schema.Conv2DOptionsT, shape: tuple[int, ...], *, groups: int) -> _Rows:
    """Return a function from feature maps to the patches that a kernel of that shape, outputs first, sees."""
    is_same = options.padding == schema.Padding.SAME
    steps = options.strideH, options.strideW
    rates = max(options.dilationHFactor, 1), max(options.dilationWFactor, 1)

    def rows(x: np.ndarray, pick: _Pick) -> np.ndarray:
        spans = [
            _span(length, (taps - 1) * rate + 1, step, is_same)
            for length, taps, rate, step in zip(x.shape[1:3], shape[1:3], rates, steps, strict=True)
        ]
        paddings = [padding for padding, _ in spans]
        padded = np.pad(x, [(0, 0), *paddings, (0, 0)]) if np.any(paddings) else x
        counts = len(x), spans[0][1], spans[1][1]
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        down = row[:, None] * steps[0] + np.arange(shape[1]) * rates[0]
        right = column[:, None] * steps[1] + np.arange(shape[2]) * rates[1]
        patches = padded[image[:, None, None], down[:, :, None], right[:, None, :]]
        patches = patches.reshape(len(image), shape[1] * shape[2], groups, shape[3])
        return np.moveaxis(patches, 2, 0).reshape(groups, len(image), -1)

    return rows


def _span(length: int, reach: int, step: int, is_same: bool) -> tuple[tuple[int, int], int]:
    """Return the zeros before and after an axis, and the number of outputs along it."""
    if not is_same:
        return (0, 0), (length - reach) // step + 1
    count = -(-length // step)
    missing = max((count - 1) * step + reach - length, 0)
    return (missing // 2, missing - missing // 2), count


def _transposed_patches(
    options: schema.TransposeConvOptionsT, shape: tuple[int, ...], *, lengths: tuple[int, ...]
) -> _Rows:
    """Return the same for a transposed convolution: the inputs that each output adds up, 0 where there is none."""
    is_same = options.padding == schema.Padding.SAME
    steps = options.strideH, options.strideW

    def along(axis: int, output: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        taps, step = shape[1 + axis], steps[axis]
        missing = max((length - 1) * step + taps - lengths[axis], 0) if is_same else 0
        place = output[:, None] + missing // 2 - np.arange(taps)
        source, rest = np.divmod(place, step)
        is_there = (rest == 0) & (source >= 0) & (source < length)
        return np.where(is_there, source, 0), is_there

    def rows(x: np.ndarray, pick: _Pick) -> np.ndarray:
        counts = len(x), *lengths
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        (down, is_down), (right, is_right) = along(0, row, x.shape[1]), along(1, column, x.shape[2])
        patches = x[image[:, None, None], down[:, :, None], right[:, None, :]]
        patches = patches * (is_down[:, :, None] & is_right[:, None, :])[..., None]
        return patches.reshape(1, len(image), -1)

    return rows


def _steps_before(axis: int, columns: slice, *, is_reversed: bool) -> _Rows:
    """Return a function from the outputs of a recurrent operator to those of one step of time before.

    Args:
        axis: The axis of time.
        columns: Which entries of the last axis are outputs of this direction.
        is_reversed: Whether it reads time from the end.
    """

    def rows(x: np.ndarray, pick: _Pick) -> np.ndarray:
        states = np.moveaxis(x, axis, 0)[..., columns]
        first = np.zeros_like(states[:1])  # the state before the first step
        before = np.concatenate([states[1:], first] if is_reversed else [first, states[:-1]])
        before = np.moveaxis(before, 0, axis)
        flat = before.reshape(-1, before.shape[-1])
        return flat[np.newaxis, pick(len(flat))]

    return rows


# The weights of recurrent operators: some see the inputs, others the outputs of the step before.


class _Direction(NamedTuple):
    """The reader of time in one direction.

    Attributes:
        inputs: The places of the weights that see the inputs, each with the place of its bias; -1 without one.
        states: The places of the weights that see the outputs of the step before.
    """

    inputs: Mapping[int, int]
    states: tuple[int, ...] = ()


class _RecurrentWeight(NamedTuple):
    """A weight of a recurrent operator.

    Attributes:
        place: Where it stands among the inputs of the operator.
        bias_place: Where its bias stands; -1 without one.
        activation: The tensor that it sees.
        before: A function from that tensor to the rows of one step before; None if it sees the tensor as it is.
    """

    place: int
    bias_place: int
    activation: int
    before: _Rows | None


_GATES = {1: 12, 2: 13, 3: 14, 4: 15}
# Operators of a single step keep their state from run to run, so that no tensor shows it.
_RECURRENT = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (_Direction(_GATES, (5, 6, 7, 8)),),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (
        _Direction(_GATES, (5, 6, 7, 8)),
        _Direction({18: 29, 19: 30, 20: 31, 21: 32}, (22, 23, 24, 25)),
    ),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (_Direction({1: 3}, (2,)),),
    "BIDIRECTIONAL_SEQUENCE_RNN": (_Direction({1: 3}, (2,)), _Direction({5: 7}, (6,))),
    "LSTM": (_Direction(_GATES),),
    "RNN": (_Direction({1: 3}),),
    "SVDF": (_Direction({1: -1}),),
}
_AUXILIARY = {"BIDIRECTIONAL_SEQUENCE_LSTM": 39, "BIDIRECTIONAL_SEQUENCE_RNN": 9}
_NORMS = {"UNIDIRECTIONAL_SEQUENCE_LSTM": 20, "LSTM": 20}  # from here on: a bias is then added after the norm


def _recurrent_weights(
    kind: str, operator: schema.OperatorT, *, state_length: Callable[[int], int]
) -> list[_RecurrentWeight] | str:
    """Return the weights of a recurrent operator; a string says why they are left alone.

    Args:
        kind: A name from `_RECURRENT`.
        operator: The operator.
        state_length: A function from the place of a weight to the number of its inputs.
    """
    inputs, options = inputs_of(operator), operator.builtinOptions
    if kind == "LSTM" and options.kernelType == schema.LSTMKernelType.BASIC:
        return "its weight sees inputs and outputs together"
    if any(index >= 0 for index in inputs[_AUXILIARY.get(kind, len(inputs)) :][:1]):
        return "it has an auxiliary input"
    has_norm = any(index >= 0 for index in inputs[_NORMS.get(kind, len(inputs)) :])
    weights, first = [], 0
    for number, direction in enumerate(_RECURRENT[kind]):
        weights += [
            _RecurrentWeight(place, -1 if has_norm else bias, inputs[0], None)
            for place, bias in direction.inputs.items()
        ]
        if not direction.states:
            continue
        is_merged = len(_RECURRENT[kind]) > 1 and options.mergeOutputs
        length = state_length(direction.states[-1])
        columns = slice(first, first + length) if is_merged else slice(None)
        first += length
        output = int(operator.outputs[0 if is_merged else number])
        before = _steps_before(_time_axis(options), columns, is_reversed=number == 1)
        weights += [_RecurrentWeight(place, -1, output, before) for place in direction.states]
    return [weight for weight in weights if inputs[weight.place] >= 0]  # the input gate may be missing


def _time_axis(options: Any) -> int:
    return 0 if options.timeMajor else 1


# Operators as linear maps: the matrix that a weight is, and the rows of numbers that it multiplies.

_MAX_INPUTS = 6144  # of one output: its second moments take 0.3 GB
# The places of activation, weight and bias among the inputs; -1 for none.
PLACES = {
    "CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
    "BATCH_MATMUL": (0, 1, -1),
}
TABLES = {"GATHER": (1, 0), "EMBEDDING_LOOKUP": (0, 1)}  # the places of indices and table
_LEFT_ALONE = {
    "DEPTHWISE_CONV_2D": "depthwise weights are few, and each output needs all of them",
    "CONV_3D": "3D convolutions are not pruned",
}
_ELSEWHERE = "it stands in another graph of the file"


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """An operator with a weight of outputs by inputs.

    Attributes:
        step: Its number among the steps of the pieces.
        kind: Its name.
        activation: The tensor that it multiplies.
        weight: The constant.
        bias_place: Where its bias stands among its inputs; -1 without one.
        output_axis: The dimension of its outputs.
        groups: The number of groups that inputs and outputs are split into.
        positions: The number of positions of the kernel.
        rows: A function from the activation to the rows that the weight multiplies, of shape (groups, rows, inputs).
        is_fed_back: Whether the activation is what the operator itself returns, one step of time before.
        loop: The step of the WHILE whose body it stands in; None outside of loops. `step` counts inside of the body.
        graph: The number of the graph that it, or its loop, stands in.
    """

    step: int
    kind: str
    activation: int
    weight: int
    bias_place: int
    output_axis: int
    groups: int
    positions: int
    rows: _Rows
    is_fed_back: bool = False
    loop: int | None = None
    graph: int = 0

    def home(self, pieces: Pieces) -> Pieces:
        """Return the graph that it stands in, or the body of its loop, of a file with any of its graphs."""
        graph = pieces.sibling(self.graph)
        return graph if self.loop is None else graph.bodies[self.loop]

    def bias(self, pieces: Pieces) -> np.ndarray:
        """Return its bias as real numbers; an empty array without one."""
        if self.bias_place < 0:
            return np.zeros(0)
        home = self.home(pieces)
        return read_bias(home.model, home.graph.tensors[inputs_of(home.steps[self.step])[self.bias_place]])

    @property
    def order(self) -> tuple[int, int]:
        """When its activation is there: after how many steps of the file, and of the body of its loop."""
        inner = self.step + self.is_fed_back
        return (inner, 0) if self.loop is None else (self.loop, inner)

    def to_matrix(self, values: np.ndarray) -> np.ndarray:
        """Return a weight as a matrix of each group, of shape (groups, outputs, inputs), positions before inputs."""
        outputs = values.shape[self.output_axis]
        if self.output_axis == values.ndim - 1:
            return values.reshape(-1, outputs).T[np.newaxis]
        return values.reshape(self.groups, outputs // self.groups, -1)

    def from_matrix(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the weight that `to_matrix` makes a matrix of."""
        return (matrix[0].T if self.output_axis == len(shape) - 1 else matrix).reshape(shape)


def _linear_operators(pieces: Pieces) -> tuple[list[LinearOperator], list[tuple[str, str]]]:
    """Return the linear maps of a graph in order, and the weights left alone, each with the reason."""
    linear_maps: list[LinearOperator] = []
    others: list[tuple[str, str]] = []
    for step, operator in enumerate(pieces.steps):
        body = pieces.bodies.get(step)
        if body is not None:
            inner, skipped = _linear_operators(body)
            linear_maps += [dataclasses.replace(each, loop=step) for each in inner]
            others += skipped
            continue
        kind = operator_name(pieces.model, operator)
        maps, reason = _maps(pieces, operator, step=step, kind=kind)
        linear_maps += maps
        weights = {each.weight for each in maps}
        for index in [index for index in inputs_of(operator) if reason and index >= 0 and _is_weight(pieces, index)]:
            if pieces.constant_behind(index) not in weights:
                others.append((_name(pieces, index), f"{kind}: {reason}"))
    return [dataclasses.replace(each, graph=pieces.number) for each in linear_maps], others


def _maps(
    pieces: Pieces, operator: schema.OperatorT, *, step: int, kind: str
) -> tuple[list[LinearOperator], str | None]:
    """Return the linear maps of an operator, and why its other weights are left alone; None if it has none."""
    if kind in _RECURRENT:
        return _recurrent(pieces, operator, step=step, kind=kind)
    if kind not in PLACES and kind not in TABLES:
        return [], _LEFT_ALONE.get(kind)
    place = (PLACES.get(kind) or TABLES[kind])[1]
    if not _is_weight(pieces, inputs_of(operator)[place]):
        return [], None if kind in TABLES else "its weight is not a constant"
    result = (_linear_operator if kind in PLACES else _table)(pieces, operator, step=step, kind=kind)
    return ([result], None) if isinstance(result, LinearOperator) else ([], result)


def _is_weight(pieces: Pieces, tensor: int) -> bool:
    constant = pieces.constant_behind(tensor)
    return pieces.has_values(constant) and _is_matrix(pieces.model, pieces.graph.tensors[constant])


def _is_matrix(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0 and tensor.shape is not None and len(tensor.shape) >= 2


def _shape(pieces: Pieces, tensor: int) -> tuple[int, ...]:
    return tuple(map(int, pieces.graph.tensors[tensor].shape))


def _name(pieces: Pieces, tensor: int) -> str:
    return (pieces.graph.tensors[pieces.constant_behind(tensor)].name or b"").decode(errors="replace")


def _linear_operator(pieces: Pieces, operator: schema.OperatorT, *, step: int, kind: str) -> LinearOperator | str:
    activation, weight, bias = PLACES[kind]
    inputs = inputs_of(operator)
    constant = pieces.constant_behind(inputs[weight])
    shape = tuple(map(int, pieces.graph.tensors[constant].shape))
    has_bias = 0 <= bias < len(inputs) and inputs[bias] >= 0 and pieces.has_values(inputs[bias])
    output_axis, groups, positions = 0, 1, 1
    options = operator.builtinOptions
    if kind == "CONV_2D":
        channels = int(pieces.graph.tensors[inputs[activation]].shape[-1])
        groups, positions = channels // shape[3], shape[1] * shape[2]
        rows = _patches(options, shape, groups=groups)
    elif kind == "TRANSPOSE_CONV":
        positions = shape[1] * shape[2]
        output = pieces.graph.tensors[int(operator.outputs[0])]
        if output.shapeSignature is not None and (np.asarray(output.shapeSignature)[1:3] < 0).any():
            return "the file leaves the size of its output open"
        lengths = tuple(map(int, output.shape[1:3]))
        rows = _transposed_patches(options, shape, lengths=lengths)
    elif kind == "BATCH_MATMUL":
        if options.adjX or np.prod(shape[:-2]) != 1:
            return "it multiplies by several matrices, or by a transposed activation"
        output_axis = len(shape) - (2 if options.adjY else 1)
        rows = _vectors(shape[-1] if options.adjY else shape[-2])
    elif options is not None and options.weightsFormat:
        return "its weights are shuffled"
    else:
        rows = _vectors(shape[1])
    size = int(np.prod(shape)) // shape[output_axis]
    if size > _MAX_INPUTS:
        return f"{size:,} inputs for each output; more than {_MAX_INPUTS:,} take too much memory"
    place = bias if has_bias else -1
    return LinearOperator(step, kind, inputs[activation], constant, place, output_axis, groups, positions, rows)


def _table(pieces: Pieces, operator: schema.OperatorT, *, step: int, kind: str) -> LinearOperator | str:
    """Return a table whose rows are looked up: an index picks the row, and nothing is multiplied."""
    indices, table = (inputs_of(operator)[place] for place in TABLES[kind])
    options = operator.builtinOptions
    if kind == "GATHER" and options is not None and (options.axis or options.batchDims):
        return "it picks other parts than rows of a table"
    if pieces.has_values(indices):
        return "it always picks the same rows"
    return LinearOperator(step, kind, indices, pieces.constant_behind(table), -1, 0, 1, 1, _vectors(1))


def _recurrent(
    pieces: Pieces, operator: schema.OperatorT, *, step: int, kind: str
) -> tuple[list[LinearOperator], str | None]:
    inputs = inputs_of(operator)
    weights = _recurrent_weights(kind, operator, state_length=lambda place: _shape(pieces, inputs[place])[1])
    if isinstance(weights, str):
        return [], weights
    maps, alive = [], pieces.alive(step + 1)
    for weight in weights:
        if not _is_weight(pieces, inputs[weight.place]) or (weight.before and weight.activation not in alive):
            continue
        bias = weight.bias_place
        has_bias = 0 <= bias < len(inputs) and inputs[bias] >= 0 and pieces.has_values(inputs[bias])
        linear_map = LinearOperator(
            step,
            kind,
            weight.activation,
            pieces.constant_behind(inputs[weight.place]),
            bias if has_bias else -1,
            output_axis=0,
            groups=1,
            positions=1,
            rows=weight.before or _vectors(_shape(pieces, inputs[weight.place])[1]),
            is_fed_back=weight.before is not None,
        )
        maps.append(linear_map)
    return maps, "the file has no tensor of what it multiplies"


class WeightElsewhere(NamedTuple):
    """A weight of a graph without samples: its buffer and name, why it is left alone, and the graph's signature."""

    buffer: int
    name: str
    reason: str
    signature: str


def weights_elsewhere(pieces: Pieces, numbers: Collection[int]) -> list[WeightElsewhere]:
    """Return the weights outside of some graphs of a file and the bodies of their loops.

    Args:
        pieces: Any graph of the file.
        numbers: The graphs.
    """
    bodies = {body.number for number in numbers for body in pieces.sibling(number).bodies.values()}
    signatures = {number: name for name, number in graphs_of_signatures(pieces.model).items()}
    weights = []
    for number, graph in enumerate(pieces.model.subgraphs):
        signature = signatures.get(number, "")
        reason = f"its signature {signature!r} has no samples" if signature else _ELSEWHERE
        for operator in [] if number in {*numbers, *bodies} else graph.operators or ():
            kind = operator_name(pieces.model, operator)
            if kind in PLACES or kind in _RECURRENT:
                tensors = [graph.tensors[index] for index in inputs_of(operator) if index >= 0]
                weights += [
                    WeightElsewhere(
                        tensor.buffer,
                        (tensor.name or b"").decode(errors="replace"),
                        f"{kind}: {reason}",
                        signature,
                    )
                    for tensor in tensors
                    if _is_matrix(pieces.model, tensor)
                ]
    return weights


# Follow the samples through a file: to each of its operators, and into the turns of its loops.

_TURNS = 16  # of each run of a loop, evenly spaced: neighbors are alike


class Activations:
    """The tensors that operators multiply, in all runs of a file, asked for in the order of `LinearOperator.order`.

    Args:
        pieces: The file. Its values may change behind the step that the runs have reached.
        runs: The inputs of each run, by tensor.
        folder: Where arrays lie that do not fit into the memory set aside for them.
    """

    def __init__(self, pieces: Pieces, runs: list[Mapping[int, np.ndarray]], *, folder: Path) -> None:
        self._pieces, self._folder = pieces, folder
        self._live = LiveTensors(pieces, runs, folder=folder)
        self._turns: tuple[int, LiveTensors] | None = None  # those of the loop that the runs have reached

    @property
    def step(self) -> int:
        """The step that the runs have reached."""
        return self._live.step

    def all(self, run: int) -> dict[int, np.ndarray]:
        """Return all live tensors of one run."""
        return self._live.all(run)

    def of(self, operator: LinearOperator) -> Iterator[np.ndarray]:
        """Yield what an operator multiplies, in each run of the file or turn of its loop."""
        first, inner = operator.order
        self._live.advance(first)
        live = self._live
        if operator.loop is not None:
            live = self._inside(operator.loop)
            live.advance(inner)
        for run in range(len(live)):
            yield live.get(run, operator.activation)

    def _inside(self, loop: int) -> LiveTensors:
        if self._turns is None or self._turns[0] != loop:
            runner = _LoopRunner(self._pieces, loop)
            turns = [turn for run in range(len(self._live)) for turn in runner.turns(self._live.all(run))]
            self._turns = loop, LiveTensors(self._pieces.bodies[loop], turns, folder=self._folder)
        return self._turns[1]


class _LoopRunner:
    """Runs a WHILE turn by turn.

    Args:
        pieces: The graph that it stands in.
        step: Its number among the steps.
    """

    def __init__(self, pieces: Pieces, step: int) -> None:
        operator = pieces.steps[step]
        self._inputs = indices_of(operator.inputs)
        self._constants = pieces.constants(self._inputs)
        self._condition = Pieces(pieces.model, operator.builtinOptions.condSubgraphIndex)
        self._body = pieces.bodies[step]
        self._runners = [PieceRunner(each.cut(0, len(each.steps))) for each in (self._condition, self._body)]
        self._body_constants = self._body.constants(self._body.outputs)

    def turns(self, values: Mapping[int, np.ndarray]) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of the body in some of the turns that live tensors lead to."""
        tensors, turns = {**self._constants, **values}, []
        state = [tensors[index] for index in self._inputs]
        again, following = self._runners
        while True:
            entry = dict(zip(self._condition.inputs, state, strict=True))
            (is_on,) = ({**entry, **again.run(entry)}[index] for index in self._condition.outputs)
            if not is_on:
                break
            turns.append(dict(zip(self._body.inputs, state, strict=True)))
            results = {**self._body_constants, **turns[-1], **following.run(turns[-1])}
            state = [results[index] for index in self._body.outputs]
        sampled = np.linspace(0, len(turns) - 1, min(_TURNS, len(turns))).round().astype(int)
        return [turns[index] for index in sampled]


# A weight of a file with the operators that use it: what it sees, how it is solved for, and how it is written.

_ROWS_PER_SAMPLE = 64


class FileLayer:
    """A weight of the dense file.

    Args:
        pieces: A graph of the dense file.
        operators: The operators that use the weight: those of this graph in order, then those of others.
        stored: How it is stored.

    Attributes:
        operators: Those of this graph, whose inputs say which entries matter.
        is_in_others: Whether other graphs use it, too.
        name: The name of its tensor.
        inputs: The number of inputs without the bias.
    """

    def __init__(self, pieces: Pieces, operators: Sequence[LinearOperator], stored: StoredWeight) -> None:
        self._users, self.stored = operators, stored
        self._first = operators[0]
        self.operators = [operator for operator in operators if operator.graph == self._first.graph]
        self.is_in_others = len(self.operators) < len(operators)
        home = self._first.home(pieces)
        tensor = home.graph.tensors[self._first.weight]
        self.name, self.kind = (tensor.name or b"").decode(errors="replace"), self._first.kind
        self.buffer, self._values = tensor.buffer, pieces.model.buffers[tensor.buffer].data
        # Operators that share a weight keep biases that differ.
        self._bias, *others = (operator.bias(pieces) for operator in operators)
        self.has_bias = self._bias.size > 0 and all(np.array_equal(self._bias, other) for other in others)
        self.inputs = self.weights.shape[2] - self.has_bias
        self.size = self.kernel(self.weights).size
        self.zeros = 1 - np.count_nonzero(self.kernel(self.weights)) / self.size
        self.forget()

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """For each group a matrix of outputs by inputs, and a bias as the last input where it has one."""
        matrix = self._first.to_matrix(self.stored.read(schema.BufferT(data=self._values)))
        if self.has_bias:
            matrix = np.concatenate([matrix, self._bias.reshape(*matrix.shape[:2], 1)], axis=2)
        return matrix.astype(np.float32)

    def forget(self) -> None:
        """Let go of the weights, which are read anew when they are asked for: a file has many layers."""
        self.__dict__.pop("weights", None)

    @property
    def is_in_parallel(self) -> bool:
        """Whether it is solved for on the dense file alone: its own zeros change what it sees."""
        return len(self.operators) > 1 or self._first.is_fed_back or self._first.loop is not None

    @property
    def solver(self) -> ZeroSolver:
        """Puts zeros into the weights. Made anew each time, as it holds them in double precision."""
        return ZeroSolver(self.weights, inputs=self.inputs, positions=self._first.positions, ridge_kept=RIDGE_KEPT)

    def kernel(self, weights: np.ndarray) -> np.ndarray:
        """Return weights without the bias."""
        return weights[..., : self.inputs]

    def moments(self) -> list[GramMoments]:
        """Return empty moments, one for each group."""
        groups, outputs, inputs = self.weights.shape
        return [GramMoments(inputs, outputs) for _ in range(groups)]

    def rows(self, pieces: Pieces, operator: LinearOperator, x: np.ndarray, *, run: int) -> np.ndarray:
        """Return what the weight multiplies in one run: 64 rows of each sample at most, in each file the same."""
        tensor = operator.home(pieces).graph.tensors[operator.activation]
        generator = np.random.default_rng([run, operator.step, zlib.crc32(self.name.encode())])
        most = _ROWS_PER_SAMPLE * (len(x) if x.ndim else 1)

        def pick(count: int) -> np.ndarray:
            return generator.choice(count, most, replace=False) if count > most else np.arange(count)

        rows = operator.rows(real(tensor, x), pick)
        return np.concatenate([rows, np.ones_like(rows[..., :1])], axis=2) if self.has_bias else rows

    def moments_in_order(self, pieces: Pieces, *, dense: Activations, now: Activations) -> list[GramMoments]:
        """Return what the layer sees in the file as it is now, and what it returned in the dense one.

        Args:
            pieces: The dense file.
            dense: Its activations, as far as the layer.
            now: Those of the file whose earlier layers have changed.
        """
        operator, moments = self.operators[0], self.moments()
        for run, pair in enumerate(zip(now.of(operator), dense.of(operator), strict=True)):
            ours, before = (self.rows(pieces, operator, x, run=run) for x in pair)
            self.add(moments, ours, dense=before)
        return moments

    def add(self, moments: list[GramMoments], rows: np.ndarray, *, dense: np.ndarray | None = None) -> None:
        """Add rows of inputs, and the outputs that the dense weights make of the rows of the dense file.

        In single precision, which is twice as fast: the ridges hide the rounding.
        """
        for group, sums in enumerate(moments):
            x = rows[group]
            sums.count += len(x)
            sums.gram += x.T @ x
            if dense is not None:
                y = dense[group] @ self.weights[group].T
                sums.cross += y.T @ x
                sums.energy += np.einsum("ro,ro->o", y, y)

    def solve(
        self, moments: list[GramMoments], *, sparsity: float, pattern: Pattern
    ) -> tuple[np.ndarray, StoredWeight]:
        """Return weights with zeros as they will be stored, and how.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            sparsity: The fraction of zeros.
            pattern: The shape of the zeros.
        """
        solver = self.solver
        masked = solver.masking(moments, solver.refit(moments), pattern=pattern)
        solved = masked(sparsity)
        stored = self.stored.grown(self.tensor(solved))  # by what real numbers would need
        if stored.is_integer:
            grids = [Grid(steps[:, :1]) for steps in self._first.to_matrix(stored.steps())]
            rounded = [self._rounded(*pair) for pair in zip(solved, grids, strict=True)]
            others = masked(sparsity, grids=grids)  # which make up for the rounding as well
            groups = zip(moments, rounded, others, strict=True)
            solved = np.stack([sums.better(*pair) for sums, *pair in groups])
        return solved, stored

    def _rounded(self, weights: np.ndarray, grid: Grid) -> np.ndarray:
        """Return the weights of a group on a grid, and its bias as it is."""
        return np.concatenate([grid.nearest(self.kernel(weights)), weights[:, self.inputs :]], axis=1)

    @contextlib.contextmanager
    def written(self, pieces: Pieces, weights: np.ndarray) -> Iterator[None]:
        """Put weights into a file for the time of a block."""
        stored = self.stored.grown(self.tensor(weights))
        model = pieces.model
        sizes = [(graph.tensors, len(graph.tensors)) for graph in model.subgraphs]
        sizes.append((model.buffers, len(model.buffers)))
        steps = [operator.home(pieces).steps[operator.step] for operator in self._users]
        data, old_inputs = model.buffers[self.buffer].data, [step.inputs for step in steps]
        self.write(pieces, weights, stored)
        yield
        for added, size in sizes:
            del added[size:]
        for step, inputs in zip(steps, old_inputs, strict=True):
            step.inputs = inputs
        self._write_values(model, data, self.stored)

    def write(self, pieces: Pieces, weights: np.ndarray, stored: StoredWeight) -> None:
        """Put weights into a file, and let its biases follow the scales."""
        model = pieces.model
        self._write_values(model, stored.write(self.tensor(weights)), stored)
        growth = stored.scales / self.stored.scales if stored.is_integer else np.ones(1)
        for operator in self._users:
            values = weights[..., -1].reshape(-1) if self.has_bias else operator.bias(pieces)
            if not values.size:
                continue
            home, place = operator.home(pieces), operator.bias_place
            inputs = inputs_of(home.steps[operator.step])
            inputs[place] = own_bias(model, home.graph, tensor=inputs[place], values=values, growth=growth)
            home.steps[operator.step].inputs = np.array(inputs, np.int32)

    def _write_values(self, model: schema.ModelT, data: np.ndarray, stored: StoredWeight) -> None:
        """Set the bytes of the weight, and its scales in all graphs."""
        model.buffers[self.buffer].data = data
        tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors if tensor.buffer == self.buffer]
        for tensor in tensors if stored.is_integer else ():
            tensor.quantization.scale = stored.scales.astype(np.float32)

    def tensor(self, weights: np.ndarray) -> np.ndarray:
        """Return weights in the shape of the constant, without the bias."""
        return self._first.from_matrix(self.kernel(weights), self.stored.shape)


# A table of a file, of which indices pick rows: nothing is multiplied, and no entry can make up for another.

_UNSEEN = 1.0  # how often a row counts that no sample picks: it may be picked later


class _RowCounts(GramMoments):
    """Moments of inputs that are 1 for the row picked and 0 for all others: a diagonal, the number of picks.

    Args:
        table: The table, of shape (rows, columns).
    """

    def __init__(self, table: np.ndarray) -> None:
        self.count, self._table = 1, table
        self.picks = np.full(len(table), _UNSEEN)

    def pick(self, rows: np.ndarray) -> None:
        """Count indices; those outside of the table pick nothing."""
        there = rows[(rows >= 0) & (rows < len(self.picks))].astype(np.int64)
        self.picks += np.bincount(there, minlength=len(self.picks))
        self.energy = self.errors(np.zeros_like(self._table))

    def aimed_at(self, weights: np.ndarray) -> _RowCounts:
        """Return the same: what a table should return are its own rows."""
        return self

    def of(self, outputs: np.ndarray | slice) -> _RowCounts:
        """Return the same: a table is always measured whole, which costs little."""
        return self

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Return the summed squared error of each row."""
        return self.picks * np.square(weights - self._table).sum(axis=1)


class _TableSolver(ZeroSolver):
    """Chooses zeros of a table: an entry costs its square times the number of picks of its row."""

    def refit(self, moments: Sequence[Any]) -> np.ndarray:
        """Return the table as it is."""
        return self.weights

    def masking(self, moments: Sequence[Any], start: np.ndarray, *, pattern: Pattern) -> Callable[..., np.ndarray]:
        """Return a function from a sparsity to the table with zeros, whatever else it is asked for."""
        costs = moments[0].picks[:, np.newaxis] * np.square(start[0])

        def masked(sparsity: float, **_: Any) -> np.ndarray:
            return np.where(pattern(costs, sparsity), start[0], 0)[np.newaxis]

        return masked


class _TableLayer(FileLayer):
    """A table of rows, of which frequent ones keep more entries."""

    @property
    def solver(self) -> _TableSolver:
        """Puts zeros into the table."""
        return _TableSolver(self.weights, inputs=self.inputs)

    @property
    def is_in_parallel(self) -> bool:
        """Whether it is solved for on the dense file alone: zeros do not change which rows are picked."""
        return True

    def moments(self) -> list[GramMoments]:
        """Return counts before the first sample."""
        return [_RowCounts(self.weights[0])]

    def rows(self, pieces: Pieces, operator: LinearOperator, x: np.ndarray, *, run: int) -> np.ndarray:
        """Return the indices of one run."""
        return x.reshape(-1)

    def add(self, moments: list[Any], rows: np.ndarray, *, dense: np.ndarray | None = None) -> None:
        """Count the indices of a run."""
        moments[0].pick(rows)


# Find the weights of a file that can be pruned, each with all operators that use it.


def find_layers(pieces: Pieces) -> tuple[list[FileLayer], list[tuple[str, str]]]:
    """Return the weights of a graph that can be pruned, in order, and the names of the others, each with the reason.

    Operators in the graphs of other signatures may use the same weights.
    """
    operators, skipped = _linear_operators(pieces)
    by_buffer: dict[int, list[LinearOperator]] = {}
    for operator in operators:
        by_buffer.setdefault(_tensor(pieces, operator).buffer, []).append(operator)
    for number in pieces.entries:
        for operator in _linear_operators(pieces.sibling(number))[0] if number != pieces.number else ():
            by_buffer.get(_tensor(pieces, operator).buffer, []).append(operator)
    layers = []
    for sharing in by_buffer.values():
        layer = _layer_of(pieces, sharing)
        if isinstance(layer, FileLayer):
            layers.append(layer)
        else:
            name = _tensor(pieces, sharing[0]).name or b""
            skipped.append((name.decode(errors="replace"), f"{sharing[0].kind}: {layer}"))
    return layers, skipped


def _tensor(pieces: Pieces, operator: LinearOperator) -> schema.TensorT:
    return operator.home(pieces).graph.tensors[operator.weight]


def _layer_of(pieces: Pieces, operators: Sequence[LinearOperator]) -> FileLayer | str:
    """Return a weight with all operators that use it; a string says why it is left alone."""
    first = operators[0]
    tensor = _tensor(pieces, first)
    stored = StoredWeight.of(tensor)
    if isinstance(stored, str):
        return stored
    homes = {home.number: home for home in (operator.home(pieces) for operator in operators)}
    outside = [graph for number, graph in enumerate(pieces.model.subgraphs) if number not in homes]
    if any(each.buffer == tensor.buffer for graph in outside for each in graph.tensors or ()):
        return "another graph of the file has the same weights"
    takers = [step for home in homes.values() for step in home.steps if any(_reads(home, step, tensor.buffer))]
    if len(takers) > len(operators):
        return "an operator of another kind uses the same weights"
    if stored.axis not in (None, first.output_axis):
        return "its scales are not those of its outputs"
    for operator in operators:
        other = StoredWeight.of(_tensor(pieces, operator))
        is_same = isinstance(other, StoredWeight) and np.array_equal(other.scales, stored.scales)
        if not is_same or _form(operator) != _form(first):
            return "operators of other kinds or scales use the same weights"
        if operator.bias_place >= 0 and not _has_known_bias(operator.home(pieces), operator):
            return "its bias has a type or scales that are not known"
    return (_TableLayer if first.kind in TABLES else FileLayer)(pieces, operators, stored)


def _form(operator: LinearOperator) -> tuple:
    return operator.kind, operator.positions, operator.groups, operator.output_axis


def _reads(pieces: Pieces, step: schema.OperatorT, buffer: int) -> list[bool]:
    constants = [pieces.constant_behind(index) for index in inputs_of(step) if index >= 0]
    return [pieces.graph.tensors[index].buffer == buffer for index in constants]


def _has_known_bias(pieces: Pieces, operator: LinearOperator) -> bool:
    tensor = pieces.graph.tensors[inputs_of(pieces.steps[operator.step])[operator.bias_place]]
    if type_name(tensor.type) not in BIASES or tensor.sparsity is not None:
        return False
    has_scale = tensor.quantization is not None and tensor.quantization.scale is not None
    return type_name(tensor.type) == "FLOAT32" or (has_scale and bool((bias_scale(tensor) > 0).all()))


# Unpack the weights of layers that are stored sparse, so that they are pruned as others are.


def unpack_sparse(content: bytes) -> schema.ModelT:
    """Return the objects of a plain file, with the sparse weights of its layers as dense constants.

    All other tensors stay as they are stored, and so do all in a file that names operators by their indices.
    """
    file, model = load_with_graph(content)
    if numbers_operators(model):
        return model
    pieces = Pieces(model)
    operators = [operator for number in pieces.entries for operator in _linear_operators(pieces.sibling(number))[0]]
    weights = {(operator.home(pieces).number, operator.weight) for operator in operators}
    dense: dict[int, int] = {}  # the new buffer of each old one
    for number, index in sorted(weights):
        values = file.subgraphs[number].tensors[index].values
        tensor = model.subgraphs[number].tensors[index]
        if tensor.sparsity is None or values is None or values.dtype not in PLAIN or {*values.zeros} != {0}:
            continue
        if tensor.buffer not in dense:
            dense[tensor.buffer] = add_values(model, unpacked(values))
        make_dense(model, model.subgraphs[number], tensor=index, buffer=dense[tensor.buffer])
    buffers_in_use = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for old in dense.keys() - buffers_in_use:
        model.buffers[old].data = None
    return model

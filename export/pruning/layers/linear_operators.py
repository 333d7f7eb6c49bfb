"""Operators as linear maps: the matrix that a weight is, and the rows of numbers that it multiplies."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import graphs_of_signatures
from tfprune.export.file.tflite.editor import inputs_of, operator_name
from tfprune.export.pruning.layers.input_rows import Rows, patches, transposed_patches, vectors
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.recurrent_operators import RECURRENT, recurrent_weights
from tfprune.export.pruning.layers.stored_weight import read_bias

MAX_INPUTS = 6144  # of one output: its second moments take 0.3 GB
# The places of activation, weight and bias among the inputs; -1 for none.
PLACES = {
    "CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
    "BATCH_MATMUL": (0, 1, -1),
}
TABLES = {"GATHER": (1, 0), "EMBEDDING_LOOKUP": (0, 1)}  # the places of indices and table
LEFT_ALONE = {
    "DEPTHWISE_CONV_2D": "depthwise weights are few, and each output needs all of them",
    "CONV_3D": "3D convolutions are not pruned",
}
ELSEWHERE = "it stands in another graph of the file"


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
    rows: Rows
    is_fed_back: bool = False
    loop: int | None = None
    graph: int = 0

    def home(self, pieces: Pieces) -> Pieces:
        """Return the graph that it stands in, or the body of its loop, of a file with any of its graphs."""
        graph = pieces.sibling(self.graph)
        return graph if self.loop is None else graph.bodies[self.loop]

    def bias(self, pieces: Pieces) -> np.ndarray:
        """Return its bias as real numbers, no number without one."""
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


def linear_operators(pieces: Pieces) -> tuple[list[LinearOperator], list[tuple[str, str]]]:
    """Return the linear maps of a graph in order, and the weights left alone, each with the reason."""
    linear_maps: list[LinearOperator] = []
    others: list[tuple[str, str]] = []
    for step, operator in enumerate(pieces.steps):
        body = pieces.bodies.get(step)
        if body is not None:
            inner, skipped = linear_operators(body)
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
    if kind in RECURRENT:
        return _recurrent(pieces, operator, step=step, kind=kind)
    if kind not in PLACES and kind not in TABLES:
        return [], LEFT_ALONE.get(kind)
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
        rows = patches(options, shape, groups=groups)
    elif kind == "TRANSPOSE_CONV":
        positions = shape[1] * shape[2]
        output = pieces.graph.tensors[int(operator.outputs[0])]
        if output.shapeSignature is not None and (np.asarray(output.shapeSignature)[1:3] < 0).any():
            return "the file leaves the size of its output open"
        lengths = tuple(map(int, output.shape[1:3]))
        rows = transposed_patches(options, shape, lengths=lengths)
    elif kind == "BATCH_MATMUL":
        if options.adjX or np.prod(shape[:-2]) != 1:
            return "it multiplies by several matrices, or by a transposed activation"
        output_axis = len(shape) - (2 if options.adjY else 1)
        rows = vectors(shape[-1] if options.adjY else shape[-2])
    elif options is not None and options.weightsFormat:
        return "its weights are shuffled"
    else:
        rows = vectors(shape[1])
    size = int(np.prod(shape)) // shape[output_axis]
    if size > MAX_INPUTS:
        return f"{size:,} inputs for each output; more than {MAX_INPUTS:,} take too much memory"
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
    return LinearOperator(step, kind, indices, pieces.constant_behind(table), -1, 0, 1, 1, vectors(1))


def _recurrent(
    pieces: Pieces, operator: schema.OperatorT, *, step: int, kind: str
) -> tuple[list[LinearOperator], str | None]:
    inputs = inputs_of(operator)
    weights = recurrent_weights(kind, operator, state_length=lambda place: _shape(pieces, inputs[place])[1])
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
            rows=weight.before or vectors(_shape(pieces, inputs[weight.place])[1]),
            is_fed_back=weight.before is not None,
        )
        maps.append(linear_map)
    return maps, "the file has no tensor of what it multiplies"


def weights_elsewhere(pieces: Pieces, numbers: Collection[int]) -> list[tuple[int, str, str]]:
    """Return buffer, name and reason of each weight outside of some graphs of a file and the bodies of their loops.

    Args:
        pieces: Any graph of the file.
        numbers: The graphs.
    """
    bodies = {body.number for number in numbers for body in pieces.sibling(number).bodies.values()}
    signatures = {number: name for name, number in graphs_of_signatures(pieces.model).items()}
    weights = []
    for number, graph in enumerate(pieces.model.subgraphs):
        reason = f"its signature {signatures[number]!r} has no samples" if number in signatures else ELSEWHERE
        for operator in [] if number in {*numbers, *bodies} else graph.operators or ():
            kind = operator_name(pieces.model, operator)
            if kind in PLACES or kind in RECURRENT:
                tensors = [graph.tensors[index] for index in inputs_of(operator) if index >= 0]
                weights += [
                    (tensor.buffer, (tensor.name or b"").decode(errors="replace"), f"{kind}: {reason}")
                    for tensor in tensors
                    if _is_matrix(pieces.model, tensor)
                ]
    return weights

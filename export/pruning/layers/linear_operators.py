"""Operators as linear maps: the matrix that a weight is, and the rows of numbers that it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of, operator_name
from tfprune.export.pruning.layers.pieces import Pieces

MAX_INPUTS = 6144  # of one output: its second moments take 0.3 GB
# The places of activation, weight and bias among the inputs; -1 for none.
PLACES = {
    "CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
    "BATCH_MATMUL": (0, 1, -1),
}
LEFT_ALONE = {
    "DEPTHWISE_CONV_2D": "depthwise weights are few, and each output needs all of them",
    "CONV_3D": "3D convolutions are not pruned",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "weights of recurrent operators are not pruned",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "weights of recurrent operators are not pruned",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "weights of recurrent operators are not pruned",
    "LSTM": "weights of recurrent operators are not pruned",
    "SVDF": "weights of recurrent operators are not pruned",
    "EMBEDDING_LOOKUP": "tables are not pruned",
    "GATHER": "tables are not pruned",
}
Pick = Callable[[int], np.ndarray]  # how many rows there are -> the indices of those to take


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
    """

    step: int
    kind: str
    activation: int
    weight: int
    bias_place: int
    output_axis: int
    groups: int
    positions: int
    rows: Callable[[np.ndarray, Pick], np.ndarray]

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
    found: list[LinearOperator] = []
    others: list[tuple[str, str]] = []
    for step, operator in enumerate(pieces.steps):
        kind = operator_name(pieces.model, operator)
        constants = [index for index in inputs_of(operator) if index >= 0 and _is_weight(pieces, index)]
        if kind in PLACES and _is_weight(pieces, inputs_of(operator)[PLACES[kind][1]]):
            made = _linear_operator(pieces, operator, step=step, kind=kind)
            if isinstance(made, LinearOperator):
                found.append(made)
            else:
                others.append((_name(pieces, inputs_of(operator)[PLACES[kind][1]]), f"{kind}: {made}"))
        elif constants and (kind in LEFT_ALONE or kind in PLACES):
            reason = LEFT_ALONE.get(kind, "its weight is not a constant")
            others += [(_name(pieces, index), f"{kind}: {reason}") for index in constants]
    return found, others


def _is_weight(pieces: Pieces, tensor: int) -> bool:
    constant = pieces.constant_behind(tensor)
    shape = pieces.graph.tensors[constant].shape
    return pieces.has_values(constant) and shape is not None and len(shape) >= 2


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
        rows = _patches(options, shape, groups)
    elif kind == "TRANSPOSE_CONV":
        positions = shape[1] * shape[2]
        lengths = tuple(map(int, pieces.graph.tensors[int(operator.outputs[0])].shape[1:3]))
        rows = _transposed_patches(options, shape, lengths)
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
    if size > MAX_INPUTS:
        return f"{size:,} inputs for each output; more than {MAX_INPUTS:,} take too much memory"
    place = bias if has_bias else -1
    return LinearOperator(step, kind, inputs[activation], constant, place, output_axis, groups, positions, rows)


def _vectors(inputs: int) -> Callable[[np.ndarray, Pick], np.ndarray]:
    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        vectors = x.reshape(-1, inputs)
        return vectors[np.newaxis, pick(len(vectors))]

    return rows


def _patches(options: schema.Conv2DOptionsT, shape: tuple[int, ...], groups: int) -> Callable:
    """Return a function from feature maps to the patches that a kernel of that shape, outputs first, sees."""
    is_same = options.padding == schema.Padding.SAME
    steps = options.strideH, options.strideW
    rates = max(options.dilationHFactor, 1), max(options.dilationWFactor, 1)

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        spans = [
            _span(length, (taps - 1) * rate + 1, step, is_same)
            for length, taps, rate, step in zip(x.shape[1:3], shape[1:3], rates, steps, strict=True)
        ]
        padded = np.pad(x, [(0, 0), *(padding for padding, _ in spans), (0, 0)])
        counts = len(x), spans[0][1], spans[1][1]
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        down = row[:, None] * steps[0] + np.arange(shape[1]) * rates[0]
        right = column[:, None] * steps[1] + np.arange(shape[2]) * rates[1]
        seen = padded[image[:, None, None], down[:, :, None], right[:, None, :]]
        seen = seen.reshape(len(image), shape[1] * shape[2], groups, shape[3])
        return np.moveaxis(seen, 2, 0).reshape(groups, len(image), -1)

    return rows


def _span(length: int, reach: int, step: int, is_same: bool) -> tuple[tuple[int, int], int]:
    """Return the zeros before and after an axis, and the number of outputs along it."""
    if not is_same:
        return (0, 0), (length - reach) // step + 1
    count = -(-length // step)
    missing = max((count - 1) * step + reach - length, 0)
    return (missing // 2, missing - missing // 2), count


def _transposed_patches(
    options: schema.TransposeConvOptionsT, shape: tuple[int, ...], lengths: tuple[int, ...]
) -> Callable:
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

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        counts = len(x), *lengths
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        (down, is_down), (right, is_right) = along(0, row, x.shape[1]), along(1, column, x.shape[2])
        seen = x[image[:, None, None], down[:, :, None], right[:, None, :]]
        seen = seen * (is_down[:, :, None] & is_right[:, None, :])[..., None]
        return seen.reshape(1, len(image), -1)

    return rows

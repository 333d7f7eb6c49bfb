"""The weights of recurrent operators: some see the inputs, others the outputs of the step before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of
from tfprune.export.pruning.layers.input_rows import Rows, steps_before


class Direction(NamedTuple):
    """What reads time in one direction.

    Attributes:
        inputs: The places of the weights that see the inputs, each with the place of its bias; -1 without one.
        states: The places of the weights that see the outputs of the step before.
    """

    inputs: Mapping[int, int]
    states: tuple[int, ...] = ()


class RecurrentWeight(NamedTuple):
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
    before: Rows | None


_GATES = {1: 12, 2: 13, 3: 14, 4: 15}
# Operators of a single step keep their state from run to run, so that no tensor shows it.
RECURRENT = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (Direction(_GATES, (5, 6, 7, 8)),),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (
        Direction(_GATES, (5, 6, 7, 8)),
        Direction({18: 29, 19: 30, 20: 31, 21: 32}, (22, 23, 24, 25)),
    ),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (Direction({1: 3}, (2,)),),
    "BIDIRECTIONAL_SEQUENCE_RNN": (Direction({1: 3}, (2,)), Direction({5: 7}, (6,))),
    "LSTM": (Direction(_GATES),),
    "RNN": (Direction({1: 3}),),
    "SVDF": (Direction({1: -1}),),
}
_AUXILIARY = {"BIDIRECTIONAL_SEQUENCE_LSTM": 39, "BIDIRECTIONAL_SEQUENCE_RNN": 9}
_NORMS = {"UNIDIRECTIONAL_SEQUENCE_LSTM": 20, "LSTM": 20}  # from here on: a bias is then added after the norm


def recurrent_weights(
    kind: str, operator: schema.OperatorT, *, state_length: Callable[[int], int]
) -> list[RecurrentWeight] | str:
    """Return the weights of a recurrent operator; a string says why they are left alone.

    Args:
        kind: A name from `RECURRENT`.
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
    for number, direction in enumerate(RECURRENT[kind]):
        weights += [
            RecurrentWeight(place, -1 if has_norm else bias, inputs[0], None)
            for place, bias in direction.inputs.items()
        ]
        if not direction.states:
            continue
        is_merged = len(RECURRENT[kind]) > 1 and options.mergeOutputs
        length = state_length(direction.states[-1])
        columns = slice(first, first + length) if is_merged else slice(None)
        first += length
        output = int(operator.outputs[0 if is_merged else number])
        before = steps_before(_time_axis(options), columns, is_reversed=number == 1)
        weights += [RecurrentWeight(place, -1, output, before) for place in direction.states]
    return [weight for weight in weights if inputs[weight.place] >= 0]  # the input gate may be missing


def _time_axis(options: Any) -> int:
    return 0 if options.timeMajor else 1

"""Steps of recurrent layers that round where the operators of an unrolled file do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfprune.quantizing.fake_quantize import fake_quantize
from tfprune.quantizing.rules import FIXED

State = tuple[Any, list[Any]]  # what a step returns: the output, and the states for the next one
Round = Callable[[str, Any], Any]  # name, tensor -> the tensor on the grid of that range


def fixed(name: str, tensor: Any) -> Any:
    """Apply an activation whose results have a range that the runtime fixes."""
    return fake_quantize(getattr(keras.activations, name)(tensor), FIXED[name])


def lstm_step(inputs: Any, states: Any, *, cell: Any, rounded: Round, training: bool = False) -> State:
    """Do what `LSTMCell.call` does."""
    state, carry = states
    projected = rounded("inputs", ops.matmul(_dropped(cell, inputs, training), cell.kernel) + _bias(cell, 0))
    total = rounded("sum", projected + rounded("states", ops.matmul(state, cell.recurrent_kernel)))
    write, keep, new, read = ops.split(total, 4, axis=1)
    remembered = rounded("kept", fixed("sigmoid", keep) * carry)
    written = rounded("written", fixed("sigmoid", write) * fixed("tanh", new))
    carry = rounded("carry", remembered + written)
    state = rounded("state", fixed("sigmoid", read) * fixed("tanh", carry))
    return state, [state, carry]


def gru_step(inputs: Any, states: Any, *, cell: Any, rounded: Round, training: bool = False) -> State:
    """Do what `GRUCell.call` does with `reset_after=True`."""
    (state,) = states
    projected = rounded("inputs", ops.matmul(_dropped(cell, inputs, training), cell.kernel) + _bias(cell, 0))
    past = rounded("states", ops.matmul(state, cell.recurrent_kernel) + _bias(cell, 1))
    parts = zip(ops.split(projected, 3, axis=1), ops.split(past, 3, axis=1), strict=True)
    (update, update_past), (reset, reset_past), (new, new_past) = parts
    update = fixed("sigmoid", rounded("update", update + update_past))
    reset = fixed("sigmoid", rounded("reset", reset + reset_past))
    new = fixed("tanh", rounded("candidate", new + rounded("reset_state", reset * new_past)))
    written = rounded("written", rounded("rest", 1 - update) * new)
    state = rounded("state", rounded("kept", update * state) + written)
    return state, [state]


STEPS: dict[type, Callable[..., State]] = {
    keras.layers.LSTMCell: lstm_step,
    keras.layers.GRUCell: gru_step,
}


def _dropped(cell: Any, inputs: Any, training: bool) -> Any:
    return inputs * cell.get_dropout_mask(inputs) if training and cell.dropout else inputs


def _bias(cell: Any, row: int) -> Any:
    if not cell.use_bias:
        return 0.0
    return cell.bias[row] if len(cell.bias.shape) > 1 else cell.bias

"""Why a layer stays in float, and what to do about it."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfprune.quantizing.rules import FUSED, SEPARATE, activation_of, rule_of

_INSTEAD: dict[type, str] = {
    layers.SeparableConv1D: "write it as DepthwiseConv1D and Conv1D(filters, 1)",
    layers.Average: "write it as Add: the next layer takes the factor",
    layers.Bidirectional: "call the two layers one by one, go_backwards=True the second, and concatenate them",
}


def refusal(layer: Any) -> str | None:
    """Return why a layer or operation cannot be computed in 8 bits, None if it can."""
    if not isinstance(layer, layers.Layer):
        return f"an operation, {type(layer).__name__}: its result is rounded where a layer reads it"
    rule = rule_of(layer)
    if rule is None:
        classes = [cls for cls in _INSTEAD if type(layer) is cls]
        advice = f": {_INSTEAD[classes[0]]}" if classes else ""
        return f"no rule for {type(layer).__name__}{advice}"
    if isinstance(layer, layers.Normalization) and layer.invert:
        return "it takes a normalization back (invert=True)"
    if isinstance(layer, layers.BatchNormalization) and layer.axis not in (-1, len(layer.input.shape) - 1):
        return "it normalizes another axis than the last one"
    if isinstance(layer, (layers.LSTM, layers.GRU)):
        return _recurrent(layer)
    if activation_of(layer) is None:
        offered = ", ".join((*FUSED, *SEPARATE))
        return f"its activation is none of {offered}; use one of them, or put it into a layer of its own"
    return None


def _recurrent(layer: Any) -> str | None:
    cell = layer.cell
    if cell.activation is not keras.activations.tanh or cell.recurrent_activation is not keras.activations.sigmoid:
        return "only activation='tanh' with recurrent_activation='sigmoid' is known in recurrent layers"
    if cell.recurrent_dropout:
        return "recurrent_dropout is not known; use dropout=, or a Dropout layer"
    if layer.stateful or layer.return_state:
        return "it keeps or returns its state; the file has none between two calls"
    if isinstance(layer, layers.GRU) and not cell.reset_after:
        return "only reset_after=True is known"
    shape = layer.input.shape if layer.built else ()
    return (
        "its number of steps is open; fix it in keras.Input(shape), so that it can be unrolled"
        if None in shape[1:]
        else None
    )

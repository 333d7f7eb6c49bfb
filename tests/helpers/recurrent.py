"""Recurrent networks with every kind of states to start from, of masks and of directions."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

UNITS = 8
STATES = {"none": None, "tensor": lambda states: states[0], "list": list, "tuple": tuple}
MASKS = ["no mask", "Masking", "mask_zero"]


def network(kind, *, states, mask, is_bidirectional):
    """Return a recurrent network of 5 steps, and data of which the last steps are masked."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    if mask == "mask_zero":
        series, tokens = keras.Input((5,), dtype="int32"), generator.integers(1, 7, (4, 5))
        tokens[:, 3:] = 0
        x, data = layers.Embedding(7, 6, mask_zero=True, name="before")(series), [tokens]
    else:
        series, values = keras.Input((5, 3)), generator.normal(size=(4, 5, 3)).astype("float32")
        values[:, 3:] = 0
        masked = layers.Masking()(series) if mask == "Masking" else series
        x, data = layers.Dense(6, name="before")(masked), [values]
    layer = getattr(layers, kind)(UNITS, name="recurrent")
    inputs, arguments = [series], {}
    if STATES[states]:
        inputs.append(keras.Input((4,)))
        data.append(generator.normal(size=(4, 4)).astype("float32"))
        count = (2 if kind == "LSTM" else 1) * (2 if is_bidirectional else 1)
        starts = [layers.Dense(UNITS, name=f"state_{number}")(inputs[1]) for number in range(count)]
        arguments["initial_state"] = STATES[states](starts)
    x = (layers.Bidirectional(layer, name="both") if is_bidirectional else layer)(x, **arguments)
    return keras.Model(inputs, layers.Dense(2, name="out")(x)), data


CASES = [
    (kind, states, is_bidirectional)
    for kind in ("SimpleRNN", "GRU", "LSTM")
    for states in STATES
    for is_bidirectional in (False, True)
    if states != "tensor" or not (kind == "LSTM" or is_bidirectional)  # Keras takes several states in a list only
]

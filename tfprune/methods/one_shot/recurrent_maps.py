"""Recurrent layers as linear maps: what their kernels multiply in each step, the states before it included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.linear_map import LinearMap, Rows
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.report import Skipped

layers = keras.layers
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
_NOT_KNOWN = "what the kernels of {} multiply is not known"
_STATEFUL = "its states go on from one batch to the next"
_RESET_BEFORE = "reset_after=False multiplies a part of it by states that the reset gate has changed"


def recurrent_maps(layer: keras.layers.Layer, name: str) -> tuple[list[LinearMap], list[Skipped]]:
    """Return the kernels of a layer that calls its cell step by step as linear maps, and those that are left alone.

    Args:
        layer: The layer, an LSTM for example.
        name: How it is called where it is left alone.
    """
    cell = getattr(layer, "cell", None)
    if type(cell) not in _CELLS:
        kind = type(layer if cell is None else cell).__name__
        parts = kernels(layer) or kernels(cell or layer)
        return [], [Skipped(name, _NOT_KNOWN.format(kind), Skipped.NO_RULE)] if parts else []
    maps: list[LinearMap] = []
    skipped: list[Skipped] = []
    for kernel in kernels(layer):
        reason = _refusal(layer, kernel)
        if reason:
            skipped.append(Skipped(f"{name}/{kernel.path}", reason, Skipped.NO_RULE))
        else:
            are_states = is_recurrent(kernel)
            rows = _states_before(layer) if are_states else _inputs
            maps.append(LinearMap(kernel, None, 1, rows, layer, layer, is_by_position=not are_states))
    return maps, skipped


def is_recurrent(kernel: Kernel) -> bool:
    """Tell whether a kernel multiplies the states of the step before."""
    return kernel.path.split("/")[-1] == "recurrent_kernel"


def _refusal(layer: Any, kernel: Kernel) -> str | None:
    if not is_recurrent(kernel):
        return None
    if layer.stateful:
        return _STATEFUL
    is_reset_before = isinstance(layer.cell, layers.GRUCell) and not layer.cell.reset_after
    return _RESET_BEFORE if is_reset_before else None


def _inputs(x: Any) -> np.ndarray:
    x = keras.ops.convert_to_numpy(x)
    return x.reshape(1, -1, x.shape[-1])


def _states_before(layer: Any) -> Rows:
    """Return a function from sequences to the states before each of their steps, of shape (1, steps, units)."""

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_tensor(x)
        return np.concatenate([*_steps(layer, keras.ops.flip(x, axis=1) if layer.go_backwards else x)])[np.newaxis]

    return rows


def _steps(layer: Any, x: Any) -> Iterator[np.ndarray]:
    states = layer.get_initial_state(batch_size=x.shape[0])
    for step in range(x.shape[1]):
        yield keras.ops.convert_to_numpy(states[0])
        _, states = layer.cell(x[:, step], states)

"""Where the tensors that a layer takes and returns hold the units of its kernel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from tfprune.criteria.base import UnknownFact
from tfprune.models.kernels import Kernel

INPUTS, OUTPUTS = "inputs", "outputs"

# By the names of weights: what they read or make stays inside of the layer.
_INSIDE = {
    INPUTS: {
        "pointwise_kernel": "its inputs stay inside of the separable layer",
        "recurrent_kernel": "its inputs are the states of the recurrent layer",
        "embeddings": "its inputs are indices",
        "reverse_embeddings": "it shares its layer with another direction",
    },
    OUTPUTS: {
        "depthwise_kernel": "its outputs stay inside of the separable layer",
        "reverse_embeddings": "it shares its layer with another direction",
    },
}


def by_unit(tensor: Any, side: str, *, kernel: Kernel, layer: keras.layers.Layer) -> Any:
    """Return what a layer takes or returns as a tensor (samples, positions, units), or `UnknownFact` if it cannot be.

    Units lie along the last axis, or where the layer's `data_format` or `equation` says; those of a recurrent layer's
    outputs come once for each of its gates.

    Args:
        tensor: The first argument of the layer, or what it returns.
        side: `INPUTS` or `OUTPUTS`.
        kernel: Whose units.
        layer: The layer that holds the kernel.
    """
    inside = _INSIDE[side].get(kernel.variable.name)
    if inside:
        return UnknownFact(inside)
    if side == OUTPUTS and isinstance(tensor, (list, tuple)):
        tensor = tensor[0]  # a recurrent layer may return its states as well
    if not hasattr(tensor, "shape"):
        return UnknownFact(f"its layer has several {side}")
    count, rank = _count(kernel, side), len(tensor.shape)
    axes = [axis % rank for axis in _axes(kernel, side, layer) if -rank <= axis < rank]
    found = math.prod(tensor.shape[axis] or 0 for axis in axes) if axes else 0
    whole = count * getattr(layer, "groups", 1) if side == INPUTS else count
    has_gates = side == OUTPUTS and hasattr(layer, "state_size")
    gates = whole // found if has_gates and found else 1
    if 0 in axes or found * gates != whole:
        return UnknownFact(f"its {whole} {side} are not found in a tensor of shape {tuple(tensor.shape)}")
    rest = [axis for axis in range(1, rank) if axis not in axes]
    order = [0, *rest, *axes]
    tensor = tensor if order == sorted(order) else ops.transpose(tensor, order)
    tensor = ops.reshape(tensor, (ops.shape(tensor)[0], -1 if rest else 1, found))
    return ops.tile(tensor, (1, 1, gates)) if gates > 1 else tensor


def _letters(kernel: Kernel, side: str) -> str:
    if side == OUTPUTS:
        return "oc"
    return "i" if "i" in kernel.axes else "c"


def _count(kernel: Kernel, side: str) -> int:
    letters = _letters(kernel, side)
    return math.prod(
        size for size, letter in zip(kernel.variable.shape, kernel.axes, strict=True) if letter in letters
    )


def _axes(kernel: Kernel, side: str, layer: keras.layers.Layer) -> Iterable[int]:
    """Return the axes that hold the units, in the kernel's order."""
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_axes(kernel, side, layer.equation)
    if getattr(layer, "data_format", None) == "channels_first":
        positions = sum(letter not in "oic" for letter in kernel.axes)
        return [-1 - positions]
    return [-1]


def _einsum_axes(kernel: Kernel, side: str, equation: str) -> list[int]:
    inputs, rest = equation.replace(" ", "").split(",")
    letters, outputs = rest.split("->")
    term = inputs if side == INPUTS else outputs
    before, dots, after = term.rpartition("...")
    if side == INPUTS and any(letter in inputs and letter in outputs for letter in letters):
        return []  # each position has inputs of its own
    return [
        before.index(letter) if dots and letter in before else after.index(letter) - len(after)
        for letter, kind in zip(letters, kernel.axes, strict=True)
        if kind in _letters(kernel, side)
    ]

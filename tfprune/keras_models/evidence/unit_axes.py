"""Where the tensors that a layer takes and returns hold the units of its kernel."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfprune.base.axes import input_axes, matrix_axes, output_axes, parse_equation, spell_out
from tfprune.criteria.facts import INPUTS, OUTPUTS, UnknownFact
from tfprune.keras_models.models.kernels import Kernel

# By the names of weights: what they read or make stays inside the layer.
_INSIDE = {
    INPUTS: {
        "pointwise_kernel": "its inputs stay inside the separable layer",
        "recurrent_kernel": "its inputs are the states of the recurrent layer",
        "embeddings": "its inputs are indices",
        "reverse_embeddings": "it shares its layer with another direction",
    },
    OUTPUTS: {
        "depthwise_kernel": "its outputs stay inside the separable layer",
        "reverse_embeddings": "it shares its layer with another direction",
    },
}


def by_unit(tensor: Any, side: str, *, kernel: Kernel, layer: keras.layers.Layer) -> Any:
    """Return an input or output of a layer as a tensor (samples, positions, units), or an `UnknownFact`.

    Units lie along the last axis, or where the layer's `data_format` or `equation` says. The outputs of a recurrent
    layer are repeated for each of its gates.

    Args:
        tensor: The first argument of the layer, or what it returns.
        side: `INPUTS` or `OUTPUTS`.
        kernel: The kernel whose units are returned.
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
    axes = [axis % rank for axis in _axes(kernel, side, layer, rank) if -rank <= axis < rank]
    size = math.prod(tensor.shape[axis] or 0 for axis in axes) if axes else 0
    whole = count * getattr(layer, "groups", 1) if side == INPUTS else count
    has_gates = side == OUTPUTS and hasattr(layer, "state_size")
    gates = whole // size if has_gates and size else 1
    if 0 in axes or size * gates != whole:
        return UnknownFact(f"its {whole} {side} are not found in a tensor of shape {tuple(tensor.shape)}")
    rest = [axis for axis in range(1, rank) if axis not in axes]
    order = [0, *rest, *axes]
    tensor = tensor if order == sorted(order) else ops.transpose(tensor, order)
    tensor = ops.reshape(tensor, (ops.shape(tensor)[0], -1 if rest else 1, size))
    return ops.tile(tensor, (1, 1, gates)) if gates > 1 else tensor


def _units(kernel: Kernel, side: str) -> list[int]:
    """Return the dimensions of a kernel that are its units."""
    return input_axes(kernel.axes) if side == INPUTS else output_axes(kernel.axes)


def _count(kernel: Kernel, side: str) -> int:
    return math.prod(kernel.variable.shape[axis] for axis in _units(kernel, side))


def _axes(kernel: Kernel, side: str, layer: keras.layers.Layer, rank: int) -> list[int]:
    """Return the axes of a tensor that hold the units, in the kernel's order."""
    if isinstance(layer, keras.layers.EinsumDense):
        equation = parse_equation(layer.equation)
        if side == INPUTS and equation.batched:
            return []  # each position has inputs of its own
        letters = spell_out(equation.inputs if side == INPUTS else equation.outputs, rank)
        return [letters.index(equation.kernel[axis]) for axis in _units(kernel, side)]
    if getattr(layer, "data_format", None) == "channels_first":
        _, positions, _ = matrix_axes(kernel.axes)
        return [-1 - len(positions)]
    return [-1]

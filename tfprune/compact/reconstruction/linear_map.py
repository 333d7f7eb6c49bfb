"""Layers as linear maps: the rows of numbers that the kernel of a layer multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import parse_equation, spell_out
from tfprune.keras_models.models.kernels import Kernel, from_matrix, kernels, to_matrix
from tfprune.keras_models.models.layer_hooks import LOOPS, hooked_calls
from tfprune.keras_models.models.layers import as_numpy, sublayers
from tfprune.keras_models.models.token_ids import without_padding
from tfprune.report import Skipped

layers = keras.layers
Rows = Callable[[Any], np.ndarray]


class NotLinear(ValueError):  # noqa: N818
    """Says why a layer is not treated as a linear map."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A layer's kernel and bias as one matrix for each of its groups, and the rows that it multiplies.

    Attributes:
        kernel: The kernel.
        bias: The bias, one number for each output, or None.
        groups: The number of groups that inputs and outputs are split into, each with its own matrix.
        rows: A function from the first argument of `leaf` to what the kernel multiplies, of shape (groups, rows,
            inputs).
        layer: The layer.
        leaf: The layer, or the layer inside it, that multiplies the rows by the kernel.
        is_by_position: Whether each row is of one position of the input, so that those of padding can be left out.
    """

    kernel: Kernel
    bias: keras.Variable | None
    groups: int
    rows: Rows
    layer: keras.layers.Layer
    leaf: keras.layers.Layer
    is_by_position: bool = False

    def weights(self) -> np.ndarray:
        """Return the kernel, with the bias as its last input, of shape (groups, outputs, inputs)."""
        matrix = self._matrix(as_numpy(self.kernel.variable))
        if self.bias is None:
            return matrix.copy()
        return np.concatenate([matrix, as_numpy(self.bias).reshape(*matrix.shape[:2], 1)], axis=2)

    def free(self) -> np.ndarray:
        """Return where the kernel is not zero, in the form of `weights`; the bias is free where any of its row is."""
        free = self._matrix(as_numpy(self.kernel.variable)) != 0
        return free if self.bias is None else np.concatenate([free, free.any(axis=2, keepdims=True)], axis=2)

    def assign(self, weights: np.ndarray) -> None:
        """Set kernel and bias to a matrix in the form of `weights`."""
        if self.bias is not None:
            self.bias.assign(weights[..., -1].reshape(self.bias.shape))
            weights = weights[..., :-1]
        matrix = np.ascontiguousarray(weights).reshape(self.kernel.matrix_shape)
        self.kernel.variable.assign(from_matrix(matrix, self.kernel))

    def seen(self, x: Any, masks: Iterable[np.ndarray] = ()) -> np.ndarray:
        """Return the rows that the matrices multiply, of shape (groups, rows, inputs).

        Args:
            x: An input of `leaf`.
            masks: Where texts have tokens; positions of padding are left out.
        """
        if self.is_by_position:
            x = keras.ops.convert_to_numpy(x)
            tokens = without_padding(x, masks)
            x = x if tokens is x else tokens[np.newaxis]
        rows = self.rows(x)
        return rows if self.bias is None else np.concatenate([rows, np.ones_like(rows[..., :1])], axis=2)

    def inputs(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the same for the arguments of a call of the layer, which is called."""
        rows: list[np.ndarray] = []
        with hooked_calls([self.leaf], lambda leaf, x, outputs: rows.append(self.seen(x))):
            self.layer(*args, **kwargs)
        return rows[0]

    def _matrix(self, kernel: np.ndarray) -> np.ndarray:
        matrix = to_matrix(kernel, self.kernel)
        return matrix.reshape(self.groups, len(matrix) // self.groups, -1)


OfLoop = Callable[[keras.layers.Layer, str], tuple[list[LinearMap], list[Skipped]]]


def linear_map(layer: Any) -> LinearMap:
    """Return a layer as a linear map.

    Raises:
        NotLinear: If the inputs of its kernel are not known.
    """
    for kind, view in _VIEWS.items():
        if isinstance(layer, kind):
            if type(layer).call is not kind.call:
                raise NotLinear(f"its class {type(layer).__name__} computes something else than {kind.__name__}")
            if getattr(layer, "lora_enabled", False) or not kernels(layer):
                raise NotLinear("its kernel is quantized, or has a LoRA beside it")
            return view(layer)
    raise NotLinear(f"what the kernels of {type(layer).__name__} multiply is not known")


def _dense(layer: Any) -> LinearMap:
    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        return x.reshape(1, -1, x.shape[-1])

    return LinearMap(kernels(layer)[0], layer.bias, 1, rows, layer, layer, is_by_position=True)


def _einsum_dense(layer: Any) -> LinearMap:
    """View axes that the kernel shares with the input as inputs, and other axes of the input as rows."""
    equation = parse_equation(layer.equation)
    if equation.batched or equation.lost:
        raise NotLinear(f"its equation {layer.equation} is more than a product over the axes of the kernel")
    outputs = [letter for letter in equation.kernel if letter not in equation.inputs]
    if layer.bias is not None and [letter for letter in equation.outputs if letter in layer.bias_axes] != outputs:
        raise NotLinear(f"its bias_axes {layer.bias_axes!r} are not its outputs {''.join(outputs)!r}, in their order")

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        letters = spell_out(equation.inputs, x.ndim)
        axes = [letters.index(letter) for letter in equation.summed]
        x = np.moveaxis(x, axes, range(-len(axes), 0))
        return x.reshape(1, -1, math.prod(x.shape[x.ndim - len(axes) :]))

    return LinearMap(kernels(layer)[0], layer.bias, 1, rows, layer, layer, is_by_position=True)


def _convolution(layer: Any) -> LinearMap:
    return LinearMap(kernels(layer)[0], layer.bias, layer.groups, _patches(layer, layer.groups), layer, layer)


def _depthwise(layer: Any) -> LinearMap:
    kernel = kernels(layer)[0]
    channels = int(kernel.variable.shape[-2])
    return LinearMap(kernel, layer.bias, channels, _patches(layer, channels), layer, layer)


def _patches(layer: Any, groups: int) -> Rows:
    """Return a function from feature maps to the patches that a kernel sees, positions before channels, by group."""

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        if layer.data_format == "channels_first":
            x = np.moveaxis(x, 1, -1)
        seen = np.stack(list(_shifted(x, layer)), axis=-2)  # (..., positions, channels)
        positions, channels = seen.shape[-2:]
        patches = seen.reshape(-1, positions, groups, channels // groups)
        return np.moveaxis(patches, 2, 0).reshape(groups, len(patches), -1)

    return rows


def _shifted(x: np.ndarray, layer: Any) -> Iterator[np.ndarray]:
    """Yield the inputs of each position of a kernel."""
    spans = [_span(*axis, layer.padding) for axis in _along(layer, x.shape[1:-1])]
    x = np.pad(x, [(0, 0), *(padding for padding, _ in spans), (0, 0)])
    for position in np.ndindex(*layer.kernel_size):
        starts = [index * rate for index, rate in zip(position, layer.dilation_rate, strict=True)]
        ends = zip(starts, layer.strides, spans, strict=True)
        yield x[(slice(None), *(slice(a, a + (count - 1) * step + 1, step) for a, step, (_, count) in ends))]


def _along(layer: Any, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield for each axis of feature maps its length, the reach of the kernel and the stride."""
    for size, taps, rate, step in zip(sizes, layer.kernel_size, layer.dilation_rate, layer.strides, strict=True):
        yield size, (taps - 1) * rate + 1, step


def _span(size: int, reach: int, step: int, padding: str) -> tuple[tuple[int, int], int]:
    """Return the zeros to put before and after an axis, and the number of outputs along it."""
    if padding == "valid":
        return (0, 0), (size - reach) // step + 1
    count = -(-size // step)
    missing = max((count - 1) * step + reach - size, 0)
    before = reach - 1 if padding == "causal" else missing // 2
    return (before, max(missing - before, 0)), count


def _attention(layer: Any) -> LinearMap:
    """View the projection of what the heads return: it is all that is linear in attention."""
    kernel = next(kernel for kernel in kernels(layer) if kernel.path.endswith("attention_output/kernel"))
    leaf = next(part for part in sublayers(layer) if kernels(part) and kernels(part)[0].variable is kernel.variable)
    inside = _einsum_dense(leaf)
    return LinearMap(kernel, inside.bias, 1, inside.rows, layer, leaf, is_by_position=True)


_VIEWS: dict[Any, Callable[[Any], LinearMap]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _convolution),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise),
    **dict.fromkeys([layers.MultiHeadAttention, layers.GroupQueryAttention], _attention),
}


def inner_maps(
    layer: keras.layers.Layer, *, name: str, of_loop: OfLoop | None = None
) -> tuple[list[LinearMap], list[Skipped]]:
    """Return the maps of a layer, their kernels with paths below it, and the parts with kernels that are left alone.

    Args:
        layer: The layer: a linear map, or a layer that holds linear maps.
        name: How it is called where it is left alone.
        of_loop: Returns the same of a recurrent layer; None leaves those alone.
    """
    if kernels(layer) and not layer.trainable:
        return [], [Skipped(name, "frozen (trainable=False)", Skipped.FROZEN)]
    if of_loop and isinstance(layer, layers.RNN):
        return of_loop(layer, name)
    parts = [] if isinstance(layer, LOOPS) else sublayers(layer)
    inside = {id(kernel.variable) for part in parts for kernel in kernels(part)}
    maps: list[LinearMap] = []
    others: list[Skipped] = []
    if any(id(kernel.variable) not in inside for kernel in kernels(layer)):
        try:
            return [linear_map(layer)], []
        except NotLinear as reason:
            others.append(Skipped(name, str(reason), Skipped.NO_RULE))
    for part in {id(part): part for part in parts}.values():
        inner, skipped_inside = inner_maps(part, name=f"{name}/{part.name}", of_loop=of_loop)
        maps += [replace(each, kernel=replace(each.kernel, path=f"{part.name}/{each.kernel.path}")) for each in inner]
        others += skipped_inside
    return maps, others

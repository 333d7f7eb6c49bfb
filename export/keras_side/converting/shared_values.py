"""Weights of few values, as integers of few values: one grid for all channels of a weight.

The converter scales each channel by its largest entry, so that a value that channels share becomes another integer in
each of them. Here the channels of such a weight get the integers that the weight has as a whole, and scales that make
the same products of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np

from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import (
    add_values,
    builtin_code,
    inputs_of,
)
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.kernels import Kernel, to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.quantizing.clustered import shares_values

LARGEST_INTEGER = 127
# Operators whose second input is a weight: the places of what it is applied to, and of the bias.
PLACES = {"FULLY_CONNECTED": (0, 2), "CONV_2D": (0, 2), "DEPTHWISE_CONV_2D": (0, 2), "TRANSPOSE_CONV": (2, 3)}
MAX_ROUNDING = 0.501  # of an integer: what rounding may leave
SCALE_TOLERANCE = 1e-6  # relative: what float32 may make of one scale


def share_grids(file: ModelFile, plain: keras.Model, *, of: keras.Model | None) -> ModelFile:
    """Give the weights that share values integers that do.

    Args:
        file: The file of `plain`.
        plain: The copy whose weights lie on their grids.
        of: The model that was trained, which knows which weights share values; None if there is no such model.

    Returns:
        The next file; the one given where no weight shares values. Products of integers and scales stay what they
        were; biases are rounded anew, far below a step of the output.
    """
    paths = {path for path, layer in Anatomy.of(of).leaves if shares_values(layer)} if of is not None else set()
    layers = [layer for path, layer in Anatomy.of(plain).leaves if path in paths]
    kernels = [_integers(kernel) for layer in layers for kernel in layer.inner_kernels.values()]
    return file.after(partial(_share_grids, kernels=kernels)) if kernels else file


def _share_grids(model: schema.ModelT, *, kernels: Sequence[np.ndarray]) -> bool:
    for graph in model.subgraphs:
        _Sharing(model, graph, kernels).apply()
    return True


def _integers(kernel: Kernel) -> np.ndarray:
    """Return the integers of a weight on one grid, a row for each output channel."""
    matrix = to_matrix(as_numpy(kernel.variable), kernel).astype(np.float64)
    matrix = matrix.reshape(len(matrix), -1)
    return np.rint(matrix * (LARGEST_INTEGER / max(np.abs(matrix).max(), np.finfo(np.float32).tiny)))


class _Sharing:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, kernels: Sequence[np.ndarray]) -> None:
        self._model, self._graph, self._kernels = model, graph, kernels
        places = {getattr(schema.BuiltinOperator, name): of_name for name, of_name in PLACES.items()}
        self._takers: dict[int, set[tuple[int, int]]] = defaultdict(set)  # by the weight: what it is for, and biases
        others: set[int] = set()
        for operator in graph.operators or ():
            inputs = [*inputs_of(operator), -1]  # the bias may be missing
            code = builtin_code(model.operatorCodes[operator.opcodeIndex])
            if code in places:
                source, bias = places[code]
                self._takers[inputs[1]].add((inputs[source], inputs[bias]))
            others |= {*inputs} - ({inputs[1]} if code in places else set())
        self._weights = [index for index in self._takers if index not in others and self._is_weight(index)]

    def _is_weight(self, index: int) -> bool:
        """Tell whether a tensor holds 8-bit values, with a scale for each channel."""
        tensor = self._graph.tensors[index]
        scales = None if tensor.quantization is None else tensor.quantization.scale
        filled = self._model.buffers[tensor.buffer].data
        is_filled = filled is not None and len(filled) > 0 and tensor.sparsity is None
        return is_filled and tensor.type == schema.TensorType.INT8 and scales is not None and len(scales) > 1

    def apply(self) -> None:
        """Put each weight that is one of those wanted on one grid."""
        for index in self._weights:
            tensor = self._graph.tensors[index]
            values = self._model.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
            channels = np.moveaxis(values, tensor.quantization.quantizedDimension, 0)
            rows = channels.reshape(len(channels), -1).astype(np.int64)
            whole = next(
                (signed for kernel in self._kernels if _is_same(rows, signed := _signed_as(kernel, rows))), None
            )
            if whole is not None:
                self._share(index, whole.astype(np.int8).reshape(channels.shape))

    def _share(self, index: int, channels: np.ndarray) -> None:
        tensor = self._graph.tensors[index]
        values = np.moveaxis(channels, 0, tensor.quantization.quantizedDimension)
        tensor.buffer = add_values(self._model, values)
        most = np.abs(channels.reshape(len(channels), -1).astype(np.int64)).max(axis=1)
        steps = np.where(most > 0, most, LARGEST_INTEGER) / LARGEST_INTEGER  # how many new ones an old step is
        tensor.quantization.scale = _even(tensor.quantization.scale / steps)
        for source, bias in self._takers[index]:
            if bias >= 0:
                scale = self._graph.tensors[source].quantization.scale[0] * tensor.quantization.scale
                self._scale_bias(self._graph.tensors[bias], steps, scale)

    def _scale_bias(self, bias: schema.TensorT, steps: np.ndarray, scale: np.ndarray) -> None:
        values = self._model.buffers[bias.buffer].data.view(np.int32)
        bias.buffer = add_values(self._model, np.rint(values * steps).astype(np.int32))
        bias.quantization.scale = scale


def _signed_as(whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Turn the sign of rows that have another one in a file, as those before a negative factor have."""
    if whole.shape != rows.shape:
        return whole
    return np.where((rows * whole).sum(axis=1, keepdims=True) < 0, -whole, whole)


def _is_same(rows: np.ndarray, whole: np.ndarray) -> bool:
    """Tell whether rows are those of a weight, each scaled to its largest entry."""
    if rows.shape != whole.shape:
        return False
    most = np.maximum(np.abs(whole).max(axis=1, keepdims=True), 1)
    return bool((np.abs(whole * (LARGEST_INTEGER / most) - rows) <= MAX_ROUNDING).all())


def _even(scales: np.ndarray) -> np.ndarray:
    """Return scales of float32, one number for all where they differ by rounding only."""
    first = scales[0]
    return np.where(np.abs(scales - first).max() <= SCALE_TOLERANCE * first, first, scales).astype(np.float32)

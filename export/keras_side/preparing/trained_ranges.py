"""A model that was trained quantization-aware, as the converter wants to see it."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of, operator_name
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import walk
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.quantizing.quantized import Quantized


def holds_ranges(model: keras.Model) -> bool:
    """Tell whether a model was made by `quantize_aware`."""
    return any(isinstance(layer, Quantized) for _, layer in walk(model, stop=Pruned))


def with_known_ranges(model: keras.Model) -> keras.Model:
    """Return a copy without masks whose ranges are constants, and whose weights lie on their grids.

    The converter rounds weights by itself, with a scale for each output channel, and finds the same integers. Told by
    the operation that rounds while training, it refuses most kernels, and puts those that it reads more than once on
    another grid.

    Raises:
        ValueError: If a range has seen no data, or holds a number that is none.
    """
    anatomy = Anatomy.of(model)
    trained = dict(anatomy.leaves)

    def replacement(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if isinstance(layer, Quantized):
            return layer.around(layer.layer, weights=(), levels=None, known=trained[path].known_ranges())
        return layer.layer if isinstance(layer, Pruned) else None

    copy = copy_with(anatomy, replacement)
    for path, layer in Anatomy.of(copy).leaves:
        if isinstance(layer, Quantized):
            for kernel in layer.inner_kernels.values():
                kernel.variable.assign(trained[path].on_grid(ops.copy(kernel.variable.value), kernel))
    return copy


def without_ranges(plain: keras.Model) -> keras.Model:
    """Return a copy of what `with_known_ranges` returned whose activations are not rounded."""
    return plain_copy(Anatomy.of(plain))


def without_rounding(model: schema.ModelT) -> bool:
    """Take the operators that round to its ranges out of the open float file of such a model."""
    for graph in model.subgraphs:
        makers = {int(index): operator for operator in graph.operators for index in operator.outputs}
        for operator in graph.operators:
            operator.inputs = np.array(
                [_before_rounding(model, makers, index) for index in inputs_of(operator)], np.int32
            )
        for signature in model.signatureDefs or ():
            for entry in signature.outputs:
                entry.tensorIndex = _before_rounding(model, makers, entry.tensorIndex)
        graph.outputs = np.array([_before_rounding(model, makers, int(index)) for index in graph.outputs], np.int32)
    return True


def _before_rounding(model: schema.ModelT, makers: dict[int, schema.OperatorT], index: int) -> int:
    """Return the tensor that becomes another one when it is rounded, or that one itself."""
    last = makers.get(index)
    first = None if last is None or operator_name(model, last) != "DEQUANTIZE" else makers.get(int(last.inputs[0]))
    return index if first is None or operator_name(model, first) != "QUANTIZE" else int(first.inputs[0])

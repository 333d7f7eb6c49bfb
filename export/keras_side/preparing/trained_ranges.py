"""A model that was trained quantization-aware, as the converter wants to see it."""

from __future__ import annotations

import keras
from keras import ops

from tfprune.keras_models.copying.copy_model import copy_model
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import walk
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.transfer_weights import transfer_weights
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
    copy = copy_model(anatomy, _replacement)
    transfer_weights(anatomy, copy)
    trained = dict(anatomy.leaves)
    for path, layer in Anatomy.of(copy).leaves:
        if isinstance(layer, Quantized):
            for kernel in layer.inner_kernels.values():
                kernel.variable.assign(trained[path].on_grid(ops.copy(kernel.variable.value), kernel))
    return copy


def _replacement(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if isinstance(layer, Quantized):
        return layer.around(layer.layer, weights=(), levels=None, known=layer.known_ranges())
    return layer.layer if isinstance(layer, Pruned) else None

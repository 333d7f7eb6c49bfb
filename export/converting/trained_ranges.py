"""A model that was trained quantization-aware, as the converter wants to see it."""

from __future__ import annotations

import keras

import tfprune
from tfprune.copying.copy_model import copy_model
from tfprune.export.inspecting.float_operators import float_operators
from tfprune.export.tflite.model import Model
from tfprune.models.layers import walk
from tfprune.quantizing.quantized import Quantized
from tfprune.wrapping.pruned import Pruned
from tfprune.wrapping.transfer import transfer_weights


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
    copy = copy_model(model, _replacement)
    transfer_weights(model, copy)
    for _, layer in walk(copy, stop=Quantized):
        if isinstance(layer, Quantized):
            layer.round_weights()
    return copy


def _replacement(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if isinstance(layer, Quantized):
        return layer.around(layer.layer, weights=(), levels=None, known=layer.known_ranges())
    return layer.layer if isinstance(layer, Pruned) else None


def check_integers(graph: Model, model: keras.Model) -> None:
    """Refuse the file of a quantized model in which operators compute in float.

    Raises:
        ValueError: Naming them, and the layers that were left in float.
    """
    found = float_operators(graph)
    if not found:
        return
    names = ", ".join(f"{count} {name}" for name, count in found.items())
    skipped = tfprune.quantization_report(model).skipped
    reasons = "".join(f" {entry.layer}: {entry.reason}." for entry in skipped)
    raise ValueError(
        f"Expected 8-bit operators only. Received operators that compute in float: {names}.{reasons} Change these "
        f"layers, or allow it with allow_float=True; nothing was written."
    )

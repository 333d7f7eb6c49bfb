"""Operators that compute in float in the file of a model that was trained for 8 bits."""

from __future__ import annotations

import keras

import tfprune
from tfprune.export.file.inspecting.float_operators import float_operators
from tfprune.export.file.tflite.model import Model


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

"""Run a model on data, and record the activations of units: one number per sample and unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.evidence.activations import RecordingModel
from tfprune.keras_models.models.batches import batches, check_batch, check_source, size_of
from tfprune.methods.concepts.layer_units import LayerUnits


def unit_activations(
    model: keras.Model, units: Sequence[LayerUnits], *, data: Any, batch_size: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the activations of layers in inference, (samples, units) in float32; a channel counts with its mean.

    Args:
        model: The model that holds the layers.
        units: The layers.
        data: Inputs in the forms that `batches` takes; labels are left aside.
        batch_size: Samples in a batch of arrays.

    Returns:
        The activations by layer, and for each layer without them the reason.

    Raises:
        TypeError: If `data` is not data.
        ValueError: If `data` are empty, do not fit the model or hold NaN, or activations are not finite.
    """
    check_source(data)
    recording = RecordingModel(model, [each.request for each in units])
    parts: dict[str, list[np.ndarray]] = {each.layer: [] for each in units}
    reasons: dict[str, str] = {}
    for batch in batches(data, rows=batch_size):
        check_batch(batch, model)
        recorded, size = recording.predict_on_batch(batch.x), size_of(batch)
        for each in units:
            calls = recorded.get(each.request.key, [])
            if len(calls) == 1 and len(calls[0]) == size:
                parts[each.layer].append(calls[0])
            elif calls:
                reasons[each.layer] = "it is called several times" if len(calls) > 1 else "it mixes samples"
    reasons |= {
        each.layer: recording.unknown[each.request.key].reason
        for each in units
        if each.request.key in recording.unknown
    }
    reasons = {each.layer: "it is not called" for each in units if not parts[each.layer]} | reasons
    return {name: _joined(name, part) for name, part in parts.items() if name not in reasons}, reasons


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite activations of {name!r}. Received: NaN or infinity. Training has diverged: lower the "
            f"learning rate, or load an earlier checkpoint."
        )
    return values

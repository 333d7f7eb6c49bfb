"""What the layers of a model take and return, reduced batch by batch in the compiled model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.criteria.class_moments import ClassMoments
from tfprune.criteria.facts import INPUTS, MEAN, UnknownFact
from tfprune.keras_models.evidence.scored_weight import FactRequest
from tfprune.keras_models.evidence.unit_axes import by_unit
from tfprune.keras_models.models.batches import Batch, classes_of
from tfprune.keras_models.models.layer_hooks import hooked_calls, read_only_scope


class RecordingModel(keras.Model):
    """A model in inference that returns, in place of its outputs, what facts measure of its layers.

    Args:
        model: The model.
        requests: Facts of inputs and outputs.
    """

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self._run = _recording(model, requests)
        self.unknown: dict[str, UnknownFact] = {}
        self.built = True

    def call(self, inputs: Any) -> dict[str, list[Any]]:
        records, unknown = self._run(inputs)
        self.unknown.update(unknown)
        return records


def _recording(model: keras.layers.Layer, requests: Sequence[FactRequest]) -> Callable:
    """Return a function that calls the model and returns what was measured, one tensor for each call of a layer."""

    def run(inputs: Any) -> tuple[dict[str, list[Any]], dict[str, UnknownFact]]:
        records: dict[str, list[Any]] = {}
        unknown: dict[str, UnknownFact] = {}

        def on_call(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
            for request in requests:
                if request.hooked is layer:
                    side, kernel = request.fact.recorded, request.subject.kernel
                    units = by_unit(given if side == INPUTS else returned, side, kernel=kernel, layer=request.holder)
                    if isinstance(units, UnknownFact):
                        unknown[request.key] = units
                    else:
                        records.setdefault(request.key, []).append(_reduced(request, ops.cast(units, "float32")))

        with read_only_scope(model), hooked_calls([request.hooked for request in requests], on_call):
            model(inputs, training=False)
        return records, unknown

    return run


def _reduced(request: FactRequest, units: Any) -> Any:
    count = units.shape[2]
    return request.checked(request.fact.reduce(units, ops), (None, count) if request.fact.needs_labels else (count,))


class Activations:
    """Facts of a model's inputs and outputs, combined over batches in float64.

    Args:
        model: The model.
        requests: Facts of inputs and outputs.
    """

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest]) -> None:
        self._model, self._requests = RecordingModel(model, requests), requests
        self._needs_labels = any(request.fact.needs_labels for request in requests)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._sums: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._moments: dict[str, ClassMoments] = {}
        self._unknown: dict[str, UnknownFact] = {}

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        labels = classes_of(batch) if self._needs_labels else None
        records = self._model.predict_on_batch(batch.x)
        for request in self._requests:
            for values in records.get(request.key, ()):
                if request.fact.needs_labels:
                    self._add_by_class(request.key, values, labels)
                else:
                    self._sums[request.key] = self._sums.get(request.key, 0.0) + np.asarray(values, dtype=np.float64)
                    self._counts[request.key] += 1

    def _add_by_class(self, key: str, values: np.ndarray, labels: Any) -> None:
        if len(values) == len(labels):
            self._moments.setdefault(key, ClassMoments(values.shape[1])).add(values, labels)
        else:
            self._unknown[key] = UnknownFact(f"its layer saw {len(values)} samples of a batch of {len(labels)}")

    def combined(self) -> dict[str, Any]:
        """Return the recorded facts, by the keys of their requests."""
        uncalled = {request.key: UnknownFact("its layer was not called") for request in self._requests}
        means = {request.key for request in self._requests if request.fact.combine == MEAN}
        arrays = {key: total / self._counts[key] if key in means else total for key, total in self._sums.items()}
        return uncalled | arrays | self._moments | self._unknown | self._model.unknown

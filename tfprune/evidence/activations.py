"""What the layers of a model are given and return, reduced batch by batch in the compiled model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.criteria.base import OF_CLASSES, UnknownFact
from tfprune.criteria.class_moments import ClassMoments
from tfprune.evidence.layer_hooks import hooked_calls, read_only_scope
from tfprune.evidence.unit_axes import INPUTS, OUTPUTS, by_unit
from tfprune.models.batches import Batch, classes_of
from tfprune.models.kernels import Kernel

SIDES = {"input_norms": INPUTS, "input_moments": INPUTS, "output_moments": OUTPUTS}


def _sum_of_squares(units: Any) -> Any:
    return ops.sum(ops.square(units), axis=(0, 1))


def _mean_over_positions(units: Any) -> Any:
    return units[:, 0] if units.shape[1] == 1 else ops.mean(units, axis=1)


_REDUCED = {
    "input_norms": _sum_of_squares,
    "input_moments": _mean_over_positions,
    "output_moments": _mean_over_positions,
}


@dataclass(frozen=True, eq=False)
class FactRequest:
    """A fact to gather.

    Attributes:
        key: Names it among the others.
        fact: One of `SIDES`.
        kernel: Of which weight.
        hooked: The layer to listen to.
        holder: The innermost layer that holds the kernel.
    """

    key: str
    fact: str
    kernel: Kernel
    hooked: keras.layers.Layer
    holder: keras.layers.Layer


class Listener(keras.Model):
    """A model in inference that returns what is wanted of its layers' inputs and outputs, not its own outputs.

    Args:
        model: The model.
        wanted: What to gather.
    """

    def __init__(self, model: keras.layers.Layer, wanted: Sequence[FactRequest]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self._listen = _listen(model, wanted)
        self.unknown: dict[str, UnknownFact] = {}
        self.built = True

    def call(self, inputs: Any) -> dict[str, list[Any]]:
        found, unknown = self._listen(inputs)
        self.unknown.update(unknown)
        return found


def _listen(model: keras.layers.Layer, wanted: Sequence[FactRequest]) -> Callable:
    """Return a function that calls the model and returns what was hooked, one tensor for each call of a layer."""

    def listen(inputs: Any) -> tuple[dict[str, list[Any]], dict[str, UnknownFact]]:
        found: dict[str, list[Any]] = {}
        unknown: dict[str, UnknownFact] = {}

        def hear(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
            for one in wanted:
                if one.hooked is layer:
                    side = SIDES[one.fact]
                    units = by_unit(given if side == INPUTS else returned, side, kernel=one.kernel, layer=one.holder)
                    if isinstance(units, UnknownFact):
                        unknown[one.key] = units
                    else:
                        found.setdefault(one.key, []).append(_REDUCED[one.fact](ops.cast(units, "float32")))

        with read_only_scope(model), hooked_calls([one.hooked for one in wanted], hear):
            model(inputs, training=False)
        return found, unknown

    return listen


class Activations:
    """Facts of a model's inputs and outputs, added up over batches in float64.

    Args:
        model: The model.
        wanted: What to gather.
    """

    def __init__(self, model: keras.layers.Layer, wanted: Sequence[FactRequest]) -> None:
        self._listener, self._wanted = Listener(model, wanted), wanted
        self._needs_classes = any(one.fact in OF_CLASSES for one in wanted)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._squares: dict[str, np.ndarray] = {}
        self._moments: dict[str, ClassMoments] = {}
        self._unknown: dict[str, UnknownFact] = {}

    def record(self, batch: Batch) -> None:
        """Take a batch."""
        labels = classes_of(batch) if self._needs_classes else None
        found = self._listener.predict_on_batch(batch.x)
        for one in self._wanted:
            for values in found.get(one.key, ()):
                if labels is None or one.fact not in OF_CLASSES:
                    squares = np.asarray(values, dtype=np.float64)
                    self._squares[one.key] = self._squares.get(one.key, 0.0) + squares
                elif len(values) != len(labels):
                    reason = f"its layer saw {len(values)} samples of a batch of {len(labels)}"
                    self._unknown[one.key] = UnknownFact(reason)
                else:
                    self._moments.setdefault(one.key, ClassMoments(values.shape[1])).add(values, labels)

    def facts(self) -> dict[str, Any]:
        """Return what was gathered, by its key."""
        norms = {key: np.sqrt(squares) for key, squares in self._squares.items()}
        silent = {one.key: UnknownFact("its layer was not called") for one in self._wanted}
        return silent | norms | self._moments | self._unknown | self._listener.unknown

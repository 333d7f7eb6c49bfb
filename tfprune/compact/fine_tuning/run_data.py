"""The data of a run: to train on, to measure on, and the first samples, that scores and reconstruction use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.batches import Batch, batches, check_batch, size_of
from tfprune.keras_models.models.compiled import arguments_of


class RunData:
    """Data, checked before anything is done.

    Args:
        model: The first model, compiled.
        data: The training data: a tuple, or a dataset.
        validation: The validation data; None takes the first samples of `data`.
        batch_size: Samples in a batch of arrays, or None.
        max_samples: How many of the first samples are read, rounded up to whole batches.
        is_bound: Whether what is measured on the validation data decides something.

    Raises:
        TypeError: If something is not data.
        ValueError: If data are empty, without labels, of another shape or not finite, or missing.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        validation: Any,
        *,
        batch_size: int | None,
        max_samples: int,
        is_bound: bool,
    ) -> None:
        self._data, self._validation = data, validation
        self._batch = {} if batch_size is None else {"batch_size": batch_size}
        self._to_train = self._arguments(data, "data")
        self.first = _first_batches(data, model, max_samples=max_samples)
        _check_labels(model, self.first[0], "data")
        if validation is not None:
            arguments_of(validation, argument="validation_data")
            _check_labels(model, next(batches(validation, argument="validation_data")), "validation_data")
        elif is_bound:
            raise ValueError(
                "Expected `validation_data` with max_drop, because training data do not show what a round costs. "
                "Received: validation_data=None. Pass samples that are not trained on, (x, y)."
            )

    def to_fit(self, *, is_watched: bool) -> dict[str, Any]:
        """Return the arguments of `fit`; callbacks that watch see the validation data, too."""
        seen = {"validation_data": self._validation} if is_watched and self._validation is not None else {}
        return {**self._to_train, **seen}

    def to_judge(self) -> dict[str, Any]:
        """Return the arguments of `evaluate`."""
        if self._validation is None:
            return self._arguments(_joined(self.first), "data")
        return self._arguments(self._validation, "validation_data")

    def labeled(self) -> tuple[Any, Any]:
        """Return the validation data as one batch, samples and labels."""
        parts = [*batches(self._validation, rows=None, argument="validation_data")]
        x, y, *_ = _joined(parts) if len(parts) > 1 else parts[0]
        return x, y

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the arrays of the first samples."""
        for batch in self.first:
            yield from (leaf for leaf in keras.tree.flatten(tuple(batch)) if leaf is not None)

    def _arguments(self, data: Any, argument: str) -> dict[str, Any]:
        arguments = arguments_of(data, argument=argument)
        if self._batch and argument == "data" and "y" not in arguments:
            raise ValueError(
                f"Expected `batch_size` with arrays only. Received: batch_size={self._batch['batch_size']} and a "
                f"dataset of type {type(data).__name__}, which is already batched. Leave it out."
            )
        return {**arguments, **(self._batch if "y" in arguments else {})}


def _check_labels(model: keras.Model, batch: Batch, argument: str) -> None:
    if batch.y is None and model.loss is not None:
        raise ValueError(
            f"Expected `{argument}` with labels, which the loss of {model.name!r} compares. Received: inputs only. "
            f"Pass (x, y), or a dataset of such pairs."
        )


def _first_batches(data: Any, model: keras.Model, *, max_samples: int) -> list[Batch]:
    """Return the first batches, until they hold `max_samples` samples or more."""
    first_batches, count = [], 0
    for batch in batches(data):
        check_batch(batch, model)
        first_batches.append(batch)
        count += size_of(batch)
        if count >= max_samples:
            break
    return first_batches


def _joined(parts: list[Batch]) -> tuple:
    """Return batches as one: (x, y) or (x, y, sample weights)."""
    columns = [[batch.x for batch in parts], [batch.y for batch in parts], [batch.sample_weight for batch in parts]]
    return tuple(
        keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *column)
        for column in columns
        if column[0] is not None
    )

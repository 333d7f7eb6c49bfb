"""Calibration data, read batch by batch, and again as often as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


class Batches:
    """Data in the forms that `fit` takes, checked against the inputs of a model while they are read.

    Args:
        data: An array, a list or dict of arrays for several inputs, a tuple (x, y) of such; or a data set of such
            batches that can be read again and again.
        model: The model, a graph.
        batch_size: Samples in a batch; a data set has batches of its own.

    Raises:
        TypeError: For data of another type, such as a generator, which can be read once only.
    """

    def __init__(self, data: Any, model: keras.Model, *, batch_size: int) -> None:
        is_set = isinstance(data, keras.utils.PyDataset) or hasattr(data, "__iter__")
        if isinstance(data, (Iterator, str)) or not (is_set or hasattr(data, "shape")):
            raise TypeError(
                f"Expected `data` to be an array, a tuple (x, y), a list or dict of arrays for several inputs, or a "
                f"data set that can be read again and again. Received: an object of type {type(data).__name__}"
            )
        self._data, self._inputs, self._batch_size = data, model.inputs, batch_size

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yield the arrays for the inputs of the model, and the targets, None if there are none.

        Raises:
            ValueError: If there are no data, they do not fit the model, or have NaN or infinity.
        """
        is_empty = True
        for batch in self._batches():
            x, y = (batch[0], batch[1] if len(batch) > 1 else None) if isinstance(batch, tuple) else (batch, None)
            arrays = self._checked(x)
            if len(arrays[0]):
                is_empty = False
                yield arrays, y
        if is_empty:
            raise ValueError("Expected calibration data. Received: none. Pass some hundred samples as `data`")

    def _batches(self) -> Iterator[Any]:
        if isinstance(self._data, keras.utils.PyDataset):
            yield from (self._data[place] for place in range(len(self._data)))
        elif hasattr(self._data, "shape") or isinstance(self._data, (tuple, list, dict)):
            count = max((len(array) for array in keras.tree.flatten(self._data) if array is not None), default=0)
            for start in range(0, count, self._batch_size):
                part = slice(start, start + self._batch_size)
                yield keras.tree.map_structure(lambda array, part=part: array[part], self._data)
        else:
            yield from self._data

    def _checked(self, x: Any) -> list[np.ndarray]:
        names = [tensor.name for tensor in self._inputs]
        given = [x[name] for name in names] if isinstance(x, dict) and set(names) <= x.keys() else x
        arrays = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten(given)]
        fits = len(arrays) == len(names) and all(map(_fits, arrays, self._inputs))
        if not fits or len({len(array) for array in arrays}) > 1:
            expected = ", ".join(f"{tensor.name} of shape {tuple(tensor.shape)}" for tensor in self._inputs)
            received = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(
                f"Expected calibration data for {expected}. Received: arrays of shape {received or 'none'}"
            )
        for array, name in zip(arrays, names, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(
                    f"Expected finite calibration data. Received: NaN or infinity among those for {name}"
                )
        return arrays


def _fits(array: np.ndarray, tensor: keras.KerasTensor) -> bool:
    shape = tuple(tensor.shape)
    return array.ndim == len(shape) and all(
        size in (None, length) for size, length in zip(shape[1:], array.shape[1:], strict=True)
    )

"""Tensors of many batches, kept in files until they are needed again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np


class _MaskOf(keras.layers.Layer):
    """Returns the Keras mask of a tensor, None if it has none."""

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.supports_masking = True

    def call(self, x: Any, mask: Any = None) -> Any:
        return mask


class _Masked(keras.layers.Layer):
    """Gives a tensor a Keras mask."""

    def __init__(self, mask: Any) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.supports_masking = True
        self._given = mask

    def call(self, x: Any) -> Any:
        return keras.ops.copy(x)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self._given


class Spool:
    """Tensors in files of a folder that goes with the object, so that memory does not grow with their number.

    A tensor comes back with its type and its Keras mask.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tfprune_")
        self._types: dict[tuple[int, int], str] = {}
        self._mask_of = _MaskOf()

    def put(self, tensor: int, batch: int, value: Any) -> None:
        """Store the value that a tensor has in a batch."""
        value = keras.ops.convert_to_tensor(value)
        self._types[tensor, batch] = keras.backend.standardize_dtype(value.dtype)
        np.save(self._path(tensor, batch), _storable(value))
        mask = self._mask_of(value)
        if mask is not None:
            np.save(self._path(tensor, batch, "mask"), keras.ops.convert_to_numpy(mask))

    def get(self, tensor: int, batch: int) -> Any:
        """Return the value that was stored for a tensor and a batch."""
        stored = np.load(self._path(tensor, batch))
        value = keras.ops.convert_to_tensor(stored, dtype=self._types[tensor, batch])
        mask = self._path(tensor, batch, "mask")
        return _Masked(keras.ops.convert_to_tensor(np.load(mask)))(value) if mask.exists() else value

    def holds(self, tensor: int) -> bool:
        """Tell whether a tensor is stored."""
        return any(number == tensor for number, _ in self._types)

    def drop(self, tensor: int) -> None:
        """Forget a tensor in all batches."""
        for key in [key for key in self._types if key[0] == tensor]:
            del self._types[key]
            for kind in ("value", "mask"):
                self._path(*key, kind).unlink(missing_ok=True)

    def _path(self, tensor: int, batch: int, kind: str = "value") -> Path:
        return Path(self._folder.name, f"{tensor}_{batch}_{kind}.npy")


def _storable(value: Any) -> np.ndarray:
    """Return a tensor as an array of a type that NumPy can save; float32 holds all values of shorter floats."""
    array = keras.ops.convert_to_numpy(keras.ops.stop_gradient(value))
    return array if array.dtype.kind in "biufc" else array.astype("float32")

"""One input or output of an interpreter, and the way of its numbers into the file and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file.report import TensorInfo


@dataclass(frozen=True)
class IOTensor:
    """An input or output of a file.

    Attributes:
        info: What the user sees of it.
        index: How the interpreter calls it.
        dtype: Type of the values that the interpreter takes and gives.
        scale: x = (q - zero_point) * scale for real numbers held as integers; 0 for all others.
        zero_point: The integer that means zero.
    """

    info: TensorInfo
    index: int
    dtype: np.dtype
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, detail: Mapping[str, Any]) -> IOTensor:
        """Read the interpreter's description of a tensor."""
        dtype = np.dtype(detail["dtype"])
        signature = detail.get("shape_signature", ())
        lengths = signature if len(signature) else detail["shape"]
        shape = tuple(None if length < 0 else int(length) for length in lengths)
        quantization = detail["quantization_parameters"]
        per_tensor = len(quantization["scales"]) == len(quantization["zero_points"]) == 1
        quantized = dtype.kind in "iu" and per_tensor
        return cls(
            info=TensorInfo(name, shape, dtype.name),
            index=int(detail["index"]),
            dtype=dtype,
            scale=float(quantization["scales"][0]) if quantized else 0.0,
            zero_point=int(quantization["zero_points"][0]) if quantized else 0,
        )

    @property
    def batch(self) -> int | None:
        """The fixed length of the first dimension, None when it is free or there is none."""
        return self.info.shape[0] if self.info.shape else None

    def takes(self, array: np.ndarray) -> bool:
        """Tell whether an array has entries, the right rank, and the right lengths after the first dimension."""
        wanted, shape = self.info.shape, array.shape
        if not array.size or len(shape) != len(wanted):
            return False
        return all(w in (None, g) for w, g in zip(wanted[1:], shape[1:], strict=True))

    def encode(self, value: Any) -> np.ndarray:
        """Turn numbers into the type of the file, without changing what they mean.

        Raises:
            TypeError: If `value` holds no numbers, or the file wants something else.
            ValueError: If a number cannot be held.
        """
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or self.dtype.kind not in "biuf":
            raise TypeError(
                f"Expected numbers of type {self.dtype.name} for input {self.info.name!r}. "
                f"Received: values of type {array.dtype}. Only files that take real or whole numbers are run."
            )
        if self.scale:
            return self._quantize(array)
        with np.errstate(invalid="ignore", over="ignore"):
            converted = array.astype(self.dtype, copy=False)
        if self.dtype.kind != "f" and not np.array_equal(converted, array):
            raise ValueError(
                f"Expected whole numbers that {self.dtype.name} can hold for input {self.info.name!r}. "
                f"Received: values of type {array.dtype} that it cannot hold. Round or clip them first."
            )
        return converted

    def decode(self, array: np.ndarray) -> np.ndarray:
        """Turn what the file gave into float32 where it means real numbers; leave whole numbers alone."""
        if self.scale:
            return (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _quantize(self, array: np.ndarray) -> np.ndarray:
        real = array.astype(np.float32)
        if np.isnan(real).any():
            raise ValueError(
                f"Expected numbers for input {self.info.name!r}, which the file holds as {self.dtype.name}. "
                "Received: NaN. Replace such values first."
            )
        limits = np.iinfo(self.dtype)
        quantized = np.rint(real / np.float32(self.scale)) + self.zero_point
        return np.clip(quantized, limits.min, limits.max).astype(self.dtype)

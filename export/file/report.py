"""Reports of files: what several of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tfprune.report import Report

OPEN_BATCH = "any number of samples at once; for a browser, fix it: rewrite(..., batch=1)"


@dataclass(frozen=True)
class TensorInfo(Report):
    """An input or output of a file.

    Attributes:
        name: The name in the signature, or the name of the tensor in a file without signatures.
        shape: The shape, with None for a free dimension.
        dtype: The type in the file, such as `float32` or `int8`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {shape_text(self.shape)} {self.dtype}"


def open_batch(inputs: Iterable[TensorInfo]) -> tuple[str, ...]:
    """Return the names of the inputs with a free dimension, which is nearly always the batch.

    LiteRT.js cannot resize an input: it refuses such a file, or returns zeros without an error.
    """
    return tuple(info.name for info in inputs if None in info.shape)


def fraction_of_zeros(nnz: int, size: int) -> float:
    """Return 1 - nnz / size, or 0 if there are no entries."""
    return 1 - nnz / size if size else 0.0


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape as text, such as `?x28x28x1`, with a question mark for a free dimension."""
    return "x".join("?" if length is None else str(length) for length in shape) or "scalar"


def reason_of(error: Exception) -> str:
    """Return why something failed, to stand inside a sentence: the system's words for a file, and no final period."""
    return (getattr(error, "strerror", None) or str(error)).removesuffix(".")


def number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def yes_or_no(value: bool) -> str:
    return "yes" if value else "NO"

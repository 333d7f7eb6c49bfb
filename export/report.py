"""Reports of files: what several of them share."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report


@dataclass(frozen=True)
class TensorInfo(Report):
    """An input or output of a file.

    Attributes:
        name: Its name in the signature, or the tensor's own when there is none.
        shape: Its shape, None for a dimension that is free.
        dtype: How the file holds it, such as `float32` or `int8`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {shape_text(self.shape)} {self.dtype}"


def fraction_of_zeros(nnz: int, size: int) -> float:
    """Return 1 - nnz / size, and 0 for no entries at all."""
    return 1 - nnz / size if size else 0.0


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Write a shape as `?x28x28x1`, a question mark for a free dimension."""
    return "x".join("?" if length is None else str(length) for length in shape) or "scalar"


def shortened(text: str, length: int) -> str:
    """Cut the middle out of a text that is longer than so many characters."""
    return text if len(text) <= length else f"{text[: length // 2]}\u2026{text[-(length - length // 2 - 1) :]}"


def number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def yes_or_no(value: bool) -> str:
    return "yes" if value else "NO"

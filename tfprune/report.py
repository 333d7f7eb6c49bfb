"""Reports: frozen rows that print as a table and turn into JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Lay out rows as aligned plain text.

    Args:
        header: One title per column.
        rows: One sequence per line, as long as the header; `str` is applied to each cell.
        left: How many leading columns are aligned to the left; the others go right.

    Returns:
        The lines of the table, joined by newlines, without a final one.

    Example:
        >>> print(table(["layer", "nnz"], [["conv", 12], ["dense", 3]]))
        layer  nnz
        -----  ---
        conv    12
        dense    3
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(line(row) for row in [cells[0], rule, *cells[1:]])


@dataclass(frozen=True)
class WeightRow:
    """What one prunable weight holds.

    Attributes:
        layer: The layer's place in the model, names joined by slashes (`block_1/conv`).
        weight: The weight's name in its layer (`kernel`).
        shape: Its shape, in Keras' order.
        size: Its number of entries.
        nnz: Its number of non-zero entries, the mask applied.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    size: int
    nnz: int

    @property
    def path(self) -> str:
        """What filters and allocation patterns are matched against."""
        return f"{self.layer}/{self.weight}"

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]."""
        return 1 - self.nnz / self.size


@dataclass(frozen=True)
class Skipped:
    """A layer, or one weight of it, that is not pruned, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class SparsityReport:
    """Zeros per weight and overall. Biases and normalisation are never counted.

    Attributes:
        rows: One entry per counted weight: the wrapped ones, or on a plain model every registered kernel.
        skipped: What has kernels or other weights and is left alone, each with the reason.
        total_nnz: Non-zeros of every kernel of the model, the skipped ones included.
        total_size: Entries of every kernel of the model, the skipped ones included.
    """

    rows: tuple[WeightRow, ...]
    skipped: tuple[Skipped, ...]
    total_nnz: int
    total_size: int

    @property
    def nnz(self) -> int:
        """Non-zero entries of the counted weights."""
        return sum(row.nnz for row in self.rows)

    @property
    def size(self) -> int:
        """Entries of the counted weights."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over the counted weights, in [0, 1]; 0 when there are none."""
        return 1 - self.nnz / self.size if self.size else 0.0

    @property
    def total_sparsity(self) -> float:
        """Fraction of zeros over every kernel of the model, in [0, 1]; 0 when there are none."""
        return 1 - self.total_nnz / self.total_size if self.total_size else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for `json.dumps`."""
        rows = [{**asdict(row), "shape": list(row.shape), "sparsity": row.sparsity} for row in self.rows]
        return {
            "sparsity": self.sparsity,
            "nnz": self.nnz,
            "size": self.size,
            "total_sparsity": self.total_sparsity,
            "total_nnz": self.total_nnz,
            "total_size": self.total_size,
            "rows": rows,
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }

    def __str__(self) -> str:
        lines = [
            [row.path, "x".join(map(str, row.shape)), f"{row.size:,}", f"{row.nnz:,}", f"{row.sparsity:.1%}"]
            for row in self.rows
        ]
        if self.total_size != self.size:
            lines.append(["pruned weights", "", f"{self.size:,}", f"{self.nnz:,}", f"{self.sparsity:.1%}"])
        overall = f"{self.total_sparsity:.1%}"
        lines.append(["every kernel", "", f"{self.total_size:,}", f"{self.total_nnz:,}", overall])
        text = table(["weight", "shape", "entries", "non-zero", "sparsity"], lines, left=2)
        if self.skipped:
            rows = [[skipped.layer, skipped.reason] for skipped in self.skipped]
            text += "\n\n" + table(["skipped", "reason"], rows, left=2)
        return text

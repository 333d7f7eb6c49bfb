"""Reports: frozen rows that print as a table and turn into JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
class Skipped:
    """A layer, or one weight of it, that is not pruned, and why."""

    layer: str
    reason: str

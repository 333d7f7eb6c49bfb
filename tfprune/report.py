"""Reports: frozen dataclasses that print as a table and turn into JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

__all__ = ["Report", "Skipped", "table"]


class Report:
    """Base of the frozen dataclasses that functions return as reports, in both halves of the library.

    Example:
        >>> @dataclass(frozen=True)
        ... class Area(Report):
        ...     JSON_NAMES = ("sides", "area")
        ...     sides: tuple[float, float]
        ...
        ...     @property
        ...     def area(self):
        ...         return self.sides[0] * self.sides[1]
        >>> Area((2.0, 3.0)).as_dict()
        {'sides': [2.0, 3.0], 'area': 6.0}
    """

    JSON_NAMES: ClassVar[tuple[str, ...]] = ()  # the attributes that `as_dict` returns; empty for all fields

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts, ready for `json.dumps`."""
        return json.loads(json.dumps(self, default=_attributes))


def _attributes(value: Any) -> dict[str, Any]:
    if not isinstance(value, Report):
        raise TypeError(f"Expected plain values and reports in a report. Received: {value!r}.")
    names = value.JSON_NAMES or [item.name for item in fields(value)]  # type: ignore[arg-type]
    return {name: getattr(value, name) for name in names}


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Lay out rows as aligned plain text.

    Args:
        header: The title of each column.
        rows: The cells of each line, as many as there are titles; `str` is applied to each cell, and `printable`.
        left: The number of columns, from the first on, that are aligned to the left; the others are aligned right.

    Returns:
        The lines of the table, joined by newlines, without a final one.

    Example:
        >>> print(table(["layer", "nnz"], [["conv", 12], ["dense", 3]]))
        layer  nnz
        -----  ---
        conv    12
        dense    3
    """
    cells = [[printable(str(cell)) for cell in row] for row in [header, *rows]]
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
class Skipped(Report):
    """A layer, or a weight of it, that is left as it is, and the reason.

    Attributes:
        layer: The path of the layer, of its weight, or of the first layer of a group of channels.
        reason: The reason, in words.
        kind: The kind of the reason, one of the constants of this class, so that code can filter.

    Example:
        >>> skipped = [Skipped("norm", "only scales", Skipped.NO_KERNEL), Skipped("stem", "frozen", Skipped.FROZEN)]
        >>> [entry.layer for entry in skipped if entry.kind != Skipped.NO_KERNEL]
        ['stem']
    """

    JSON_NAMES = ("layer", "reason")

    FILTERED: ClassVar[str] = "filtered"  # left out by `filters`, by the pattern, or because it has no scores
    FROZEN: ClassVar[str] = "frozen"  # trainable=False
    UNBUILT: ClassVar[str] = "unbuilt"  # it has no weights yet
    NO_KERNEL: ClassVar[str] = "no kernel"  # it has only biases, scales or statistics
    NO_RULE: ClassVar[str] = "no rule"  # the library does not know how to treat such a layer
    UNREACHABLE: ClassVar[str] = "unreachable"  # the pattern cannot reach the sparsity
    HELD: ClassVar[str] = "held"  # its channels have to stay, because a layer needs all of them
    PARTLY_HELD: ClassVar[str] = "partly held"  # some of its channels have to stay
    OTHER: ClassVar[str] = "other"

    layer: str
    reason: str
    kind: str = field(default=OTHER, compare=False)


_MOST_NAMED = 3  # layers with one reason; more would hide what stands beside the table


def skipped_table(skipped: Iterable[Skipped]) -> str:
    """Return the table of skipped layers, after an empty line; an empty string if there are none.

    Many layers with one reason are one row.

    Example:
        >>> print("A table." + skipped_table([Skipped("norm", "only scales")]))
        A table.
        <BLANKLINE>
        skipped  reason
        -------  -----------
        norm     only scales
    """
    entries = list(skipped)
    counts = Counter(entry.reason for entry in entries)
    rows, seen = [], set()
    for layer, reason in ((entry.layer, entry.reason) for entry in entries):
        if counts[reason] <= _MOST_NAMED:
            rows.append([layer, reason])
        elif reason not in seen:
            rows.append([f"{layer} and {counts[reason] - 1} more", reason])
            seen.add(reason)
    note = "\n`as_dict()` lists all of them, and so does --json on the command line." if seen else ""
    return "\n\n" + table(["skipped", "reason"], rows, left=2) + note if rows else ""


def printable(text: str) -> str:
    """Return a text with escapes for what a terminal would act on: control characters, newlines, marks of direction.

    Example:
        >>> printable("conv" + chr(27) + "[2J") == "conv" + chr(92) + "x1b[2J"
        True
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters, without the middle of a longer one."""
    return text if len(text) <= length else f"{text[: length // 2]}\u2026{text[-(length - length // 2 - 1) :]}"


def install(extra: str) -> str:
    """Return the command that installs an extra, as messages give it: nothing is on PyPI yet.

    Example:
        >>> install("plot")
        'pip install "tfprune[plot]" (from a checkout: pip install ".[plot]")'
    """
    return f'pip install "tfprune[{extra}]" (from a checkout: pip install ".[{extra}]")'


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, its size in inches.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ValueError(
            f"Expected the package matplotlib. Received: not installed. Run {install('plot')}."
        ) from error
    return figure.Figure(figsize=(width, height), layout="constrained")

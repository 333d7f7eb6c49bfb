"""What a weight with many zeros takes under each way of storing it: bytes of values, and bytes of their positions.

Sizes are counted, not made: no coder runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfprune.export.file.tflite.tensor_values import TensorValues
from tfprune.report import Report

OFFSET_BITS = range(3, 9)  # bits of an offset that are tried
TITLES = {
    "dense": "dense",
    "mask": "bit mask",
    "offsets": "CSR, offsets",
    "csr": "CSR, indices",
    "entropy": "entropy bound",
    "file": "this file",
    "best": "smallest of each weight",
}


@dataclass(frozen=True)
class Coding(Report):
    """The size of a weight, or of several, stored in one way.

    Attributes:
        name: `dense`: every entry. `mask`: one bit for each entry, and the non-zero values. `offsets`: rows of
            non-zero values, each with the number of zeros before it in its row; a longer run of zeros forces a zero
            to be stored as a value. `csr`: the same with the index in the row. `entropy`: what no coder can beat that
            codes runs of zeros and values one by one. `file`: as the plain .tflite file has it. `best`, in
            sums: each weight in the smallest of the first four.
        value_bytes: Bytes of the values, for `offsets` with the zeros that are stored among them.
        index_bytes: Bytes that say where the values belong; for rows also where each begins.
        bits: Width of one offset or index; None where there are none, or several widths in a sum.
        padding: Zeros stored because an offset is too narrow for the run before it.
    """

    name: str
    value_bytes: int
    index_bytes: int
    bits: int | None = None
    padding: int = 0

    @property
    def bytes(self) -> int:
        """Values and positions together."""
        return self.value_bytes + self.index_bytes


@dataclass(frozen=True)
class Counts:
    """What the sizes of a weight depend on.

    Attributes:
        size: Number of entries.
        nnz: Entries that do not mean zero.
        rows: Number of rows; a row runs along the last dimension.
        bits: Width of an entry.
        padding: Zeros that offsets of some width force to be stored, by this width in bits.
        run_bits: Order-0 entropy of the runs of zeros before each non-zero entry, of all of them together.
        value_bits: The same of the non-zero values; for floats, which hardly repeat, the bits as they are.
    """

    size: int
    nnz: int
    rows: int
    bits: int
    padding: dict[int, int]
    run_bits: float
    value_bits: float


def count(tensor: TensorValues) -> Counts:
    """Go through the entries of a tensor of rank 1 or more once.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    columns = max(1, tensor.shape[-1])
    padding = dict.fromkeys(OFFSET_BITS, 0)
    runs: Counter[float] = Counter()
    values: Counter[float] = Counter()
    last = -1
    for positions, numbers in tensor.pieces():
        zeros = np.diff(positions, prepend=last) - 1
        in_row = np.minimum(zeros, positions % columns)
        for bits in OFFSET_BITS:
            padding[bits] += int(np.sum(in_row >> bits))
        runs.update(_tally(zeros))
        if "int" in tensor.dtype:
            values.update(_tally(numbers))
        last = int(positions[-1])
    nnz = runs.total()
    value_bits = _entropy(values) if "int" in tensor.dtype else float(nnz * tensor.bits)
    return Counts(tensor.size, nnz, tensor.size // columns, tensor.bits, padding, _entropy(runs), value_bits)


def codings(tensor: TensorValues) -> tuple[Coding, ...]:
    """Return the size of a weight in each way of storing it, and last the size in the file.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    counts = count(tensor)
    columns = counts.size // max(1, counts.rows)
    return (
        Coding("dense", _bytes(counts.size * counts.bits), 0),
        Coding("mask", _bytes(counts.nnz * counts.bits), _bytes(counts.size)),
        min((offsets(counts, bits) for bits in OFFSET_BITS), key=lambda coding: coding.bytes),
        indices(counts, columns),
        Coding("entropy", _bytes(counts.value_bits), _bytes(counts.run_bits)),
        Coding("file", *tensor.file_bytes),
    )


def offsets(counts: Counts, bits: int) -> Coding:
    """Return the size as rows of values with offsets of so many bits."""
    stored = counts.nnz + counts.padding[bits]
    index = _bytes(stored * bits) + _pointers(counts.rows, stored)
    return Coding("offsets", _bytes(stored * counts.bits), index, bits, counts.padding[bits])


def indices(counts: Counts, columns: int) -> Coding:
    """Return the size as rows of values with their indices among so many columns."""
    width = _width(columns - 1)
    index = counts.nnz * width + _pointers(counts.rows, counts.nnz)
    return Coding("csr", _bytes(counts.nnz * counts.bits), index, 8 * width)


def total(rows: Sequence[Sequence[Coding]]) -> tuple[Coding, ...]:
    """Add up the sizes of several weights, coding by coding, and each weight in its smallest one."""
    best = [replace(min(row[:4], key=lambda coding: coding.bytes), name="best") for row in rows]
    return tuple(_sum(parts) for parts in [*zip(*rows, strict=True), best] if parts)


def _sum(parts: Sequence[Coding]) -> Coding:
    widths = {part.bits for part in parts}
    return Coding(
        parts[0].name,
        sum(part.value_bytes for part in parts),
        sum(part.index_bytes for part in parts),
        widths.pop() if len(widths) == 1 else None,
        sum(part.padding for part in parts),
    )


def _pointers(rows: int, stored: int) -> int:
    """Return the bytes that say where each row begins and the last one ends."""
    return (rows + 1) * _width(stored)


def _width(largest: int) -> int:
    """Return how many bytes a TFLite file takes for an index: it has vectors of one, two and four."""
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4


def _bytes(bits: float) -> int:
    return math.ceil(bits / 8)


def _tally(numbers: np.ndarray) -> dict[float, int]:
    symbols, times = np.unique(numbers, return_counts=True)
    return dict(zip(symbols.tolist(), times.tolist(), strict=True))


def _entropy(tally: Counter[float]) -> float:
    """Return the bits of all symbols together when each takes as many as its frequency allows."""
    times = np.fromiter(tally.values(), np.float64, len(tally))
    return float(np.sum(times * np.log2(tally.total() / times))) if len(tally) else 0.0

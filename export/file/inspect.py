"""Inspect a file: a report of its weights, their zeros, and their bytes for each way to store them; its page."""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfprune.base.output import (
    bar,
    document,
    facts,
    image,
    key,
    name_text,
    rows_table,
    save_figure,
    section,
    swatch,
    text,
)
from tfprune.export.file import schema
from tfprune.export.file.container import Source, read_source
from tfprune.export.file.document import (
    AXIS_LABELS,
    CONVERTER,
    ENTRY,
    HASHED,
    REDUCED_PRECISION,
    MetadataTable,
    read_model_metadata,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model, Tensor
from tfprune.export.file.report import (
    OPEN_BATCH,
    TensorInfo,
    fraction_of_zeros,
    layer_title,
    open_batch,
    read_archive,
    reason_of,
    shape_text,
    trailing_archive,
)
from tfprune.export.file.sparse_tensors import OPERATOR, TensorValues
from tfprune.report import Report, new_figure, shortened, table

if TYPE_CHECKING:
    from tfprune.export.file.xnnpack import OperatorRow, SparseInferenceReport


# What a weight with many zeros takes under each way of storing it: bytes of values, and bytes of their positions.
#
# Sizes are counted, not made: no coder runs.

_OFFSET_BITS = range(3, 9)  # bits of an offset that are tried
_TITLES = {
    "dense": "dense",
    "mask": "bit mask",
    "offsets": "CSR, offsets",
    "csr": "CSR, indices",
    "entropy": "entropy bound",
    "file": "file, unpacked",
    "best": "smallest of each weight",
}


@dataclass(frozen=True)
class Coding(Report):
    """The size of a weight, or of several, stored in one way.

    Attributes:
        name: `dense`: every entry. `mask`: one bit for each entry, and the non-zero values. `_offsets`: rows of
            non-zero values, each with the number of zeros before it in its row; a longer run of zeros forces a zero
            to be stored as a value. `csr`: the same with the index in the row. `entropy`: what no coder can beat that
            codes runs of zeros and values one by one. `file`: as the plain .tflite file has it. `best`, in
            sums: each weight in the smallest of the first four.
        value_bytes: Bytes of the values, for `_offsets` with the zeros that are stored among them.
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
class _Counts:
    """The properties that the sizes of a weight depend on.

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


def _count(tensor: TensorValues) -> _Counts:
    """Go through the entries of a tensor of rank 1 or more once.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    columns = max(1, tensor.shape[-1])
    padding = dict.fromkeys(_OFFSET_BITS, 0)
    runs: Counter[float] = Counter()
    values: Counter[float] = Counter()
    last = -1
    for positions, numbers in tensor.pieces():
        zeros = np.diff(positions, prepend=last) - 1
        in_row = np.minimum(zeros, positions % columns)
        for bits in _OFFSET_BITS:
            padding[bits] += int(np.sum(in_row >> bits))
        runs.update(_tally(zeros))
        if "int" in tensor.dtype:
            values.update(_tally(numbers))
        last = int(positions[-1])
    nnz = runs.total()
    value_bits = _entropy(values) if "int" in tensor.dtype else float(nnz * tensor.bits)
    return _Counts(tensor.size, nnz, tensor.size // columns, tensor.bits, padding, _entropy(runs), value_bits)


def _codings(tensor: TensorValues) -> tuple[Coding, ...]:
    """Return the size of a weight in each way of storing it, and last the size in the file.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    counts = _count(tensor)
    columns = counts.size // max(1, counts.rows)
    return (
        Coding("dense", _bytes(counts.size * counts.bits), 0),
        Coding("mask", _bytes(counts.nnz * counts.bits), _bytes(counts.size)),
        min((_offsets(counts, bits) for bits in _OFFSET_BITS), key=lambda coding: coding.bytes),
        _indices(counts, columns),
        Coding("entropy", _bytes(counts.value_bits), _bytes(counts.run_bits)),
        Coding("file", *tensor.file_bytes),
    )


def _offsets(counts: _Counts, bits: int) -> Coding:
    """Return the size as rows of values with offsets of so many bits."""
    stored = counts.nnz + counts.padding[bits]
    index = _bytes(stored * bits) + _pointers(counts.rows, stored)
    return Coding("offsets", _bytes(stored * counts.bits), index, bits, counts.padding[bits])


def _indices(counts: _Counts, columns: int) -> Coding:
    """Return the size as rows of values with their indices among so many columns."""
    width = _width(columns - 1)
    index = counts.nnz * width + _pointers(counts.rows, counts.nnz)
    return Coding("csr", _bytes(counts.nnz * counts.bits), index, 8 * width)


def _total(rows: Sequence[Sequence[Coding]]) -> tuple[Coding, ...]:
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


# A small picture of where the non-zero entries of a weight lie, as a PNG that suits light and dark pages.

_MAX_CELLS = 64  # along each side, at most
_SHADES = 16  # of one color, from clear to solid; a PNG holds two such cells in a byte
_INK = (61, 123, 196)  # readable on white and on black


def _density(values: TensorValues, cells: int = _MAX_CELLS) -> np.ndarray:
    """Return which part of the entries is not zero, cell by cell of a grid laid over the weight as a matrix.

    Args:
        values: A tensor of rank 2 or more.
        cells: Cells along each side, at most.

    Returns:
        Numbers in [0, 1]. Rows of the grid run along the first dimension of the weight, which holds the outputs;
        where it has one position only, as in depthwise kernels, columns run along the last dimension.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    rows, columns = _matrix_shape(values.shape)
    grid = (min(cells, rows), min(cells, columns))
    counts = np.zeros(grid[0] * grid[1], np.int64)
    for positions, _ in values.pieces():
        row, column = np.divmod(positions, max(1, columns))
        cell = (row * grid[0] // rows) * grid[1] + column * grid[1] // columns
        counts += np.bincount(cell, minlength=counts.size)
    return counts.reshape(grid) / np.outer(_lengths(rows, grid[0]), _lengths(columns, grid[1]))


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns as which `_density` sees a weight."""
    rows = shape[0] if shape[0] != 1 else math.prod(shape[:-1])
    return rows, math.prod(shape) // max(1, rows)


def _png(values: np.ndarray) -> bytes:
    """Draw a grid of numbers in [0, 1] as a PNG, a pixel for each: clear for 0, solid for 1, square root between.

    The square root keeps sparse areas visible; a cell that is not 0 is never clear.
    """
    height, width = values.shape
    shades = np.ceil(np.sqrt(values) * (_SHADES - 1)).astype(np.uint8)
    shades = np.pad(shades, ((0, 0), (0, width % 2)))
    lines = np.insert(shades[:, ::2] << 4 | shades[:, 1::2], 0, 0, axis=1)  # a line begins with its filter: none
    clear_to_solid = bytes(round(255 * shade / (_SHADES - 1)) for shade in range(_SHADES))
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)  # four bits, palette
    parts = [
        (b"IHDR", header),
        (b"PLTE", bytes(_INK) * _SHADES),
        (b"tRNS", clear_to_solid),
        (b"IDAT", zlib.compress(lines.astype(np.uint8).tobytes(), 9)),
        (b"IEND", b""),
    ]
    return png_file(parts)


def png_file(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG made of chunks: the name and the content of each."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _lengths(length: int, cells: int) -> np.ndarray:
    """Return how many of so many positions fall into each cell."""
    edges = [-(-cell * length // cells) for cell in range(cells + 1)] if cells else [0]
    return np.diff(edges)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


# Report of a file: its operators, its weights, and the bytes they take.

_NOTE = """\
Only `file, unpacked` was measured; the rest are estimates. `bit mask` and `CSR` store the non-zero
values and their positions: one bit for each entry, or an offset or index for each value. No coder of
single values gets below the entropy bound. The page of `tfprune inspect MODEL --html PAGE` explains each row."""
_LEAST_ALIKE = 4  # inputs or outputs that differ in a number only, as the caches of a language model, for one line
_NAME_WIDTH = 48  # characters of a name in a table; the converter joins the names of all that it fuses
_DRAWN = 40  # weights in a picture, the largest


@dataclass(frozen=True)
class TensorRow(Report):
    """A constant tensor of rank 2 or more, such as a kernel or an embedding, as the file stores it.

    Attributes:
        name: The name of the tensor, chosen by the converter.
        shape: The shape in the file, which may be the transposed shape of Keras.
        dtype: The type of the values.
        size: The number of entries.
        nnz: The number of entries that do not stand for zero.
        sparsity: The fraction of zeros, 1 - nnz / size.
        bytes: The bytes in the file: the values and, for a sparse tensor, their positions.
        sparse: Whether the file stores only some of the entries.
        codings: The bytes that other ways of storing would take, and last those of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    nnz: int
    sparsity: float
    bytes: int
    sparse: bool
    codings: tuple[Coding, ...]

    @property
    def type_text(self) -> str:
        """The type of the values, and whether only some are stored."""
        return self.dtype + (" (sparse)" if self.sparse else "")


@dataclass(frozen=True)
class ModelReport(Report):
    """The operators of a file, its weights, and the bytes they take.

    Attributes:
        file_bytes: The size of the file as given, in bytes.
        unpacked_bytes: The size of the plain .tflite file, in bytes.
        inputs: The inputs, in order.
        outputs: The outputs, in order.
        ops: The number of times that each operator occurs.
        rows: The weights: constant tensors of rank 2 or more.
        nnz: The number of non-zero entries in the weights.
        size: The number of entries in the weights.
        sparsity: The fraction of zeros, 1 - nnz / size.
        weight_bytes: The bytes of the weights in the file, with the positions of sparse values.
        constant_bytes: The bytes of other constants: biases, shapes, tables.
        other_bytes: The rest of the plain file, in bytes: operators, names, scales, metadata.
        codings: The bytes of all weights by each way of storing, and last with each weight in its smallest way.
        reduced_precision: The half precision that the metadata ask for, such as `fp16accfp16`; empty if they do not.
        labels: The names along the last axis of each output that TFLite Metadata give labels, by the output's name.
        normalization: Mean and standard deviation, by the name of each input that TFLite Metadata give them.
        converter: The converter that wrote the file, with its version; empty if the file does not name it.
        foreign_operators: What an interpreter needs for each operator that may not be one of its own, by its name.
        metadata_problem: Why the TFLite Metadata, or the labels that they name, cannot be read; empty if they can.

    Example:
        >>> report = tfprune.export.inspect("digits.tflite")
        >>> report.ops, report.sparsity
        ({'FULLY_CONNECTED': 2}, 0.9)
    """

    file_bytes: int
    unpacked_bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ops: dict[str, int]
    rows: tuple[TensorRow, ...]
    nnz: int
    size: int
    sparsity: float
    weight_bytes: int
    constant_bytes: int
    other_bytes: int
    codings: tuple[Coding, ...]
    reduced_precision: str = ""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    normalization: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)
    metadata_problem: str = ""
    converter: str = ""
    foreign_operators: dict[str, str] = field(default_factory=dict)

    def plot(self, path: str | Path) -> None:
        """Draw the entries of the largest weights, zeros and others, into an image file, such as for a model card.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, the file cannot be written, or there are no weights.
        """
        if not self.rows:
            raise ValueError("Expected weights to draw. Received: the report of a file without weights.")
        largest = sorted(self.rows, key=lambda row: -row.size)[:_DRAWN]
        rows = [row for row in self.rows if row in largest][::-1]  # bars are drawn from the bottom up
        figure = new_figure(9, 1.5 + 0.22 * len(rows))
        axes, places = figure.subplots(), range(len(rows))
        axes.barh(places, [row.nnz for row in rows], color="tab:blue", label="not zero")
        zeros = [row.size - row.nnz for row in rows]
        axes.barh(places, zeros, left=[row.nnz for row in rows], color="lightgrey", label="zero")
        names = [f"{layer_title(row.name)}  {row.sparsity:.0%}" for row in rows]
        axes.set_yticks(places, names, fontsize="small", parse_math=False)
        axes.set(xlabel=f"entries ({self.sparsity:.1%} of {self.size:,} are zero)", ylim=(-0.7, len(rows) - 0.3))
        figure.legend(loc="outside upper right", ncols=2, fontsize="small")
        save_figure(figure, path)

    def __str__(self) -> str:
        rows = [["unpacked", f"{self.unpacked_bytes:,} bytes"]]
        rows += [["  weights", f"{self.weight_bytes:,} bytes"]]
        rows += [["  other constants", f"{self.constant_bytes:,} bytes"]]
        rows += [["  operators, names, scales", f"{self.other_bytes:,} bytes"]]
        rows += [["input", text] for text in _shortened(self.inputs)]
        rows += [["output", text] for text in _shortened(self.outputs)]
        if open_batch(self.inputs):
            rows += [["open batch", OPEN_BATCH]]
        if self.reduced_precision:
            rows += [["half precision", f"{self.reduced_precision} where a processor has it; zeros then run dense"]]
        rows += [["normalization", f"{name}: {_formula(*numbers)}"] for name, numbers in self.normalization.items()]
        rows += [["labels", f"{name}: {_names(labels)}"] for name, labels in self.labels.items()]
        if self.converter:
            rows += [["converted by", self.converter]]
        rows += [["foreign operator", f"{name}: {need}"] for name, need in self.foreign_operators.items()]
        if self.metadata_problem:
            rows += [["TFLite Metadata", self.metadata_problem]]
        parts = [
            table(["file", f"{self.file_bytes:,} bytes"], rows, left=2),
            table(["operator", "count"], self.ops.items()),
            self._weights(),
        ]
        if self.rows:
            parts += [self._storage(), self._totals()]
        return "\n\n".join(parts)

    def _weights(self) -> str:
        lines = [
            [
                layer_title(row.name),
                shape_text(row.shape),
                row.type_text,
                f"{row.size:,}",
                f"{row.nnz:,}",
                f"{row.sparsity:.1%}",
                f"{row.bytes:,}",
            ]
            for row in self.rows
        ]
        sums = [f"{self.size:,}", f"{self.nnz:,}", f"{self.sparsity:.1%}", f"{self.weight_bytes:,}"]
        header = ["weight", "shape", "type", "entries", "non-zero", "sparsity", "bytes"]
        return table(header, [*lines, ["all weights", "", "", *sums]], left=3)

    def _storage(self) -> str:
        header = ["bytes of values + positions", *(_TITLES[coding.name] for coding in self.rows[0].codings)]
        lines = [[layer_title(row.name), *map(_cell, row.codings)] for row in self.rows]
        return table(header, [*lines, ["all weights", *map(_cell, self.codings[: len(header) - 1])]])

    def _totals(self) -> str:
        dense = self.codings[0].bytes
        lines = [
            [
                _TITLES[coding.name],
                f"{coding.value_bytes:,}",
                f"{coding.index_bytes:,}",
                f"{coding.bytes:,}",
                f"{coding.bytes / dense:.1%}" if dense else "-",
                f"{coding.padding:,}" if coding.name in ("offsets", "best") else "",
            ]
            for coding in self.codings
        ]
        if self.file_bytes != self.unpacked_bytes:
            share = f"{self.file_bytes / dense:.1%}" if dense else "-"
            lines.append(["whole packed file", "", "", f"{self.file_bytes:,}", share, ""])
        header = ["all weights", "values", "positions", "bytes", "of dense", "zeros stored"]
        return f"{table(header, lines)}\n{_NOTE}"


def _shortened(infos: Sequence[TensorInfo]) -> list[str]:
    """Return a line for each input or output, and one line for many whose names differ in a number only."""
    groups: dict[tuple, list[TensorInfo]] = {}
    for info in infos:
        groups.setdefault((re.sub(r"\d+", "#", info.name), info.shape, info.dtype), []).append(info)
    lines: list[str] = []
    for group in groups.values():
        is_long = len(group) >= _LEAST_ALIKE
        lines += [f"{group[0]}, and {len(group) - 1} more like it"] if is_long else map(str, group)
    return lines


def _formula(means: tuple[float, ...], stds: tuple[float, ...]) -> str:
    mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (means, stds))
    return f"(x - {mean}) / {std}" if len(means) == len(stds) == 1 else f"(x - [{mean}]) / [{std}]"


def _names(labels: tuple[str, ...]) -> str:
    shown = [shortened(label, _NAME_WIDTH // 2) for label in (labels[:1] + labels[-1:])]
    return f"{len(labels)}, {shown[0]!r} to {shown[-1]!r}" if labels else "none"


def _cell(coding: Coding) -> str:
    text = f"{coding.value_bytes:,} + {coding.index_bytes:,}" if coding.index_bytes else f"{coding.value_bytes:,}"
    return f"{text} ({coding.bits} bits)" if coding.name == "offsets" and coding.bits else text


# Report what a .tflite file holds, and how many bytes its zeros save, without running it.


def inspect(source: Source) -> ModelReport:
    """Describe a file: its size, inputs, outputs and operators, and the zeros of its weights.

    Args:
        source: A path, or the content of such a file, plain or packed.

    Returns:
        A report that prints as tables. Weights are the constant tensors of rank 2 or more that hold real
        numbers; zero means equal to the zero point where they are quantized. For each weight it gives the bytes of
        values and of positions when stored dense, as a bit mask, as rows with offsets of 3 to 8 bits (the best is
        taken, and the zeros counted that have to be stored where a run is longer), as rows with indices, at the
        entropy of runs of zeros and of values (of floats: runs, and the values as they are), and in the file.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file does not exist or is not a whole TFLite file; or (also an ImportError)
            if ai-edge-litert is not installed.

    Example:
        >>> print(inspect("digits.tflite"))
        file                        60,... bytes
        --------------------------  ---...
        unpacked                    60,... bytes
          weights                   59,200 bytes
        ...
        all weights ... 14,800     1,480     90.0%  59,200
        ...

    Reference:
        S. Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network", 2016, arXiv:1602.01528
        (offsets of a few bits, with zeros stored where they do not suffice).
    """
    return _report_of(ModelFile.open(source), file_bytes=len(read_source(source)))


def _report_of(file: ModelFile, *, file_bytes: int) -> ModelReport:
    """Report on an open file as `inspect` does.

    Args:
        file: The file.
        file_bytes: What it takes as it is stored, packed or not.

    Raises:
        ValueError: If it is damaged; or (also an ImportError) if ai-edge-litert is not installed.
    """
    try:
        model, metadata = file.graph, file.metadata
        rows = tuple(_row(weight) for weight in model.weights)
    except ImportError:
        raise
    except ValueError as error:
        raise ValueError(f"Cannot inspect {file.name}. {reason_of(error)}.") from error
    nnz, size = sum(row.nnz for row in rows), sum(row.size for row in rows)
    weight_bytes, constant_bytes = sum(row.bytes for row in rows), _constant_bytes(model)
    described = _described(metadata.get(ENTRY), model, file.content)
    return ModelReport(
        file_bytes=file_bytes,
        unpacked_bytes=len(file.content),
        inputs=model.inputs,
        outputs=model.outputs,
        ops=model.ops,
        rows=rows,
        nnz=nnz,
        size=size,
        sparsity=fraction_of_zeros(nnz, size),
        weight_bytes=weight_bytes,
        constant_bytes=constant_bytes,
        # Parts of a file may overlap, which nothing forbids; then there is no rest.
        other_bytes=max(0, len(file.content) - weight_bytes - constant_bytes),
        codings=_total([row.codings for row in rows]),
        reduced_precision=metadata.get(REDUCED_PRECISION, b"").decode("utf-8", "replace").strip("\0"),
        labels=described.labels,
        normalization=described.normalization,
        metadata_problem=described.problem,
        converter=_converter(metadata),
        foreign_operators=foreign_operators(model.ops),
    )


_FLEX = "Flex"  # how the names of TensorFlow's own operators begin
_FLEX_NEED = "an operator of TensorFlow. Convert the network with TFLite's own operators only, or cut it off before"
_CUSTOM_NEED = "a custom operator. Use an interpreter that has it, or cut the network off before"
_NEWER_NEED = "newer than the installed ai-edge-litert. Install the newest one"
_NEWER = re.compile(r"BUILTIN_\d+")
# Custom operators of the interpreter itself, and the one of microcontrollers.
_REGISTERED = {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess", OPERATOR}


def foreign_operators(names: Iterable[str]) -> dict[str, str]:
    """Return what has to be done about each operator that the interpreter may lack, by its name.

    Args:
        names: Names of operators, as `Model.ops` has them.
    """
    needs = {}
    for name in names:
        if _NEWER.fullmatch(name):
            needs[name] = _NEWER_NEED
        elif name.upper() not in vars(schema.BuiltinOperator) and name not in _REGISTERED:
            needs[name] = _FLEX_NEED if name.startswith(_FLEX) else _CUSTOM_NEED
    return needs


_VERSION = re.compile(rb"\d+\.\d+\.[\w.+-]+")


def _converter(metadata: Mapping[str, bytes]) -> str:
    """Return the name and version of the converter as the metadata give them."""
    if CONVERTER in metadata:
        return shortened(metadata[CONVERTER].decode("utf-8", "replace").strip("\0"), _NAME_WIDTH)
    version = _VERSION.search(metadata.get(HASHED, b""))
    return f"TensorFlow {version[0].decode()}" if version else ""


_MOST_LABEL_BYTES = 2**20  # of text; 21,843 names of ImageNet's classes take half of that


class _Described(NamedTuple):
    labels: dict[str, tuple[str, ...]]
    normalization: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    problem: str = ""


def _described(content: bytes | None, model: Model, data: bytes) -> _Described:
    """Return what TFLite Metadata say of inputs and outputs; an interpreter ignores them, so damage is no error."""
    if content is None:
        return _Described({}, {})
    try:
        graphs = read_model_metadata(content).tables("subgraph_metadata")[:1]
        lines = _LabelLines(read_archive(trailing_archive(data)))
        described = _Described({}, {})
        for graph in graphs:
            for info, entry in _pairs(graph, "input_tensor_metadata", model.inputs, model.input_tensors, model):
                _add_normalization(described.normalization, info.name, entry)
            for info, entry in _pairs(graph, "output_tensor_metadata", model.outputs, model.output_tensors, model):
                _add_labels(described.labels, info.name, entry, lines)
        return described
    except ValueError as error:
        return _Described({}, {}, reason_of(error))


def _pairs(
    graph: MetadataTable, name: str, infos: Sequence[TensorInfo], indices: Sequence[int], model: Model
) -> list[tuple[TensorInfo, MetadataTable]]:
    """Return inputs or outputs with their metadata, which are in the order of the graph."""
    main, entries = model.subgraphs[0], graph.tables(name)
    listed = main.inputs if name.startswith("input") else main.outputs
    if entries and len(entries) != len(listed):
        raise ValueError(f"they describe {len(entries)} of {len(listed)} tensors in {name}.")
    places = [listed.index(index) for index in indices] if entries else []
    return [(info, entries[place]) for info, place in zip(infos, places, strict=False)]


def _add_normalization(normalization: dict[str, Any], name: str, entry: MetadataTable) -> None:
    for unit in entry.tables("process_units"):
        options = unit.fields.get("options")
        if options is not None and options.kind == "NormalizationOptions":
            means, stds = (options.fields.get(key, ()) for key in ("mean", "std"))
            normalization[name] = tuple(map(float, means)), tuple(map(float, stds))


class _LabelLines:
    """The lines of the label files behind a model, each file split once: a line takes more memory than its bytes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files, self._left = files, _MOST_LABEL_BYTES
        self._read: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, title: str) -> tuple[str, ...]:
        if title not in self._files:
            raise ValueError(f"the file {title!r}, which they name, is missing.")
        if title not in self._read:
            self._left -= len(self._files[title])
            if self._left < 0:
                raise ValueError(
                    f"the labels in {title!r}, and those before, take more than {_MOST_LABEL_BYTES:,} bytes."
                )
            self._read[title] = tuple(self._files[title].decode("utf-8", "replace").splitlines())
        return self._read[title]


def _add_labels(labels: dict[str, tuple[str, ...]], name: str, entry: MetadataTable, lines: _LabelLines) -> None:
    for file in entry.tables("associated_files"):
        if file.fields.get("type") != AXIS_LABELS or name in labels:
            continue  # other languages come after the first
        labels[name] = lines[file.fields.get("name", b"").decode("utf-8", "replace")]


def _row(weight: Tensor) -> TensorRow:
    if weight.values is None or weight.nnz is None:
        raise ValueError(f"tensor {weight.name!r} holds no numbers.")
    sizes = _codings(weight.values)
    return TensorRow(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.dtype,
        size=weight.size,
        nnz=weight.nnz,
        sparsity=fraction_of_zeros(weight.nnz, weight.size),
        bytes=sizes[-1].bytes,
        sparse=weight.sparse,
        codings=sizes,
    )


def _constant_bytes(model: Model) -> int:
    weights = {tensor.buffer for tensor in model.weights}
    for part in model.subgraphs:  # what DECODE makes a weight from is counted as the weight
        decodes = [operator for operator in part.operators if operator.name == OPERATOR]
        weights |= {part.tensors[index].buffer for operator in decodes for index in operator.inputs}
    tensors = [tensor for part in model.subgraphs for tensor in part.tensors if tensor.constant]
    return sum({tensor.buffer: tensor.bytes for tensor in tensors if tensor.buffer not in weights}.values())


# One page about a .tflite file, to look at in a browser: sizes, where the zeros are, operators.

# A file may hold any number of anything; a page has to open on a phone.
_MAX_PICTURES = 120  # largest weights, which get a picture
_MAX_LISTED = 400  # weights, operators, inputs and outputs named at most
_INITIALLY_OPEN = 2  # weights unfolded at first
_MAX_REASON_CHARACTERS = 600  # characters of a reason

_NOTES = {
    "dense": "Every entry, zeros included.",
    "mask": "One bit for each entry says whether it is zero; then the non-zero values.",
    "offsets": "Row by row the non-zero values, each with the number of zeros before it in 3 to 8 bits, the smallest "
    "in sum. Where a run of zeros is longer, a zero is stored as a value. The beginnings of rows are counted too.",
    "csr": "Row by row the non-zero values, each with its index in the row, in the narrowest integers that a TFLite "
    "file has for it. The beginnings of rows are counted too.",
    "entropy": "What no coder can beat that codes each run of zeros and each value by itself. Floats hardly repeat: "
    "their values are counted as they are, and only the positions are at their bound.",
    "file": "What the weight takes in this file before the whole is compressed.",
    "best": "Each weight in the smallest of the first four.",
}


def page(source: Source, *, inference: SparseInferenceReport | None = None) -> str:
    """Describe a file as one HTML page that needs nothing besides itself.

    Args:
        source: A path, or the content of such a file, plain or packed.
        inference: What `sparse_inference` says of the file; None leaves that section out.

    Returns:
        The page. It loads nothing and runs no code, and what the file says is text to it.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If `inspect` refuses the file.

    Example:
        >>> content = page("digits.tflite")
        >>> content[:15]
        '<!doctype html>'
    """
    file = ModelFile.open(source)
    report = _report_of(file, file_bytes=len(read_source(source)))
    weights = file.graph.weights
    title = Path(source).name if isinstance(source, (str, os.PathLike)) else "model.tflite"
    parts = [
        _facts(report),
        section("What the file is made of", _parts(report)),
        section("All weights, stored in other ways", _sums(report.codings)),
        section("Weights", _weights(report.rows, weights)),
        section("Sparse kernels", _inference(inference)) if inference else "",
        section("Inputs, outputs, operators", _graph(report)),
        section("What the sizes mean", _notes()),
    ]
    return document(title, parts, kicker="TFLite file", footer="Made by tfprune inspect. A kB is 1,000 bytes.")


def _facts(report: ModelReport) -> str:
    packed = report.file_bytes != report.unpacked_bytes
    rows = [
        (
            "File",
            _size_text(report.file_bytes),
            f"{_size_text(report.unpacked_bytes)} unpacked" if packed else "plain",
        ),
        ("Weights", f"{report.size:,}", f"{report.nnz:,} not zero"),
        ("Zeros", f"{report.sparsity:.1%}", "of all entries"),
    ]
    if report.rows:
        bound = next(coding for coding in report.codings if coding.name == "entropy")
        rows.append(("Entropy bound", _size_text(bound.bytes), "for the weights"))
    return facts(rows)


def _parts(report: ModelReport) -> str:
    parts = [
        ("v", "Weights", report.weight_bytes),
        ("p", "Biases and other constants", report.constant_bytes),
        ("d", "Operators, names, scales", report.other_bytes),
    ]
    whole = max(1, sum(count for *_, count in parts))
    rows = [[swatch(kind) + name, _size_text(count), f"{count / whole:.1%}"] for kind, name, count in parts]
    return bar([(kind, count / whole) for kind, _, count in parts]) + rows_table(["Part", "Bytes", "Share"], rows)


def _sums(codings: Sequence[Coding]) -> str:
    if not codings:
        return "<p>The file holds no weights.</p>"
    return key([("v", "values"), ("p", "positions")]) + _coding_table(codings)


def _coding_table(codings: Sequence[Coding]) -> str:
    longest = max(1, *(coding.bytes for coding in codings))
    dense = max(1, codings[0].bytes)
    smallest = min(coding.bytes for coding in codings if coding.name != "entropy")
    lines = []
    for coding in codings:
        parts = bar([("v", coding.value_bytes / longest), ("p", coding.index_bytes / longest)])
        kind = "best" if coding.bytes == smallest and coding.name != "entropy" else "other"
        lines.append(
            f'<tr class="{kind}"><th scope="row">{_coding_title(coding)}{parts}</th>'
            f'<td class="wide">{_size_text(coding.value_bytes)}</td>'
            f'<td class="wide">{_size_text(coding.index_bytes)}</td>'
            f"<td>{_size_text(coding.bytes)}</td><td>{coding.bytes / dense:.1%}</td></tr>"
        )
    titles = {"Coding": "", "Values": "wide", "Positions": "wide", "Bytes": "", "Of dense": ""}
    header = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in titles.items())
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _coding_title(coding: Coding) -> str:
    more = [f"{coding.bits} bits"] if coding.bits else []
    more += [f"{coding.padding:,} zeros stored"] if coding.padding else []
    return _capital(_TITLES[coding.name]) + (f' <span class="soft">{", ".join(more)}</span>' if more else "")


def _weights(rows: Sequence[TensorRow], weights: Sequence[Tensor]) -> str:
    pairs = sorted(zip(rows, weights, strict=True), key=lambda pair: -pair[0].bytes)
    if not pairs:
        return "<p>None: no constant tensor of rank 2 or more holds numbers.</p>"
    shades = image(_png(np.linspace(0, 1, 32)[None]), "from clear to solid", size=(1, 32))
    legend = key(
        [("v", "non-zero values"), ("p", "positions"), ("d", "zeros")],
        f"<span>pictures: 0 %{shades}100 % of a cell is not zero</span>",
    )
    listed = []
    for index, (row, weight) in enumerate(pairs[:_MAX_LISTED]):
        picture = _picture(row, weight) if index < _MAX_PICTURES else ""
        state = " open" if index < _INITIALLY_OPEN else ""
        listed.append(_weight(row, pairs[0][0].bytes, picture=picture, state=state))
    left = pairs[_MAX_LISTED:]
    together = _size_text(sum(row.bytes for row, _ in left))
    rest = f"<p>And {len(left):,} smaller ones, which take {together} together.</p>" if left else ""
    return legend + "\n".join(listed) + rest


def _weight(row: TensorRow, largest: int, *, picture: str, state: str) -> str:
    file = row.codings[-1]
    values = row.bytes * row.nnz / max(1, row.size)
    parts = (
        [("v", file.value_bytes), ("p", file.index_bytes)]
        if row.sparse
        else [("v", values), ("d", row.bytes - values)]
    )
    return (
        f"<details{state}><summary>{name_text(row.name)}"
        f'<span class="size">{_size_text(row.bytes)}</span>'
        f'<span class="what">{_shape(row.shape)} {text(row.type_text)}</span>'
        f'<span class="part">{row.sparsity:.1%} zeros</span>'
        f"{bar([(kind, count / max(1, largest)) for kind, count in parts])}</summary>"
        f'<div class="weight"><div>{picture}</div><div>{_coding_table(row.codings)}</div></div></details>'
    )


def _picture(row: TensorRow, weight: Tensor) -> str:
    if weight.values is None or not row.size:
        return ""
    grid = _density(weight.values)
    rows, columns = _matrix_shape(row.shape)
    size = f"{rows:,} rows, {columns:,} columns"
    alt = f"Where the non-zero entries of {text(row.name)} lie: {row.nnz:,} of {row.size:,}, in {size}"
    picture = image(_png(grid), alt, size=grid.shape)
    empty = int(np.count_nonzero(~grid.any(axis=1)))
    note = f"; {empty} lines of cells are all zero" if empty else ""
    cells = f"{grid.shape[0]} &times; {grid.shape[1]} cells"
    return f"<figure>{picture}<figcaption>{size}, drawn in {cells}{note}</figcaption></figure>"


def _inference(inference: SparseInferenceReport) -> str:
    verdict = "Runs sparse." if inference.active else "Can run sparse, but does not yet."
    zeros = (
        f"{inference.sparsity:.1%} of the kernels that count are zero; more than {inference.needed:.1%} are needed."
    )
    if not inference.eligible:
        verdict, zeros = "Runs dense.", ""
    rewriting, listed = inference.rewriting, inference.rows
    reasons = [f"Wrong outputs on ARM: {hazard}" for hazard in inference.hazards]
    if rewriting is None or not rewriting.pays:
        reasons += inference.reasons
    if rewriting is not None:
        reasons += [": ".join(fact) for fact in rewriting.facts()]
        listed = rewriting.rows
    items = [f"<li>{text(reason, _MAX_REASON_CHARACTERS)}</li>" for reason in reasons[:_MAX_LISTED]]
    rows = rows_table(["Layer", "Zeros", "Sparse"], map(_operator, listed[:_MAX_LISTED]))
    return (
        f"<p><strong>{verdict}</strong> {zeros} This holds for {text(inference.runtime, _MAX_REASON_CHARACTERS)}.</p>"
        f"<ul>{''.join(items)}</ul><details><summary>"
        f'<span class="name">operators one by one</span><span class="size">{len(listed):,}</span></summary>'
        f"{rows}{_more(len(listed))}</details>"
    )


def _operator(row: OperatorRow) -> list[str]:
    why = f": {text(row.reason, _MAX_REASON_CHARACTERS)}" if row.reason else ""
    zeros = "" if row.sparsity is None else f"{row.sparsity:.1%}"
    name = f'{name_text(row.name)}<span class="why">{text(row.kind)}{why}</span>'
    return [name, zeros, '<span class="yes">yes</span>' if row.sparse else '<span class="no">no</span>']


def _graph(report: ModelReport) -> str:
    ends = [(info, kind) for kind, infos in (("input", report.inputs), ("output", report.outputs)) for info in infos]
    rows = [[name_text(info.name), kind, _shape(info.shape), text(info.dtype)] for info, kind in ends[:_MAX_LISTED]]
    counts = [[name_text(name), f"{count:,}"] for name, count in [*report.ops.items()][:_MAX_LISTED]]
    return (
        rows_table(["Name", "Kind", "Shape", "Type"], rows)
        + _more(len(ends))
        + rows_table(["Operator", "Count"], counts)
        + _more(len(report.ops))
    )


def _more(count: int) -> str:
    return f"<p>And {count - _MAX_LISTED:,} more.</p>" if count > _MAX_LISTED else ""


def _notes() -> str:
    pairs = [f"<dt>{_capital(_TITLES[name])}</dt><dd>{note}</dd>" for name, note in _NOTES.items()]
    return f'<dl class="notes">{"".join(pairs)}</dl>'


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _shape(lengths: tuple[int | None, ...]) -> str:
    """Write a shape with signs of multiplication."""
    return escape(shape_text(lengths).replace("x", "\u00d7"))


def _size_text(count: float) -> str:
    """Write a number of bytes in three digits.

    Example:
        >>> _size_text(4_214_272), _size_text(999.6), _size_text(96)
        ('4.21 MB', '1.00 kB', '96 B')
    """
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 999.5 * 1000 ** (power - 1):
            scaled = count / 1000**power
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{count:.0f} B"

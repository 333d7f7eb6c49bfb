"""Report of a file: its operators, its weights, and the bytes they take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tfprune.export.file.inspecting.codings import TITLES, Coding
from tfprune.export.file.report import OPEN_BATCH, TensorInfo, open_batch, shape_text
from tfprune.report import Report, shortened, table

NOTE = """\
Only `this file` was measured; the rest are estimates. `bit mask` and `CSR` store the non-zero values and
their positions: one bit for each entry, or an offset or index for each value. No coder of single values
gets below the entropy bound. The page of `tfprune inspect MODEL --html PAGE` explains each row."""
LEAST_ALIKE = 4  # inputs or outputs that differ in a number only, as the caches of a language model, for one line
NAME_WIDTH = 48  # characters of a name in a table; the converter joins the names of all that it fuses


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
                shortened(row.name, NAME_WIDTH),
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
        header = ["bytes of values + positions", *(TITLES[coding.name] for coding in self.rows[0].codings)]
        lines = [[shortened(row.name, NAME_WIDTH), *map(_cell, row.codings)] for row in self.rows]
        return table(header, [*lines, ["all weights", *map(_cell, self.codings[: len(header) - 1])]])

    def _totals(self) -> str:
        dense = self.codings[0].bytes
        lines = [
            [
                TITLES[coding.name],
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
        return f"{table(header, lines)}\n{NOTE}"


def _shortened(infos: Sequence[TensorInfo]) -> list[str]:
    """Return a line for each input or output, and one line for many whose names differ in a number only."""
    groups: dict[tuple, list[TensorInfo]] = {}
    for info in infos:
        groups.setdefault((re.sub(r"\d+", "#", info.name), info.shape, info.dtype), []).append(info)
    lines: list[str] = []
    for group in groups.values():
        is_long = len(group) >= LEAST_ALIKE
        lines += [f"{group[0]}, and {len(group) - 1} more like it"] if is_long else map(str, group)
    return lines


def _formula(means: tuple[float, ...], stds: tuple[float, ...]) -> str:
    mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (means, stds))
    return f"(x - {mean}) / {std}" if len(means) == len(stds) == 1 else f"(x - [{mean}]) / [{std}]"


def _names(labels: tuple[str, ...]) -> str:
    shown = [shortened(label, NAME_WIDTH // 2) for label in (labels[:1] + labels[-1:])]
    return f"{len(labels)}, {shown[0]!r} to {shown[-1]!r}" if labels else "none"


def _cell(coding: Coding) -> str:
    text = f"{coding.value_bytes:,} + {coding.index_bytes:,}" if coding.index_bytes else f"{coding.value_bytes:,}"
    return f"{text} ({coding.bits} bits)" if coding.name == "offsets" and coding.bits else text

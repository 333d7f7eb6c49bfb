"""Tell what a .tflite file holds, and what its zeros are worth, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.codec import Source, read_model, read_source, source_name
from tfprune.export.flatbuffer import read
from tfprune.export.graph import Graph, Tensor
from tfprune.export.report import Report, TensorInfo, fraction_of_zeros, shape_text, shortened
from tfprune.export.storage import TITLES, Coding, codings, total
from tfprune.report import table

NAME = 48  # characters of a name in a table; the converter joins the names of all that it fuses


@dataclass(frozen=True)
class TensorRow(Report):
    """A constant tensor of rank 2 or more: a kernel or an embedding, as it lies in the file.

    Attributes:
        name: The tensor's name, which the converter chose.
        shape: Its shape in the file, which may be transposed from Keras'.
        dtype: Type of its values.
        size: Number of entries.
        nnz: Number of entries that do not mean zero.
        sparsity: 1 - nnz / size.
        bytes: What it takes in the file: its values and, when sparse, their positions.
        sparse: True when the file holds only some of the entries.
        codings: What it would take when stored in other ways, and last what it takes in the file.
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
    """What a file holds.

    Attributes:
        file_bytes: Size of the file as given.
        unpacked_bytes: Size of the plain .tflite.
        inputs: The inputs, in order.
        outputs: The outputs, in order.
        ops: How often each operator occurs.
        rows: The constant tensors of rank 2 or more.
        nnz: Their non-zero entries.
        size: Their entries.
        sparsity: 1 - nnz / size.
        weight_bytes: What they take in the file, positions included.
        constant_bytes: What other constants take: biases, shapes, tables.
        other_bytes: The rest of the plain file: operators, names, scales, metadata.
        codings: The sums of the weights' sizes, coding by coding, and last each weight in its smallest coding.
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

    def __str__(self) -> str:
        rows = [["unpacked", f"{self.unpacked_bytes:,} bytes"]]
        rows += [["  weights", f"{self.weight_bytes:,} bytes"]]
        rows += [["  other constants", f"{self.constant_bytes:,} bytes"]]
        rows += [["  operators, names, scales", f"{self.other_bytes:,} bytes"]]
        rows += [["input", str(info)] for info in self.inputs]
        rows += [["output", str(info)] for info in self.outputs]
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
                shortened(row.name, NAME),
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
        lines = [[shortened(row.name, NAME), *map(_cell, row.codings)] for row in self.rows]
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
        header = ["all weights", "values", "positions", "bytes", "of dense", "zeros stored"]
        return table(header, lines)


def inspect(source: Source) -> ModelReport:
    """Describe a file: its size, inputs, outputs and operators, and the zeros of its weights.

    Args:
        source: A path, or the content of such a file, plain or packed.

    Returns:
        A report that prints as tables. Weights are the constant tensors of rank 2 or more that hold real
        numbers; zero means equal to the zero point where they are quantized. For each weight it tells the bytes of
        values and of positions when stored dense, as a bit mask, as rows with offsets of 3 to 8 bits (the best is
        taken, and the zeros counted that have to be stored where a run is longer), as rows with indices, at the
        entropy of runs of zeros and of values (of floats: runs, and the values as they are), and in the file.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If there is no such file, it is no TFLite file or a damaged one; or (also an ImportError)
            if ai-edge-litert is not installed.

    Example:
        >>> print(inspect("digits.tflite"))  # doctest: +SKIP

    Reference:
        S. Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network", 2016, arXiv:1602.01528
        (offsets of a few bits, with zeros stored where they do not suffice).
    """
    data = read_model(source)
    try:
        graph = read(data)
        rows = tuple(_row(weight) for weight in graph.weights)
    except ImportError:
        raise
    except ValueError as error:
        raise ValueError(f"Cannot inspect {source_name(source)}. {error}") from error
    nnz, size = sum(row.nnz for row in rows), sum(row.size for row in rows)
    weight_bytes, constant_bytes = sum(row.bytes for row in rows), _constant_bytes(graph)
    return ModelReport(
        file_bytes=len(read_source(source)),
        unpacked_bytes=len(data),
        inputs=graph.inputs,
        outputs=graph.outputs,
        ops=graph.ops,
        rows=rows,
        nnz=nnz,
        size=size,
        sparsity=fraction_of_zeros(nnz, size),
        weight_bytes=weight_bytes,
        constant_bytes=constant_bytes,
        # Parts of a file may overlap, which nothing forbids; then there is no rest.
        other_bytes=max(0, len(data) - weight_bytes - constant_bytes),
        codings=total([row.codings for row in rows]),
    )


def _row(weight: Tensor) -> TensorRow:
    if weight.entries is None or weight.nnz is None:
        raise ValueError(f"tensor {weight.name!r} holds no numbers")
    sizes = codings(weight.entries)
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


def _constant_bytes(graph: Graph) -> int:
    weights = {tensor.buffer for tensor in graph.weights}
    tensors = [tensor for part in graph.subgraphs for tensor in part.tensors if tensor.constant]
    return sum({tensor.buffer: tensor.bytes for tensor in tensors if tensor.buffer not in weights}.values())


def _cell(coding: Coding) -> str:
    text = f"{coding.value_bytes:,} + {coding.index_bytes:,}" if coding.index_bytes else f"{coding.value_bytes:,}"
    return f"{text} ({coding.bits} bits)" if coding.name == "offsets" and coding.bits else text

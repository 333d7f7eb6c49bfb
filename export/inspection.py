"""Tell what a .tflite file holds, without running it."""

from __future__ import annotations

from tfprune.export.codec import Source, read_model, read_source, source_name
from tfprune.export.flatbuffer import read
from tfprune.export.report import ModelReport, TensorRow, fraction_of_zeros


def inspect(source: Source) -> ModelReport:
    """Describe a file: its size, inputs, outputs and operators, and the zeros of its weights.

    Args:
        source: A path, or the content of such a file: plain, gzip or xz.

    Returns:
        A report that prints as a table. Weights are the constant tensors of rank 2 or more that hold real
        numbers; zero means equal to the zero point where they are quantized.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If there is no such file, it is no TFLite file or a damaged one; or (also an ImportError)
            if ai-edge-litert is not installed.

    Example:
        >>> print(inspect("digits.tflite"))  # doctest: +SKIP
    """
    data = read_model(source)
    try:
        graph = read(data)
    except ImportError:
        raise
    except ValueError as error:
        raise ValueError(f"Cannot inspect {source_name(source)}. {error}") from error
    rows = tuple(
        TensorRow(
            name=weight.name,
            shape=weight.shape,
            dtype=weight.dtype,
            size=weight.size,
            nnz=weight.nnz,  # type: ignore[arg-type]  # what counts as a weight has a count
            sparsity=fraction_of_zeros(weight.nnz, weight.size),  # type: ignore[arg-type]
            bytes=weight.bytes,
            sparse=weight.sparse,
        )
        for weight in graph.weights
    )
    nnz, size = sum(row.nnz for row in rows), sum(row.size for row in rows)
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
        weight_bytes=sum(row.bytes for row in rows),
    )

"""Report what a .tflite file holds, and how many bytes its zeros save, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tfprune.export.file.files.metadata import REDUCED_PRECISION
from tfprune.export.file.files.metadata_format import AXIS_LABELS, ENTRY, MetadataTable, read_model_metadata
from tfprune.export.file.files.source import Source, read_source
from tfprune.export.file.inspecting.codings import codings, total
from tfprune.export.file.inspecting.model_report import ModelReport, TensorRow
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import TensorInfo, fraction_of_zeros, reason_of
from tfprune.export.file.tflite.decode_format import OPERATOR
from tfprune.export.file.tflite.model import Model, Tensor
from tfprune.export.file.trailing_archive import read_archive, trailing_archive


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
    return report_of(ModelFile.open(source), file_bytes=len(read_source(source)))


def report_of(file: ModelFile, *, file_bytes: int) -> ModelReport:
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
        codings=total([row.codings for row in rows]),
        reduced_precision=metadata.get(REDUCED_PRECISION, b"").decode("utf-8", "replace").strip("\0"),
        labels=described.labels,
        normalization=described.normalization,
        metadata_problem=described.problem,
    )


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
        files = read_archive(trailing_archive(data))
        described = _Described({}, {})
        for graph in graphs:
            for info, entry in _pairs(graph, "input_tensor_metadata", model.inputs, model.input_tensors, model):
                _add_normalization(described.normalization, info.name, entry)
            for info, entry in _pairs(graph, "output_tensor_metadata", model.outputs, model.output_tensors, model):
                _add_labels(described.labels, info.name, entry, files)
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


def _add_labels(labels: dict[str, tuple[str, ...]], name: str, entry: MetadataTable, files: dict[str, bytes]) -> None:
    for file in entry.tables("associated_files"):
        if file.fields.get("type") != AXIS_LABELS or name in labels:
            continue  # other languages come after the first
        title = file.fields.get("name", b"").decode("utf-8", "replace")
        if title not in files:
            raise ValueError(f"the file {title!r}, which they name, is missing.")
        labels[name] = tuple(files[title].decode("utf-8", "replace").splitlines())


def _row(weight: Tensor) -> TensorRow:
    if weight.values is None or weight.nnz is None:
        raise ValueError(f"tensor {weight.name!r} holds no numbers.")
    sizes = codings(weight.values)
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

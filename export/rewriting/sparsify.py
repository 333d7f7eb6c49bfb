"""Sparsify: store the weights of a .tflite file without their zeros.

The stock converter's sparse modes write files that crash or give wrong outputs, so the encoding is written here.
These forms are right in every interpreter tried:

- float32 and float16: a sparse tensor, DENSIFY, and the operators as they were (through their DEQUANTIZE, if any);
- 8-bit weights and activations: the same, but for FULLY_CONNECTED, which XNNPACK then refuses: it becomes a 1x1
  convolution (`pointwise`);
- 8-bit weights with float32 activations: no kernel takes what DENSIFY unpacks, so DEQUANTIZE follows, and operators
  compute in float32. Those of the same graph whose weights stay dense do so too: XNNPACK cannot mix the two;
- float32 weights of FULLY_CONNECTED whose zeros come in fours, without DENSIFY: the runtime has a kernel for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_number
from tfprune.export.file import schema
from tfprune.export.file.document import numbers_operators
from tfprune.export.file.metadata import REDUCED_PRECISION
from tfprune.export.file.model_file import ModelFile, fitting
from tfprune.export.file.pack import Source
from tfprune.export.file.reader import Subgraph, Tensor
from tfprune.export.file.report import fraction_of_zeros, shape_text
from tfprune.export.rewriting.shapes import make_pointwise, pointwise_refusal
from tfprune.export.rewriting.sparse_graph import (
    BLOCK,
    INTEGER,
    Rewriter,
    SparseEncoding,
    WeightUse,
    encode_blocks,
    encode_rows,
    lower_versions,
    merge_constants,
    weight_uses,
)
from tfprune.report import Report, table

_FORMS = ("csr", "block", "pointwise")
_DENSE = "dense"
_SHARED = "it shares its values with a tensor that stays dense"
_GAINLESS = "the file would not be smaller"
_OF_OTHERS = "other graphs than the first read it, and stay as they are"
_KERNELLESS = "no kernel takes its blocks"
_SPARSE_OVERHEAD_BYTES = 400  # bytes that a sparse tensor and its operators take besides values and indices, about


@dataclass(frozen=True)
class SparseRow(Report):
    """A weight of a file, and how it is stored now.

    Attributes:
        name: The tensor's name.
        shape: Its shape in the file.
        dtype: Type of its values.
        sparsity: Fraction of its entries that are zero, or that mean zero.
        form: `"csr"`, `"block"`, `"pointwise"` or `"dense"`.
        dense_bytes: What its values take stored densely.
        bytes: What it takes now: values and indices.
        reason: Why it is dense; empty when it is not.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    form: str
    dense_bytes: int
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Sparsified(Report):
    """A file after `sparsify`.

    Attributes:
        data: The file; the bytes given where nothing became smaller.
        bytes_before: Size of the file given.
        bytes: Size of `data`.
        rows: What became of each weight that was not sparse before.
    """

    JSON_NAMES = ("bytes_before", "bytes", "rows")  # without the file

    data: bytes = field(repr=False)
    bytes_before: int
    bytes: int
    rows: tuple[SparseRow, ...]

    def __str__(self) -> str:
        lines = [
            [row.name, shape_text(row.shape), row.dtype, row.form, f"{row.sparsity:.1%}"]
            + [f"{row.dense_bytes:,}", f"{row.bytes:,}", row.reason]
            for row in self.rows
        ]
        total = ["file", "", "", "", "", f"{self.bytes_before:,}", f"{self.bytes:,}", ""]
        header = ["weight", "shape", "type", "form", "zeros", "dense", "bytes", "reason"]
        return table(header, [*lines, total], left=4)


def sparsify(source: Source, *, forms: Collection[str] = _FORMS, min_sparsity: float = 0.0) -> Sparsified:
    """Store the weights of a .tflite file sparse wherever that makes the file smaller.

    The outputs stay the same, but for 8-bit weights with float32 activations: these compute in float32 afterwards,
    closer to the weights. Tensors that are sparse already stay as they are. Labels and metadata stay, but for the
    entry `reduced_precision_support`, with which no sparse kernel runs on ARM processors with half precision.

    Of a file with signatures that start at other graphs than the first, weights become sparse that only the first one
    reads. The other graphs stay as they are.

    Args:
        source: A path, or the bytes of a .tflite file, plain or packed.
        forms: `"csr"` (indices of single entries), `"block"` (float32 blocks of four inputs, which FULLY_CONNECTED
            computes with as they are) and `"pointwise"` (indices of single entries in 8-bit weights of
            FULLY_CONNECTED, which becomes a 1x1 convolution and takes activations of 8 bits as before).
        min_sparsity: Weights with a smaller fraction of zeros stay dense; 0 (the default) to 1.

    Returns:
        A report with the file as `data`, and a row for each weight.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or an argument has another type.
        ValueError: If the file cannot be read or is not a whole TFLite file, or an argument does not fit; or (also an
            ImportError) if ai-edge-litert is not installed.

    Example:
        >>> print(sparsify("digits.tflite"))
        weight ... shape   type     form  zeros   dense  bytes  reason
        ...
        ...hidden... 200x64  float32  csr   90.0%  51,200  6,...
        file ...
    """
    _check(forms, min_sparsity)
    file = ModelFile.open(source)
    result, rows = SparseForms(file).form(forms, min_sparsity=min_sparsity)
    sizes = len(file.content), len(result.content)
    return Sparsified(data=result.content, bytes_before=sizes[0], bytes=sizes[1], rows=rows)


class SparseForms:
    """The sparse forms of one file: forms that turn out to be the same file are opened once.

    Args:
        file: The file.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._known = {file.content: file}

    def form(self, forms: Collection[str], *, min_sparsity: float = 0.0) -> tuple[ModelFile, tuple[SparseRow, ...]]:
        """Return the file with sparse weights, and what became of each weight, as `sparsify` describes both.

        Raises:
            ValueError: If operators do not fit their tensors.
        """
        with fitting(self._file):
            result, rows = self._sparse(forms, min_sparsity, _KERNELLESS)
            if any(row.form in ("csr", "pointwise") for row in rows) and result.hazards:
                rest = [form for form in forms if form == "block"]
                reason = f"with sparse weights XNNPACK fails on ARM, at {result.hazards[0]}"
                return self._sparse(rest, min_sparsity, reason)
            return result, rows

    def _sparse(
        self, forms: Collection[str], min_sparsity: float, otherwise: str
    ) -> tuple[ModelFile, tuple[SparseRow, ...]]:
        file, result = self._file, self._file
        groups = _groups(file.graph.subgraphs)
        if "pointwise" in forms and any(group.pointwise for group in groups):
            file = self._once(file.after(merge_constants))
            groups = _groups(file.graph.subgraphs)
        model = file.objects()
        for group in groups:
            _choose(group, model, forms, min_sparsity)
            group.reason = group.reason or ("" if group.encoded else otherwise)
        if any(group.encoded for group in groups):
            _rewrite(model, groups)
            result = self._once(file.saved(model))
        if len(result.content) >= len(self._file.content):
            result, groups = self._file, [replace(group, reason=group.reason or _GAINLESS) for group in groups]
        return result, tuple(group.row() for group in groups)

    def _once(self, file: ModelFile) -> ModelFile:
        return self._known.setdefault(file.content, file)


@dataclass
class _Group:
    """The tensors that share one buffer, and the form that they get."""

    tensor: Tensor
    members: list[tuple[int, WeightUse]]  # number of the graph, and where in it
    reason: str = ""
    encoded: SparseEncoding | None = None

    @property
    def pointwise(self) -> bool:
        """True when its operators have to become 1x1 convolutions."""
        return any(use.pointwise for _, use in self.members)

    def row(self) -> SparseRow:
        encoded = None if self.reason else self.encoded
        tensor = self.tensor
        return SparseRow(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            sparsity=fraction_of_zeros(tensor.nnz or 0, tensor.size),
            form=_DENSE if encoded is None else "pointwise" if self.pointwise else encoded.form,
            dense_bytes=tensor.bytes,
            bytes=tensor.bytes if encoded is None else encoded.bytes_for(len(self.members)),
            reason=self.reason,
        )


def _check(forms: Collection[str], min_sparsity: float) -> None:
    expected = f"`forms` to name one or more of {list(_FORMS)}"
    if isinstance(forms, str) or not isinstance(forms, Collection):
        received = f"{forms!r} of type {type(forms).__name__}"
        raise ArgumentTypeError("forms", expected, received, advice="Put the names into a list.")
    if not forms or any(form not in _FORMS for form in forms):
        raise ArgumentError("forms", expected, repr(forms))
    check_number(min_sparsity, "min_sparsity", least=0, most=1)


def _groups(graphs: Sequence[Subgraph]) -> list[_Group]:
    groups: dict[int, _Group] = {}
    for number, graph in enumerate(graphs):
        for use in weight_uses(graph):
            tensor = graph.tensors[use.tensor]
            group = groups.setdefault(tensor.buffer, _Group(tensor, []))
            group.members.append((number, use))
            same = (tensor.shape, tensor.dtype) == (group.tensor.shape, group.tensor.dtype)
            alone = len(group.members) == 1
            group.reason = group.reason or (use.reason if alone else _SHARED if use.reason or not same else "")
    holders = Counter(tensor.buffer for graph in graphs for tensor in graph.tensors)
    for buffer, group in groups.items():
        if holders[buffer] > len(group.members):
            group.reason = group.reason or _SHARED
    return [*groups.values()]


def _choose(group: _Group, model: schema.ModelT, forms: Collection[str], min_sparsity: float) -> None:
    """Encode the values of a group, or give the reason why they stay as they are."""
    tensor = group.tensor
    group.reason = group.reason or _refusal(group, model)
    if not group.reason and fraction_of_zeros(tensor.nnz or 0, tensor.size) < min_sparsity:
        group.reason = f"it has fewer zeros than min_sparsity={min_sparsity:g}"
    if group.pointwise and "pointwise" not in forms:
        group.reason = group.reason or INTEGER
    if group.reason:
        return
    kind = np.dtype(tensor.dtype).newbyteorder("<")
    array = np.asarray(model.buffers[tensor.buffer].data).view(kind).reshape(tensor.shape)
    array = array[:, None, None] if group.pointwise else array
    encodings = []
    if "block" in forms and all(use.native for _, use in group.members) and tensor.shape[-1] % BLOCK == 0:
        encodings.append(encode_blocks(array))
    if ("pointwise" if group.pointwise else "csr") in forms:
        encodings.append(encode_rows(array))
    encoded = min(encodings, key=lambda encoded: encoded.bytes, default=None)
    copies, overhead = len(group.members), _SPARSE_OVERHEAD_BYTES * len(group.members)
    if encoded is not None and encoded.bytes_for(copies) + overhead >= tensor.bytes:
        group.reason = f"sparse it takes {encoded.bytes_for(copies):,} bytes, and about {overhead} for its operators"
    else:
        group.encoded = encoded


def _refusal(group: _Group, model: schema.ModelT) -> str:
    """Say what in the file as a whole, or in the tensors' quantization, keeps values dense."""
    metadata = model.metadata or ()
    if numbers_operators(model):
        return "the file names its operators by number"
    if any(entry.buffer == group.tensor.buffer for entry in metadata):
        return _SHARED
    starts = {entry.subgraphIndex for entry in model.signatureDefs or ()}
    if starts - {0} and any(number for number, _ in group.members):
        return _OF_OTHERS
    for number, use in group.members:
        quantization = model.subgraphs[number].tensors[use.tensor].quantization
        if quantization is not None and (quantization.details is not None or np.any(quantization.zeroPoint)):
            return "its zeros are not stored as 0"
    if not group.pointwise:
        return ""
    reasons = [pointwise_refusal(model, model.subgraphs[number], weight=use.tensor) for number, use in group.members]
    return next(filter(None, reasons), "")


def _rewrite(model: schema.ModelT, groups: Sequence[_Group]) -> None:
    rewriters = [Rewriter(model, graph) for graph in model.subgraphs]
    pointwise = [member for group in groups if group.encoded and group.pointwise for member in group.members]
    for number, graph in enumerate(model.subgraphs):
        make_pointwise(model, graph, weights={use.tensor for which, use in pointwise if which == number})
    floating = {number for group in groups if group.encoded for number, use in group.members if use.hybrid}
    for group in groups:
        if group.encoded:
            model.buffers[group.tensor.buffer].data = group.encoded.raw
        for number, use in group.members:
            rewriter, tensor = rewriters[number], use.tensor
            if use.hybrid and number in floating:
                tensor = rewriter.dequantize(tensor)
            if group.encoded and group.encoded.block > 1:
                rewriter.store(tensor, group.encoded)
            elif group.encoded:
                rewriter.unpack(tensor, group.encoded)
    # With it, LiteRT 2.2 and 2.3 run the zeros as if they were dense on ARMv8.2, and 2.1 gives NaN.
    model.metadata = [entry for entry in model.metadata or () if entry.name != REDUCED_PRECISION.encode()]
    lower_versions(model)

"""Check what interpreters take for granted: that operators fit their tensors, and that integers mean numbers."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from tfprune.export.file.tflite.check_sparse import ENTRY_BYTES
from tfprune.export.file.tflite.flatbuffer_table import FlatbufferTable

# By the operator's number: its name, and the number of its kind of options, which begin with the number of outputs.
COUNTED = {49: ("SPLIT", 35), 88: ("UNPACK", 64), 102: ("SPLIT_V", 79)}
# The same for convolutions and pooling: the number of their kind of options, and the slots in which strides stand.
STRIDES = {1: (5, 2), 3: (1, 2), 4: (2, 2), 12: (5, 2), 17: (5, 2), 67: (49, 2), 132: (106, 3), 141: (106, 3)}
# How many inputs an operator needs where it may lack others, such as biases, else all of its inputs, at
# least one. What a custom one needs is its own; those of variables and tables need none.
NEEDED = {3: 2, 4: 2, 9: 2, 16: 1, 27: 2, 32: 0, 35: 2, 44: 1, 46: 2, 52: 1, 67: 3, 129: 0, 132: 2, 136: 0}
NEEDED |= {141: 3, 142: 0}
LISTED = {4: 3, 45: 4, 126: 2}  # how many some list at least: a depthwise convolution, STRIDED_SLICE, BATCH_MATMUL
WITHOUT_OUTPUT = {32, 118, 119, 129, 138, 144}  # custom ones, IF, WHILE, and those that set a variable
# Those that compute with real numbers only: integers of 8 and 16 bits need a scale there.
WITH_SCALES = {0, 3, 4, 9, 11, 14, 18, 19, 20, 21, 25, 28, 41, 42, 50, 54, 67, 76, 98, 99, 111, 114, 117, 126}
DENSIFY, FLOAT32, INT16 = 124, 0, 7
SUMS, SQUARED_DIFFERENCE, PRODUCTS, COMPARISONS = {0, 41}, 99, {3, 4, 9}, {58, 61, 62, 63, 71, 72}
OF_ONE_TYPE = {0, 18, 41, 42, 99} | COMPARISONS  # operators on pairs
ZERO_POINT_RANGES = {
    3: (0, 255),
    7: (-32768, 32767),
    9: (-128, 127),
}  # of zero points, by the number of a tensor's type
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it numbers lose digits, and their inverse overflows
# Bytes of a tensor that is not in the file: as many as these, and beyond them so many times the bytes of the file.
ALWAYS_ALLOWED_BYTES, MAX_EXPANSION = 2**29, 1000


def check_operators(data: bytes | memoryview) -> None:
    """Refuse a file with an operator that does not fit its tensors.

    That is: one that takes a tensor apart into another number of outputs than it says; one without an input or
    output that it needs; one that writes over an input of its graph, a constant or what another gives; one that
    unpacks a sparse tensor into another shape; one with strides of 0; and one that computes with integers whose
    scales are missing or do not fit each other. Also a file without a graph; a graph with an input or output that is
    not a tensor of it, or with an output that nothing makes; a tensor that is far larger than its file explains; and
    integers with a zero point that is none of them, or with a scale that is not a number above zero.

    Args:
        data: A plain file that `check_structure` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        model = FlatbufferTable.root(data)
        codes = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1)]
        filled = {index for index, buffer in enumerate(model.tables(4)) if len(buffer.vector(0, "u1"))}
        graphs = model.tables(2)
        if not graphs:
            raise ValueError("it holds no graph.")
        most = max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * len(data))
        for graph in graphs:
            tensors = [_Tensor.of(table) for table in graph.tables(0)]
            for tensor in tensors:
                tensor.check(most)
                if tensor.buffer in filled and 0 in tensor.shape:
                    raise ValueError(f"a constant of shape {tensor.shape} has values.")
            _check_graph(graph, tensors, codes, filled)
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


class _Tensor(NamedTuple):
    """What operators have to fit."""

    shape: list[int]
    kind: int
    buffer: int
    is_variable: bool
    scales: np.ndarray
    zeros: np.ndarray

    @classmethod
    def of(cls, table: FlatbufferTable) -> _Tensor:
        quantization = table.table(4)
        return cls(
            table.vector(0, "<i4").tolist(),
            table.number(1, "<b"),
            table.number(2, "<I"),
            bool(table.number(5, "<b")),
            quantization.vector(2, "<f4") if quantization else np.zeros(0, "<f4"),
            quantization.vector(3, "<i8") if quantization else np.zeros(0, "<i8"),
        )

    def check(self, most: int) -> None:
        if math.prod(self.shape) * ENTRY_BYTES.get(self.kind, 1) > most:
            raise ValueError(f"a tensor of shape {self.shape} takes more than {most:,} bytes.")
        if self.kind not in ZERO_POINT_RANGES:
            return
        if not (np.isfinite(self.scales) & (self.scales >= SMALLEST_SCALE)).all():
            raise ValueError("a tensor of integers has a scale that is not a number above zero.")
        low, high = ZERO_POINT_RANGES[self.kind]
        if not ((low <= self.zeros) & (self.zeros <= high)).all():
            raise ValueError(f"a tensor of integers has a zero point outside {low} to {high}.")


def _check_graph(graph: FlatbufferTable, tensors: list[_Tensor], codes: list[int], filled: set[int]) -> None:
    if any(not 0 <= end < len(tensors) for slot in (1, 2) for end in graph.vector(slot, "<i4").tolist()):
        raise ValueError("a graph takes or gives a tensor that it has not.")
    written = {index for index, tensor in enumerate(tensors) if tensor.buffer in filled}
    written |= set(graph.vector(1, "<i4").tolist())
    for operator in graph.tables(3):
        index = operator.number(0, "<I")
        code = codes[index] if index < len(codes) else -1
        inputs, outputs = operator.vector(1, "<i4").tolist(), operator.vector(2, "<i4").tolist()
        _check_options(operator, code, len(outputs))
        needed = NEEDED.get(code, max(1, len(inputs)))
        if len(inputs) < LISTED.get(code, needed) or -1 in inputs[:needed]:
            raise ValueError(f"an operator (number {code}) lacks an input that it needs.")
        if outputs[:1] in ([], [-1]) and code not in WITHOUT_OUTPUT:
            raise ValueError(f"an operator (number {code}) lacks its output.")
        for output in outputs:
            if output in written:
                raise ValueError(f"an operator (number {code}) writes over tensor {output}.")
            written |= {output} - {-1}
        if all(-1 <= end < len(tensors) for end in [*inputs, *outputs]):
            input_tensors, output_tensors = ([tensors[end] for end in ends if end >= 0] for ends in (inputs, outputs))
            _check_tensors(code, input_tensors, output_tensors)
    made_by_none = [tensors[end] for end in set(graph.vector(2, "<i4").tolist()) - written]
    # A variable, and a tensor without entries, need no making.
    if any(all(tensor.shape) and not tensor.is_variable for tensor in made_by_none):
        raise ValueError("a graph gives a tensor that no operator makes.")


def _check_options(operator: FlatbufferTable, code: int, outputs: int) -> None:
    kind, options = operator.number(3, "<B"), operator.table(4)
    if code in COUNTED:
        name, expected = COUNTED[code]
        said = options.number(0, "<i") if options and kind == expected else 0
        if said != outputs:
            raise ValueError(f"{name} with {outputs} outputs says that it has {said}.")
    if code in STRIDES:
        expected, count = STRIDES[code]
        strides = (
            [options.number(slot, "<i") for slot in range(1, 1 + count)] if options and kind == expected else [0]
        )
        if 0 in strides:
            raise ValueError(f"an operator (number {code}) has strides of 0.")


def _check_tensors(code: int, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
    if code == DENSIFY:
        shapes = [tensor.shape for tensor in [*inputs, *outputs]]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"DENSIFY makes a tensor of shape {shapes[-1]} from one of {shapes[0]}.")
    if code in OF_ONE_TYPE and len({tensor.kind for tensor in inputs}) > 1:
        raise ValueError(f"an operator (number {code}) takes numbers of different types.")
    if code in WITH_SCALES or code in COMPARISONS and all(tensor.kind != INT16 for tensor in inputs):
        _check_scales(code, inputs, outputs)


def _check_scales(code: int, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
    integers = [tensor for tensor in [*inputs, *outputs] if tensor.kind in ZERO_POINT_RANGES]
    if any(not len(tensor.scales) for tensor in integers):
        raise ValueError(f"an operator (number {code}) computes with integers that have no scale.")
    if not inputs or inputs[0].kind not in ZERO_POINT_RANGES:
        return  # weights are integers at most
    if any(tensor.kind == FLOAT32 for tensor in outputs):
        raise ValueError(f"an operator (number {code}) makes real numbers from integers.")
    if not 0 < _multiplier(code, inputs, outputs) < 1:
        raise ValueError(f"an operator (number {code}) has scales that are too far from each other.")


def _multiplier(code: int, input_tensors: list[_Tensor], output_tensors: list[_Tensor]) -> float:
    """Return the factor by which a kernel scales integers, where it ends the process unless that is in (0, 1)."""
    inputs = np.array([tensor.scales.max(initial=0) for tensor in input_tensors], np.float32)
    output, largest = np.float32(output_tensors[0].scales.max(initial=0)), inputs.max()
    with np.errstate(all="ignore"):
        if code in COMPARISONS:
            return float(largest)
        if code in SUMS:
            return float(2 * largest / (output * np.float32(2**15 if output_tensors[0].kind == INT16 else 2**20)))
        if code == SQUARED_DIFFERENCE:
            return float((2 * largest) ** 2 / (output * np.float32(2**14)))
        return float(inputs[0] * inputs[1] / output / 256) if code in PRODUCTS else 0.5

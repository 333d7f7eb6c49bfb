"""Check what interpreters take for granted: that operators fit their tensors, and that integers mean numbers."""

from __future__ import annotations

import struct

import numpy as np

from tfprune.export.file.tflite.flatbuffer_table import FlatbufferTable

# By the operator's number: its name, and the number of its kind of options, which begin with the number of outputs.
COUNTED = {49: ("SPLIT", 35), 88: ("UNPACK", 64), 102: ("SPLIT_V", 79)}
WITHOUT_SECOND = (16, 32, 44, 52)  # LSTMs may lack their second input; what a custom operator needs is its own
DENSIFY, ALL_NEEDED = 124, (118, 119)  # IF and WHILE hand all their inputs on
ZERO_POINT_RANGES = {
    3: (0, 255),
    7: (-32768, 32767),
    9: (-128, 127),
}  # of zero points, by the number of a tensor's type
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it numbers lose digits, and their inverse overflows


def check_operators(data: bytes) -> None:
    """Refuse a file with an operator that does not fit its tensors.

    That is: one that takes a tensor apart into another number of outputs than it says; one without an input or
    output that it needs; one that writes over an input of its graph, a constant or what another gives; and one that
    unpacks a sparse tensor into another shape. Also a file without a graph; a graph with an input or output that is
    not a tensor of it, or with an output that nothing makes; and integers with a zero point that is none of them, or
    with a scale that is not a number or next to zero.

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
        for graph in graphs:
            for tensor in graph.tables(0):
                _check_scales(tensor)
            _check_graph(graph, codes, filled)
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


def _check_graph(graph: FlatbufferTable, codes: list[int], filled: set[int]) -> None:
    tensors = graph.tables(0)
    if any(not 0 <= end < len(tensors) for slot in (1, 2) for end in graph.vector(slot, "<i4").tolist()):
        raise ValueError("a graph takes or gives a tensor that it has not.")
    given = {index for index, tensor in enumerate(tensors) if tensor.number(2, "<I") in filled}
    given |= set(graph.vector(1, "<i4").tolist())
    for operator in graph.tables(3):
        index = operator.number(0, "<I")
        code = codes[index] if index < len(codes) else None
        inputs, outputs = operator.vector(1, "<i4").tolist(), operator.vector(2, "<i4").tolist()
        if code in COUNTED:
            _check_count(operator, len(outputs), *COUNTED[code])
        needed = inputs if code in ALL_NEEDED else inputs[: 1 if code in WITHOUT_SECOND else 2]
        if -1 in needed:
            raise ValueError(f"an operator (number {code}) lacks an input that it needs.")
        if -1 in outputs[:1]:
            raise ValueError(f"an operator (number {code}) lacks its output.")
        for output in outputs:
            if output in given:
                raise ValueError(f"an operator (number {code}) writes over tensor {output}.")
            given |= {output} - {-1}
        if code == DENSIFY and all(0 <= end < len(tensors) for end in [*inputs, *outputs]):
            shapes = [tensors[end].vector(0, "<i4").tolist() for end in [*inputs, *outputs]]
            if any(shape != shapes[0] for shape in shapes):
                raise ValueError(f"DENSIFY makes a tensor of shape {shapes[-1]} from one of {shapes[0]}.")
    made_by_none = [tensors[end] for end in set(graph.vector(2, "<i4").tolist()) - given]
    # A variable, and a tensor without entries, need no making.
    if any(tensor.vector(0, "<i4").all() and not tensor.number(5, "<b") for tensor in made_by_none):
        raise ValueError("a graph gives a tensor that no operator makes.")


def _check_scales(tensor: FlatbufferTable) -> None:
    quantization, kind = tensor.table(4), tensor.number(1, "<b")
    if quantization is None or kind not in ZERO_POINT_RANGES:
        return
    scales, zeros = quantization.vector(2, "<f4"), quantization.vector(3, "<i8")
    if not (np.isfinite(scales) & ((scales == 0) | (scales >= SMALLEST_SCALE))).all():
        raise ValueError("a tensor of integers has a scale that is not a number above zero.")
    low, high = ZERO_POINT_RANGES[kind]
    if not ((low <= zeros) & (zeros <= high)).all():
        raise ValueError(f"a tensor of integers has a zero point outside {low} to {high}.")


def _check_count(operator: FlatbufferTable, found: int, name: str, kind: int) -> None:
    options = operator.table(4) if operator.number(3, "<B") == kind else None
    said = options.number(0, "<i") if options else 0
    if said != found:
        raise ValueError(f"{name} with {found} outputs says that it has {said}.")

"""Check that operators fit the tensors they name: interpreters crash where some do not, instead of saying so."""

from __future__ import annotations

import struct

from tfprune.export.tables import Table

# By the operator's number: its name, and the number of its kind of options, which begin with the number of outputs.
COUNTED = {49: ("SPLIT", 35), 88: ("UNPACK", 64), 102: ("SPLIT_V", 79)}
WITHOUT_SECOND = (16, 32, 44, 52)  # LSTMs may lack their second input; what a custom operator needs is its own
DENSIFY = 124


def check_operators(data: bytes) -> None:
    """Refuse a file with an operator that does not fit its tensors.

    That is: one that takes a tensor apart into another number of outputs than it says; one without a first or second
    input that it needs; one that writes over an input of its graph, a constant or what another gives; and one that
    unpacks a sparse tensor into another shape.

    Args:
        data: A plain file that `check_whole` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        model = Table.model(data)
        codes = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1)]
        filled = {place for place, buffer in enumerate(model.tables(4)) if len(buffer.vector(0, "u1"))}
        for graph in model.tables(2):
            _check_graph(graph, codes, filled)
    except struct.error as error:
        raise ValueError("a part lies outside the file") from error


def _check_graph(graph: Table, codes: list[int], filled: set[int]) -> None:
    tensors = graph.tables(0)
    given = {place for place, tensor in enumerate(tensors) if tensor.number(2, "<I") in filled}
    given |= set(graph.vector(1, "<i4").tolist())
    for operator in graph.tables(3):
        place = operator.number(0, "<I")
        code = codes[place] if place < len(codes) else None
        inputs, outputs = operator.vector(1, "<i4").tolist(), operator.vector(2, "<i4").tolist()
        if code in COUNTED:
            _check_count(operator, len(outputs), *COUNTED[code])
        if -1 in inputs[:1] or (-1 in inputs[1:2] and code not in WITHOUT_SECOND):
            raise ValueError(f"an operator (number {code}) lacks an input that it needs")
        for output in outputs:
            if output in given:
                raise ValueError(f"an operator (number {code}) writes over tensor {output}")
            given |= {output} - {-1}
        if code == DENSIFY and all(0 <= end < len(tensors) for end in [*inputs, *outputs]):
            shapes = [tensors[end].vector(0, "<i4").tolist() for end in [*inputs, *outputs]]
            if any(shape != shapes[0] for shape in shapes):
                raise ValueError(f"DENSIFY makes a tensor of shape {shapes[-1]} from one of {shapes[0]}")


def _check_count(operator: Table, found: int, name: str, kind: int) -> None:
    options = operator.table(4) if operator.number(3, "<B") == kind else None
    told = options.number(0, "<i") if options else 0
    if told != found:
        raise ValueError(f"{name} with {found} outputs says that it has {told}")

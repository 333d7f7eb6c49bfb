"""Check that operators have as many outputs as they say: XNNPACK crashes where a SPLIT does not."""

from __future__ import annotations

import struct

from tfprune.export.tables import Table

# By the operator's number: its name, and the number of its kind of options, which begin with the number of outputs.
COUNTED = {49: ("SPLIT", 35), 88: ("UNPACK", 64), 102: ("SPLIT_V", 79)}


def check_splits(data: bytes) -> None:
    """Refuse a file in which an operator that takes a tensor apart has another number of outputs than it says.

    Args:
        data: A plain file that `check_whole` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        model = Table.model(data)
        codes = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1)]
        for operator in (operator for graph in model.tables(2) for operator in graph.tables(3)):
            place = operator.number(0, "<I")
            if place < len(codes) and codes[place] in COUNTED:
                _check_outputs(operator, *COUNTED[codes[place]])
    except struct.error as error:
        raise ValueError("a part lies outside the file") from error


def _check_outputs(operator: Table, name: str, kind: int) -> None:
    options = operator.table(4) if operator.number(3, "<B") == kind else None
    told, found = options.number(0, "<i") if options else 0, len(operator.vector(2, "<i4"))
    if told != found:
        raise ValueError(f"{name} with {found} outputs says that it has {told}")

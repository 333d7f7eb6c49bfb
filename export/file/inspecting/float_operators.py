"""Operators of an integer file that compute in float."""

from __future__ import annotations

from collections import Counter

from tfprune.export.file.tflite.model import Model

FLOATS = ("float16", "float32", "float64")
BORDERS = ("QUANTIZE", "DEQUANTIZE")  # turn floats into integers, and back


def float_operators(graph: Model) -> dict[str, int]:
    """Return how often each operator returns floats, by name, those at the borders of the integers aside."""
    return dict(
        Counter(
            operator.name
            for part in graph.subgraphs
            for operator in part.operators
            if operator.name not in BORDERS
            and any(part.tensors[index].dtype in FLOATS for index in operator.outputs if index >= 0)
        )
    )

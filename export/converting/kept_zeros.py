"""A check that the zeros of the Keras kernels are in the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tfprune.export.tflite.model import Model
from tfprune.export.tflite.tensor_values import WEIGHTS


def missing_zeros(graph: Model, kernels: Iterable[tuple[str, int, int]]) -> list[str]:
    """Find kernels of Keras whose zeros are not zeros in the file.

    The converter renames and transposes weights, so they are matched by their number of entries: among those
    of one size, the kernel with the most zeros needs a weight with at least as many, and so on downwards.
    Kernels without zeros need no match.

    Args:
        graph: The file, as `tflite.reader.read` describes it.
        kernels: Name, number of entries and number of zeros of each.

    Returns:
        One sentence for each kernel that lost zeros; empty if none did.
    """
    found = defaultdict(list)
    for subgraph in graph.subgraphs:
        for tensor in subgraph.tensors:
            if tensor.nnz is not None and tensor.dtype in WEIGHTS:
                found[tensor.size].append(tensor.size - tensor.nnz)
    wanted = defaultdict(list)
    for name, size, zeros in kernels:
        if zeros:
            wanted[size].append((zeros, name))
    problems = []
    for size, entries in wanted.items():
        if len(entries) > len(found[size]):  # equal kernels are merged by the converter
            entries = list(dict(entries).items())
        counts = sorted(found[size], reverse=True)
        counts += [-1] * (len(entries) - len(counts))
        pairs = zip(sorted(entries, reverse=True), counts, strict=False)
        problems += [_lost(name, size, zeros, count) for (zeros, name), count in pairs if count < zeros]
    return problems


def _lost(name: str, size: int, zeros: int, count: int) -> str:
    have = "none" if count < 0 else f"one with {count:,} zeros"
    return f"kernel {name!r} has {zeros:,} zeros in {size:,} entries; the file has {have} of that size to match"

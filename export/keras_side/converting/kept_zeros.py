"""A check that the zeros of the Keras kernels are in the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import keras

import tfprune
from tfprune.export.file.tflite.model import Model
from tfprune.export.file.tflite.tensor_values import WEIGHTS
from tfprune.keras_models.models.kernels import kernels
from tfprune.masking.wrapping.sparsity_report import WeightRow


class _Reads(keras.StatelessScope):
    """A scope that remembers which variables are read in it."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.add(id(variable))
        return super().get_current_value(variable)


def kernels_read(plain: keras.Model, data: Any) -> list[WeightRow]:
    """Return the zeros of the kernels that a plain model reads when it is called: no other comes into its file.

    An output embedding of a language model, for example, may be called from outside of its graph only.

    Args:
        plain: A model without wrappers.
        data: What it is called on.
    """
    with _Reads() as scope:
        plain(data, training=False)
    variables = [kernel.variable for kernel in kernels(plain)]
    read = [id(variable) in scope.read for variable in variables]
    if not all(read) and keras.backend.backend() == "tensorflow":
        captured = _captured(plain, data)  # by a tf.function, whose code does not run again
        read = [known or id(variable.handle) in captured for known, variable in zip(read, variables, strict=True)]
    return [row for row, known in zip(tfprune.sparsity_report(plain).rows, read, strict=True) if known]


def _captured(plain: keras.Model, data: Any) -> set[int]:
    """Return the ids of the handles of variables in the graph that TensorFlow traces."""
    import tensorflow as tf

    traced = tf.function(lambda: plain(data, training=False)).get_concrete_function()
    return {id(handle) for handle in traced.captured_inputs}


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

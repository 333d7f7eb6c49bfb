"""The outputs that pruning has removed, put back so that the layers that read them can be solved for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.layer_moments import calls_by_name
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.kernels import Kernel, from_matrix, kernels, to_matrix
from tfprune.keras_models.models.layers import as_numpy


class Restored:
    """Values for the kernels of a pruned model, in which outputs without weights have those of the reference.

    A removed channel is zero in the layer that makes it. Put back, it shows its readers what they did with it, and
    does nothing where the kernels that read it are zero for it.

    Args:
        ours: The pruned model.
        theirs: The reference.
    """

    def __init__(self, ours: Graph, theirs: Graph) -> None:
        others = calls_by_name(theirs)
        self._pairs: list[tuple[Kernel, Kernel]] = []
        for name, calls in calls_by_name(ours).items():
            self._pairs += zip(kernels(calls[0].layer), kernels(others[name][0].layer), strict=True)
        self._pairs = [(kernel, other) for kernel, other in self._pairs if _dead(kernel).any()]
        self._kept: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def values(self) -> list[tuple[keras.Variable, Any]]:
        """Return the variables, each with the value to use in its place."""
        for kernel, other in self._pairs:
            if id(kernel.variable) not in self._kept:
                self._kept[id(kernel.variable)] = keras.ops.convert_to_tensor(_restored(kernel, other))
        return [(kernel.variable, self._kept[id(kernel.variable)]) for kernel, _ in self._pairs]

    def forget(self, variable: keras.Variable) -> None:
        """Read a kernel anew that has other weights now."""
        self._kept.pop(id(variable), None)


def _dead(kernel: Kernel) -> np.ndarray:
    matrix = to_matrix(as_numpy(kernel.variable), kernel)
    return np.logical_not(np.any(matrix.reshape(len(matrix), -1), axis=1))


def _restored(kernel: Kernel, other: Kernel) -> np.ndarray:
    dead = _dead(kernel)
    matrix = to_matrix(as_numpy(kernel.variable), kernel).copy()
    matrix[dead] = to_matrix(as_numpy(other.variable), other)[dead]
    return from_matrix(matrix, kernel)

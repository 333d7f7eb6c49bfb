"""Count the zeros of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from tfprune.models.kernels import Kernel, kernels
from tfprune.models.kinds import leaf_layers
from tfprune.models.layers import as_numpy, walk
from tfprune.models.register_prunable import is_registered
from tfprune.report import Skipped, table
from tfprune.wrapping.pruned import Pruned, holds_pruned


def sparsity_report(model: keras.layers.Layer) -> SparsityReport:
    """Count the zeros of a model, per weight and overall.

    Args:
        model: A model or layer. With `Pruned` layers their weights are counted, the masks applied; without, every
            kernel that can be pruned.

    Example:
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="out")])
        >>> sparsity_report(model).size
        100
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: an object of type {type(model).__name__}.")
    wrapped = [(path, layer) for path, layer in walk(model, stop=Pruned) if isinstance(layer, Pruned)]
    masked = {
        id(kernel.variable): _row(path or layer.name, name, kernel.variable, layer.masks[name])
        for path, layer in wrapped
        for name, kernel in layer.kernels.items()
    }
    offered = kernels(model)
    every = {
        id(kernel.variable): _row(*_split(kernel.path, model), kernel.variable)
        for kernel in offered
        if id(kernel.variable) not in masked
    }
    rows = tuple((masked or every).values())
    every |= masked
    return SparsityReport(
        rows=rows,
        skipped=tuple(_skipped(model, offered, is_wrapped=bool(wrapped))),
        total_nnz=sum(row.nnz for row in every.values()),
        total_size=sum(row.size for row in every.values()),
    )


def _split(path: str, root: keras.layers.Layer) -> tuple[str, str]:
    layer, _, weight = path.rpartition("/")
    return layer or root.name, weight


def _row(layer: str, weight: str, variable: keras.Variable, mask: keras.Variable | None = None) -> WeightRow:
    is_kept = as_numpy(variable) != 0
    if mask is not None:
        is_kept &= as_numpy(mask)
    return WeightRow(layer, weight, is_kept.shape, is_kept.size, int(np.count_nonzero(is_kept)))


def _skipped(model: keras.layers.Layer, offered: list[Kernel], *, is_wrapped: bool) -> list[Skipped]:
    """List the layers whose weights are not pruned, with the reason."""
    found, parts = [], list(leaf_layers(model))
    for path, layer in parts:
        if isinstance(layer, Pruned):
            frozen = [name for name in layer.kernels if name not in layer.trained()]
            if frozen:
                reason = f"frozen (trainable=False), so the masks never change: {', '.join(frozen)}"
                found.append(Skipped(path or layer.name, reason))
        elif not layer.built and is_registered(layer):
            found.append(Skipped(path or layer.name, "not built: the model has not called it yet"))
        elif layer.weights and not holds_pruned(layer):
            left_alone = _reason(layer, is_wrapped)
            found += [Skipped(path or layer.name, left_alone)] if left_alone else []
    in_layers = {id(variable) for _, layer in parts for variable in layer.variables}
    for kernel in offered:
        if id(kernel.variable) not in in_layers:
            place = kernel.path.rpartition("/")[0] or model.name
            found.append(Skipped(place, "its kernel is a weight of the model itself; move it into a layer"))
    return found


def _reason(layer: keras.layers.Layer, is_wrapped: bool) -> str | None:
    names = ", ".join(kernel.path for kernel in kernels(layer))
    if names:
        return f"{names} left out by `filters` or by the pattern" if is_wrapped else None
    if all(len(weight.shape) < 2 for weight in layer.weights):
        return f"{type(layer).__name__} has only biases, scales or statistics"
    if is_registered(layer):
        return f"the rule for {type(layer).__name__} names no weight that it has"
    return f"no rule for {type(layer).__name__}: tfprune.register_prunable names the weights to prune"


@dataclass(frozen=True)
class WeightRow:
    """What one prunable weight holds.

    Attributes:
        layer: The layer's place in the model, names joined by slashes (`block_1/conv`).
        weight: The weight's name in its layer (`kernel`).
        shape: Its shape, in Keras' order.
        size: Its number of entries.
        nnz: Its number of non-zero entries, the mask applied.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    size: int
    nnz: int

    @property
    def path(self) -> str:
        """What filters and allocation patterns are matched against."""
        return f"{self.layer}/{self.weight}"

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]."""
        return 1 - self.nnz / self.size


@dataclass(frozen=True)
class SparsityReport:
    """Zeros per weight and overall. Biases and normalisation are never counted.

    Attributes:
        rows: One entry per counted weight: the wrapped ones, or on a plain model every registered kernel.
        skipped: What has kernels or other weights and is left alone, each with the reason.
        total_nnz: Non-zeros of every kernel of the model, the skipped ones included.
        total_size: Entries of every kernel of the model, the skipped ones included.
    """

    rows: tuple[WeightRow, ...]
    skipped: tuple[Skipped, ...]
    total_nnz: int
    total_size: int

    @property
    def nnz(self) -> int:
        """Non-zero entries of the counted weights."""
        return sum(row.nnz for row in self.rows)

    @property
    def size(self) -> int:
        """Entries of the counted weights."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over the counted weights, in [0, 1]; 0 when there are none."""
        return 1 - self.nnz / self.size if self.size else 0.0

    @property
    def total_sparsity(self) -> float:
        """Fraction of zeros over every kernel of the model, in [0, 1]; 0 when there are none."""
        return 1 - self.total_nnz / self.total_size if self.total_size else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for `json.dumps`."""
        rows = [{**asdict(row), "shape": list(row.shape), "sparsity": row.sparsity} for row in self.rows]
        return {
            "sparsity": self.sparsity,
            "nnz": self.nnz,
            "size": self.size,
            "total_sparsity": self.total_sparsity,
            "total_nnz": self.total_nnz,
            "total_size": self.total_size,
            "rows": rows,
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }

    def __str__(self) -> str:
        lines = [
            [row.path, "x".join(map(str, row.shape)), f"{row.size:,}", f"{row.nnz:,}", f"{row.sparsity:.1%}"]
            for row in self.rows
        ]
        if self.total_size != self.size:
            lines.append(["pruned weights", "", f"{self.size:,}", f"{self.nnz:,}", f"{self.sparsity:.1%}"])
        overall = f"{self.total_sparsity:.1%}"
        lines.append(["every kernel", "", f"{self.total_size:,}", f"{self.total_nnz:,}", overall])
        text = table(["weight", "shape", "entries", "non-zero", "sparsity"], lines, left=2)
        if self.skipped:
            rows = [[skipped.layer, skipped.reason] for skipped in self.skipped]
            text += "\n\n" + table(["skipped", "reason"], rows, left=2)
        return text

"""Count the zeros of a model."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.prunable import Kernel, as_numpy, is_registered, kernels, walk
from tfprune.rebuild import units
from tfprune.report import Skipped, SparsityReport, WeightRow
from tfprune.wrapper import Pruned, holds_pruned


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
        raise TypeError(f"Expected a Keras model or layer. Received: an object of type {type(model).__name__}")
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
    found, parts = [], list(units(model))
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

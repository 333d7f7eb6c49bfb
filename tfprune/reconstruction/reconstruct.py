"""Reconstruct the outputs of each layer: solve for the remaining weights by least squares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfprune.models.batches import Batches
from tfprune.models.graph import check_graph, flatten, trace
from tfprune.models.layers import rename, walk
from tfprune.reconstruction.layer_moments import Site, moments_of, sites_of
from tfprune.reconstruction.least_squares import RIDGE, GramMoments, solve, sweep
from tfprune.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.spec import check_choice, check_count, check_number
from tfprune.wrapping.flat_copy import flat_copy
from tfprune.wrapping.transfer import copy_with

MODES = ("sequential", "parallel")
METHODS = ("exact", "sweep")


def reconstruct(
    pruned: keras.Model,
    reference: keras.Model,
    data: Any,
    *,
    mode: str = "sequential",
    method: str = "exact",
    ridge: float = RIDGE,
    batch_size: int = 32,
) -> tuple[keras.Model, ReconstructionReport]:
    """Solve for the remaining weights of a pruned model, so that each layer returns what it returned before pruning.

    Use it after pruning in one step, between `zero_channels` and `shrink` or after `update_masks`: it wins back much
    of the accuracy without training. Layer by layer, the non-zero entries of the kernel and the bias become those of
    least squared error on the calibration data, before the activation. Zeros stay zeros. A bias takes over the mean
    of the removed inputs. An output keeps its weights where the new ones are not better, and an output without
    non-zero weights is left as it is.

    The memory does not grow with the number of samples, but with the square of the inputs of the widest layer.
    Intermediate outputs are not stored: in sequential mode they are computed again for each layer.

    Args:
        pruned: A built Sequential or Functional model, wrapped or not, with zeros where weights were removed. It is
            left unchanged.
        reference: The model before pruning: layers of the same names, weights of the same shapes.
        data: Calibration data, without labels: some hundred samples as the model will see them, as an array, a list
            or dict of arrays for several inputs, or a dataset that can be read more than once. Labels in it are not
            used.
        mode: `"sequential"` (the default) solves for each layer on the outputs of the layers before it with their new
            weights, so that it also corrects their remaining errors. `"parallel"` solves for all layers on the inputs
            they have in `reference`, in one pass over the data.
        method: `"exact"` (the default), or `"sweep"` for unstructured masks in wide layers: SparseGPT's sweep, where
            one factorization serves all outputs of a layer.
        ridge: How strongly the weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0. Default 1e-5; raise it for few samples, for example to 0.001.
        batch_size: Samples in a batch, at least 1. Default 32. The patches that a convolution sees in one batch are
            held at once.

    Returns:
        An uncompiled model like `pruned` with the new weights, and a `ReconstructionReport`, which prints as a table.

    Raises:
        TypeError: If a model is not a Keras model, or `data` is not data.
        ValueError: If a model is not a graph of layers, or `reference` has other layers than `pruned`.
        ValueError: If `data` are empty, of another shape or not finite, or weights are not finite.
        ValueError: If there is no layer to solve for.

    Example:
        >>> from tfprune import plan_shrink, shrink, zero_channels
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> plan = plan_shrink(model, 0.5)
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> better, report = reconstruct(zero_channels(model, plan), model, x)
        >>> [(row.layer, row.after <= row.before) for row in report.rows]
        [('hidden', True), ('out', True)]
        >>> shrink(better, plan).count_params() < model.count_params()
        True

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331 (the update); Frantar &
        Alistarh, 2023, "SparseGPT", arXiv:2301.00774 (the sweep).
    """
    check_choice(mode, "mode", choices=MODES)
    check_choice(method, "method", choices=METHODS)
    ridge = check_number(ridge, "ridge", least=0)
    batch_size = check_count(batch_size, "batch_size", least=1)
    for model in (pruned, reference):
        check_graph(model)
    batches = Batches(data, reference, batch_size=batch_size)
    copy = _copy(pruned)
    names = [layer.name for _, layer in walk(copy)]
    sites, skipped = sites_of(trace(flatten(copy)), trace(flat_copy(reference).model))
    found: Iterable[list[GramMoments]]
    if mode == "parallel":
        found = moments_of([reference for _, reference in sites], batches)
    else:
        found = (moments_of([reference], batches, given=[ours])[0] for ours, reference in sites)
    rows = [
        _improve(ours, reference, moments, method=method, ridge=ridge)
        for (ours, reference), moments in zip(sites, found, strict=True)
    ]
    rename(copy, names)  # flattening may have changed some
    return _copy(copy), ReconstructionReport(tuple(rows), tuple(skipped))


def _copy(model: keras.Model) -> keras.Model:
    return copy_with(model, lambda path, layer: None)


def _improve(
    ours: Site, reference: Site, found: list[GramMoments], *, method: str, ridge: float
) -> ReconstructionRow:
    """Solve for the weights of one layer, and set them."""
    weights, free, dense = ours.map.weights(), ours.map.free(), reference.map.weights()
    before = after = energy = 0.0
    for group, all_outputs in enumerate(found):
        live = free[group].any(axis=1)
        some, old, unmasked = all_outputs.of(live), weights[group][live], free[group][live]
        if method == "sweep":
            solved = sweep(some, dense[group][live], free=unmasked, ridge=ridge)
        else:
            solved = solve(some, old, free=unmasked, ridge=ridge)
        new = some.better(old, solved.astype(old.dtype))  # judged as the model holds them
        weights[group][live] = new
        before, after = before + some.errors(old).sum(), after + some.errors(new).sum()
        energy += some.energy.sum() / some.count
    ours.map.assign(weights)
    scale = energy or 1.0
    return ReconstructionRow(ours.name, ours.map.kernel.path, float(before / scale), float(after / scale))

"""Compensation: the weights that are left are solved for again, so that each layer's output is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfprune.models.batches import Batches
from tfprune.models.copying import copy_model
from tfprune.models.graph import check_graph, flatten, trace
from tfprune.models.layers import rename, walk
from tfprune.reconstruction.layer_moments import Site, moments_of, sites_of
from tfprune.reconstruction.least_squares import RIDGE, GramMoments, solve, sweep
from tfprune.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.spec import check_choice, check_count, check_number
from tfprune.wrapping.flat_copy import flat_copy
from tfprune.wrapping.transfer import transfer_weights

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
    """Solve for the weights that pruning has left, so that each layer gives what it gives in the unpruned model.

    Layer by layer, the non-zero entries of the kernel and the bias become those of least squared error on the
    calibration data, before the activation. Zeros stay zeros: those of `zero_channels`, whose model `shrink` then
    makes small, as those of masks. A bias takes over the mean of what was removed. An output keeps its weights where
    new ones are no better, and an output without any is left alone.

    Memory does not depend on the number of samples, but on the square of the inputs of the widest layer. What a
    network computes between its layers is not kept: in sequential mode it is computed anew for each layer.

    Args:
        pruned: A built Sequential or Functional model, wrapped or not, with zeros where something was removed.
        reference: The model before that: layers of the same names, weights of the same shapes.
        data: Some hundred samples like those the model is meant for, without labels: an array, a list or dict of them
            for several inputs, or a data set that can be read again and again. Labels in it are not looked at.
        mode: `"sequential"` gives each layer what the layers before it return once they are solved for, so that it
            makes up for what is left of their errors, too. `"parallel"` gives it what it is given in `reference`: all
            layers at once, in one pass over the data.
        method: `"exact"`, or `"sweep"` for masks without structure in wide layers: SparseGPT's sweep, of which one
            factorisation serves all outputs of a layer.
        ridge: Pulls towards the weights there were, as a part of the mean square of the inputs. More of it for few
            samples: 0.001, say.
        batch_size: Samples in a batch. A convolution's patches of one batch are held at once.

    Returns:
        An uncompiled model like `pruned`, with the new weights, and a report of the errors, which prints as a table.

    Raises:
        TypeError: For what is no model or no data.
        ValueError: For a model that is no graph, or another one than the reference; data that are empty, of another
            shape, or not finite; weights that are not finite; or if there is no layer to solve for.

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
    rename(copy, names)  # some may have got others in the flat form
    return _copy(copy), ReconstructionReport(tuple(rows), tuple(skipped))


def _copy(model: keras.Model) -> keras.Model:
    copy = copy_model(model, lambda path, layer: None)
    transfer_weights(model, copy)
    return copy


def _improve(
    ours: Site, reference: Site, found: list[GramMoments], *, method: str, ridge: float
) -> ReconstructionRow:
    """Solve for the weights of one layer, and set them."""
    weights, free, dense = ours.map.weights(), ours.map.free(), reference.map.weights()
    before = after = energy = 0.0
    for group, all_outputs in enumerate(found):
        live = free[group].any(axis=1)
        some, old, places = all_outputs.of(live), weights[group][live], free[group][live]
        if method == "sweep":
            solved = sweep(some, dense[group][live], free=places, ridge=ridge)
        else:
            solved = solve(some, old, free=places, ridge=ridge)
        new = some.better(old, solved.astype(old.dtype))  # judged as the model holds them
        weights[group][live] = new
        before, after = before + some.errors(old).sum(), after + some.errors(new).sum()
        energy += some.energy.sum() / some.count
    ours.map.assign(weights)
    scale = energy or 1.0
    return ReconstructionRow(ours.name, ours.map.kernel.path, float(before / scale), float(after / scale))

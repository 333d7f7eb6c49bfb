"""Solve for the weights of one layer, and keep them where they are better."""

from __future__ import annotations

import numpy as np

from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionRow
from tfprune.solving.least_squares import GramMoments, solve


def improve_layer(
    site: Site,
    fit: list[GramMoments],
    *,
    held: list[GramMoments],
    ridge: float,
    live: np.ndarray | None = None,
) -> ReconstructionRow:
    """Solve for the weights of a layer, and set them unless they are worse on the data that are held out.

    Args:
        site: The layer.
        fit: The moments of each of its groups, to solve with.
        held: The moments of the data that are held out, of 0 rows if there are none.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean.
        live: The outputs that are judged and get a new bias, of shape (groups, outputs); None takes those that have
            weights.

    Raises:
        ValueError: If all data are held out.
    """
    if not fit[0].count:
        raise ValueError("Expected at least two batches with a `holdout`. Received: one. Lower `batch_size`.")
    weights, free = site.map.weights(), site.map.free()
    if live is None:
        live = np.asarray(free.any(axis=2))
    elif site.map.bias is not None:
        free[..., -1] = live
    old = weights.copy()
    for group, all_outputs in enumerate(fit):
        rows = live[group]
        some, masked, unmasked = all_outputs.of(rows), old[group][rows], free[group][rows]
        solved = solve(some, masked, free=unmasked, ridge=ridge)
        weights[group][rows] = some.better(masked, solved.astype(masked.dtype))  # judged as the model holds them
    before, after = (_error(fit, values, live) for values in (old, weights))
    held_before, held_after = (_error(held, values, live) if held[0].count else None for values in (old, weights))
    if held_before is not None and held_after is not None and held_after > held_before:
        after = before
    else:
        site.map.assign(weights)
    return ReconstructionRow(site.name, site.map.kernel.path, before, after, held_before, held_after)


def differs(pair: tuple[Site, Site]) -> bool:
    """Tell whether a layer has other weights than its counterpart, outputs without weights aside."""
    ours, reference = pair
    live = ours.map.free().any(axis=2)
    return bool((ours.map.weights()[live] != reference.map.weights()[live]).any())


def unsolved(site: Site, fit: list[GramMoments], *, held: list[GramMoments], live: np.ndarray) -> ReconstructionRow:
    """Return the row of a layer whose weights stay as they are, judged by some of its outputs."""
    weights = site.map.weights()
    error = _error(fit, weights, live)
    apart = _error(held, weights, live) if held[0].count else None
    return ReconstructionRow(site.name, site.map.kernel.path, error, error, apart, apart)


def unchanged(pair: tuple[Site, Site]) -> ReconstructionRow:
    """Return the row of a layer that makes of its inputs what its counterpart would make of them."""
    return ReconstructionRow(pair[0].name, pair[0].map.kernel.path, 0.0, 0.0)


def _error(moments: list[GramMoments], weights: np.ndarray, live: np.ndarray) -> float:
    """Return the squared error of the outputs that have weights, as a fraction of their squares."""
    parts = [(moment.of(rows), values[rows]) for moment, values, rows in zip(moments, weights, live, strict=True)]
    energy = sum(float(some.energy.sum()) / some.count for some, _ in parts)
    return sum(float(some.errors(values).sum()) for some, values in parts) / (energy or 1.0)

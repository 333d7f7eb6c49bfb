"""What zeros in each kernel alone cost the outputs of a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.in_order import seen_in_order
from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.keras_models.models.graph import Graph
from tfprune.methods.one_shot.mask_kernel import MaskSettings, check_inputs, zero_solver
from tfprune.solving.split_by_error import SAMPLES_FELT, ErrorCurve, output_error, variation


def error_curves(
    sites: Sequence[Site], batches: Iterable[Sequence[Any]], *, graph: Graph, settings: MaskSettings, by: str
) -> dict[Site, ErrorCurve]:
    """Run a model layer by layer, and measure what zeros in each kernel alone cost, as SparseGPT sets them.

    The weights are the same afterwards.

    Args:
        sites: The kernels.
        batches: The arrays for the inputs of the model, batch by batch.
        graph: The model.
        settings: How kernels are masked.
        by: `"error"`, the error of the outputs of the kernel itself; or `"outputs"`, which moves this curve to the
            height of the error that the outputs of the model have for some samples.

    Raises:
        ValueError: If the outputs are the same for all samples.
    """
    walk = GraphWalk(graph, batches)
    some = _first_batches(walk) if by == "outputs" else []
    if some and not any(variation(values) for values in _outputs(walk, some)):
        raise ValueError(
            "Expected samples for which the outputs of the model differ. Received: samples that all give the same. "
            "Pass samples as the model will see them, or allocation='uniform'."
        )
    curves: dict[Site, ErrorCurve] = {}
    for (site, _), moments, _ in seen_in_order([(site, site) for site in sites], [walk]):
        solver = zero_solver(site.map, settings.ridge)
        check_inputs(site, moments, inputs=solver.inputs)
        kernel = solver.weights[..., : solver.inputs]
        masks = (kernel != 0).reshape(*kernel.shape[:2], solver.positions, -1)
        zeros = float(np.mean([settings.pattern.sparsity_of(mask) for mask in masks]))
        solved, errors = solver.at_levels(moments, pattern=settings.pattern)
        curves[site] = ErrorCurve(kernel.size, zeros, errors)
        if some:
            dense, weights = _outputs(walk, some), site.map.weights()
            site.map.assign(solved)
            felt = output_error(dense, _outputs(walk, some))
            site.map.assign(weights)
            curves[site] = curves[site].scaled(felt)
    return curves


def _first_batches(walk: GraphWalk) -> list[int]:
    sizes = (len(arrays[0]) for arrays in walk.inputs())
    ends = itertools.accumulate(sizes)
    return [number for number, end in enumerate(ends) if number == 0 or end <= SAMPLES_FELT]


def _outputs(walk: GraphWalk, batches: Sequence[int]) -> list[np.ndarray]:
    """Return the outputs of the model that later layers make."""
    parts = ([keras.ops.convert_to_numpy(output) for output in walk.outputs(batch)] for batch in batches)
    return [np.concatenate(some).astype(np.float64) for some in zip(*parts, strict=True)]

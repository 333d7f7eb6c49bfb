"""What zeros in each kernel alone cost the outputs of a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.in_order import Pair, seen_in_order
from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.compact.reconstruction.linear_map import LinearMap
from tfprune.keras_models.models.graph import Graph
from tfprune.patterns import Pattern
from tfprune.solving.split_by_error import SAMPLES_FELT, ErrorCurve, output_error, variation
from tfprune.solving.zero_solver import ZeroSolver


def zero_solver(linear: LinearMap, ridge: float) -> ZeroSolver:
    """Return what puts zeros into a kernel."""
    weights = linear.weights()
    shape = linear.kernel.matrix_shape
    inputs = weights.shape[2] - (linear.bias is not None)
    return ZeroSolver(weights, inputs=inputs, positions=shape[1] if len(shape) == 3 else 1, ridge=ridge)


def error_curves(
    pairs: Sequence[Pair], batches: Iterable[Sequence[Any]], *, graph: Graph, pattern: Pattern, ridge: float
) -> dict[Site, ErrorCurve]:
    """Run a model layer by layer, and measure how its outputs change with zeros in each kernel alone.

    The error of a kernel's own outputs gives the form of its curve, and the outputs of the model for some samples its
    height. The weights are the same afterwards.

    Args:
        pairs: The kernels, each with itself.
        batches: The arrays for the inputs of the model, batch by batch.
        graph: The model.
        pattern: The shape of the zeros.
        ridge: As in `ZeroSolver`.

    Raises:
        ValueError: If the outputs are the same for all samples.
    """
    walk = GraphWalk(graph, batches)
    some = _first_batches(walk)
    if not any(variation(values) for values in _outputs(walk, some)):
        raise ValueError(
            "Expected samples for which the outputs of the model differ. Received: samples that all give the same. "
            "Pass samples as the model will see them, or allocation='uniform'."
        )
    curves: dict[Site, ErrorCurve] = {}
    for (site, _), moments, _ in seen_in_order(pairs, [walk]):
        solver = zero_solver(site.map, ridge)
        kernel = solver.weights[..., : solver.inputs]
        solved, errors = solver.at_levels(moments, pattern=pattern)
        dense, weights = _outputs(walk, some), site.map.weights()
        site.map.assign(solved)
        felt = output_error(dense, _outputs(walk, some))
        site.map.assign(weights)
        curves[site] = ErrorCurve(kernel.size, float(np.mean(kernel == 0)), errors).scaled(felt)
    return curves


def _first_batches(walk: GraphWalk) -> list[int]:
    sizes = (len(arrays[0]) for arrays in walk.inputs())
    ends = itertools.accumulate(sizes)
    return [number for number, end in enumerate(ends) if number == 0 or end <= SAMPLES_FELT]


def _outputs(walk: GraphWalk, batches: Sequence[int]) -> list[np.ndarray]:
    """Return the outputs of the model that later layers make."""
    parts = ([keras.ops.convert_to_numpy(output) for output in walk.outputs(batch)] for batch in batches)
    return [np.concatenate(some).astype(np.float32) for some in zip(*parts, strict=True)]

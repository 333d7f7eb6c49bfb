"""Second moments of the inputs of layers, and of the outputs they should have, over calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.models.batches import Batches
from tfprune.models.graph import Call, Graph
from tfprune.models.kernels import kernels
from tfprune.reconstruction.least_squares import GramMoments
from tfprune.reconstruction.linear_map import LinearMap, NotLinear, linear_map
from tfprune.report import Skipped
from tfprune.wrapping.pruned import Pruned

_ROWS = 8192  # taken to double precision at a time


@dataclass(frozen=True, eq=False)
class Site:
    """A layer of a graph as a linear map, with its calls."""

    name: str
    map: LinearMap
    calls: list[Call]
    graph: Graph


def site_of(calls: list[Call], graph: Graph) -> Site:
    """Return the layer that some calls in a graph share.

    Raises:
        NotLinear: If it is not known what its kernel multiplies.
        ValueError: If its weights are not finite.
    """
    name, found = calls[0].layer.name, linear_map(_plain(calls[0]))
    if not np.isfinite(found.weights()).all():
        raise ValueError(f"Expected finite weights. Received: NaN or infinity in {name}/{found.kernel.path}.")
    return Site(name, found, calls, graph)


def sites_of(ours: Graph, theirs: Graph) -> tuple[list[tuple[Site, Site]], list[Skipped]]:
    """Return the layers to solve for with their counterparts in the reference, and the layers that are left alone."""
    calls, others = calls_by_name(ours), calls_by_name(theirs)
    _check_same(calls, others)
    found: list[tuple[Site, Site]] = []
    skipped: list[Skipped] = []
    for name, made in calls.items():
        layer = _plain(made[0])
        if kernels(layer) and not layer.trainable:
            skipped.append(Skipped(name, "frozen (trainable=False)", Skipped.FROZEN))
        elif kernels(layer):
            try:
                found.append((site_of(made, ours), site_of(others[name], theirs)))
            except NotLinear as reason:
                skipped.append(Skipped(name, str(reason), Skipped.NO_RULE))
    if not found:
        listed = "; ".join(f"{entry.layer}: {entry.reason}" for entry in skipped)
        raise ValueError(
            f"Expected layers to solve for. Received: {ours.model.name!r}, with {listed or 'no kernels'}."
        )
    return found, skipped


def calls_by_name(graph: Graph) -> dict[str, list[Call]]:
    """Return the calls of each layer that has weights."""
    found: dict[str, list[Call]] = {}
    for call in graph.calls:
        if isinstance(call.layer, keras.layers.Layer) and call.layer.weights:
            found.setdefault(call.layer.name, []).append(call)
    return found


def _plain(call: Call) -> keras.layers.Layer:
    return call.layer.layer if isinstance(call.layer, Pruned) else call.layer


def _check_same(ours: dict[str, list[Call]], theirs: dict[str, list[Call]]) -> None:
    def shapes(calls: dict[str, list[Call]]) -> dict[str, Any]:
        return {
            name: (len(made), type(_plain(made[0])), [tuple(weight.shape) for weight in _plain(made[0]).weights])
            for name, made in calls.items()
        }

    pruned, reference = shapes(ours), shapes(theirs)
    differing = [name for name in {**pruned, **reference} if pruned.get(name) != reference.get(name)]
    if differing:
        raise ValueError(
            f"Expected the reference to be the model that was pruned, with the same layers and weights of the same "
            f"shapes. Received models where these differ: {', '.join(differing[:5])}. Shrink after "
            f"reconstruct: tfprune.shrink(reconstructed, plan)."
        )


def moments_of(
    references: list[Site], batches: Batches, *, given: list[Site] | None = None
) -> list[list[GramMoments]]:
    """Return the moments of each group of some layers: of their inputs, and of the outputs in the reference.

    Args:
        references: The layers in the reference.
        batches: The data.
        given: The same layers in the pruned model, whose inputs count; None takes the inputs in the reference.
    """
    wanted = [site.map.weights().astype(np.float64) for site in references]
    found = [[GramMoments(group.shape[1], group.shape[0]) for group in weights] for weights in wanted]
    read, read_given = _reader(references), None if given is None else _reader(given)
    for inputs, _ in batches:
        meant = read(inputs)
        actual = meant if read_given is None else read_given(inputs)
        for (index, x), (_, reference) in zip(actual, meant, strict=True):
            for moments, weights, rows, meant_rows in zip(found[index], wanted[index], x, reference, strict=True):
                for start in range(0, len(rows), _ROWS):
                    some = slice(start, start + _ROWS)
                    moments.add(rows[some], meant_rows[some] @ weights.T)
    return found


def _reader(sites: list[Site]) -> Callable[[list[np.ndarray]], list[tuple[int, np.ndarray]]]:
    """Return a function from inputs of the model to the index and the inputs of the layer, for each call."""
    calls = [(index, call) for index, site in enumerate(sites) for call in site.calls]
    tensors = [tensor for _, call in calls for tensor in call.inputs]
    function = keras.Function(sites[0].graph.model.inputs, tensors)

    def read(inputs: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
        values = iter(function([keras.ops.convert_to_tensor(array) for array in inputs]))

        def value(leaf: Any) -> Any:
            return next(values) if isinstance(leaf, keras.KerasTensor) else leaf

        arguments = [keras.tree.map_structure(value, (call.args, call.kwargs)) for _, call in calls]
        return [
            (index, sites[index].map.inputs(*args, **kwargs))
            for (index, _), (args, kwargs) in zip(calls, arguments, strict=True)
        ]

    return read

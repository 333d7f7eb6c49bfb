"""Second moments of the inputs of layers, and of the outputs they should have, over calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.linear_map import LinearMap, OfLoop, inner_maps
from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import Call, Graph
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments

Rows = list[tuple[int, np.ndarray]]  # of each call: the index of a map, and what its matrices multiply
IsHeld = Callable[[int], bool]  # by the number of a batch
_ROWS = 8192  # taken to double precision at a time


def none_held(number: int) -> bool:
    """Keep no batch apart."""
    return False


def every(part: float) -> IsHeld:
    """Return which batches to keep apart, so that they are this part of all."""
    return (lambda number: number % round(1 / part) == 0) if part else none_held


@dataclass(frozen=True, eq=False)
class Site:
    """A linear map in a layer of a graph, with the calls of the layer."""

    name: str
    map: LinearMap
    calls: list[Call]
    graph: Graph


def sites_of(
    ours: Graph, theirs: Graph, *, of_loop: OfLoop | None = None
) -> tuple[list[tuple[Site, Site]], list[Skipped]]:
    """Return the kernels to solve for with their counterparts in the reference, and the layers left alone.

    Args:
        ours: The pruned model.
        theirs: The reference.
        of_loop: As in `inner_maps`.
    """
    calls, others = calls_by_name(ours), calls_by_name(theirs)
    _check_same(calls, others)
    pairs: list[tuple[Site, Site]] = []
    skipped: list[Skipped] = []
    for name, own_calls in calls.items():
        layer, other = _plain(own_calls[0]), _plain(others[name][0])
        maps, left_alone = inner_maps(layer, name=name, of_loop=of_loop)
        skipped += left_alone
        if maps:
            places, meant = _places(layer), _places(other)  # paths may hold names that Keras numbers anew in a copy
            counterparts = inner_maps(other, name=name, of_loop=of_loop)[0]
            partners = {meant[id(own.kernel.variable)]: own for own in counterparts}
            pairs += [
                (
                    _checked(Site(name, own, own_calls, ours)),
                    Site(name, partners[places[id(own.kernel.variable)]], others[name], theirs),
                )
                for own in maps
            ]
    if not pairs:
        listed = "; ".join(f"{entry.layer}: {entry.reason}" for entry in skipped)
        raise ValueError(
            f"Expected layers to solve for. Received: {ours.model.name!r}, with {listed or 'no kernels'}."
        )
    return pairs, skipped


def _places(layer: keras.layers.Layer) -> dict[int, int]:
    return {id(variable): place for place, variable in enumerate(layer.weights)}


def _checked(site: Site) -> Site:
    if not np.isfinite(site.map.weights()).all():
        raise ValueError(f"Expected finite weights. Received: NaN or infinity in {site.name}/{site.map.kernel.path}.")
    return site


def calls_by_name(graph: Graph) -> dict[str, list[Call]]:
    """Return the calls of each layer that has weights."""
    by_name: dict[str, list[Call]] = {}
    for call in graph.calls:
        if isinstance(call.layer, keras.layers.Layer) and call.layer.weights:
            by_name.setdefault(call.layer.name, []).append(call)
    return by_name


def _plain(call: Call) -> keras.layers.Layer:
    return layer_inside(call.layer)


def _check_same(ours: dict[str, list[Call]], theirs: dict[str, list[Call]]) -> None:
    def shapes(calls: dict[str, list[Call]]) -> dict[str, Any]:
        return {
            name: (
                len(of_layer),
                type(_plain(of_layer[0])),
                [tuple(weight.shape) for weight in _plain(of_layer[0]).weights],
            )
            for name, of_layer in calls.items()
        }

    pruned, reference = shapes(ours), shapes(theirs)
    differing = [name for name in {**pruned, **reference} if pruned.get(name) != reference.get(name)]
    if differing:
        raise ValueError(
            f"Expected the reference to be the model that was pruned, with the same layers and weights of the same "
            f"shapes. Received models where these differ: {', '.join(differing[:5])}. Shrink after "
            f"reconstruct: tfprune.shrink(reconstructed, plan)."
        )


def moments_of(references: Sequence[Site], batches: Batches) -> list[list[GramMoments]]:
    """Return the moments of each group of some layers of one model: of their inputs, and of their outputs."""
    return sums_of(references, batches).moments()


def sums_of(references: Sequence[Site], batches: Batches, *, is_held: IsHeld = none_held) -> MomentSums:
    """Return the sums of some layers of one model, in one pass over the data."""
    graph = references[0].graph
    walk = GraphWalk(graph, (inputs for inputs, _ in batches))
    maps = [site.map for site in references]
    sums = MomentSums(maps, [each.weights() for each in maps], is_held=is_held)
    end = max(graph.calls.index(call) + 1 for site in references for call in site.calls)
    for number, batch in enumerate(walk.seen(maps, end=end)):
        sums.add(number, batch)
    return sums


class MomentSums:
    """The moments of some linear maps, added up batch by batch.

    Args:
        maps: The maps.
        dense: The weights that make the outputs that they should have.
        is_held: Tells by its number whether a batch is kept apart.
    """

    def __init__(
        self, maps: Sequence[LinearMap], dense: Sequence[np.ndarray], *, is_held: IsHeld = none_held
    ) -> None:
        self._dense, self._is_held = [weights.astype(np.float64) for weights in dense], is_held
        self._sums = {
            part: [[GramMoments(group.shape[1], group.shape[0]) for group in some] for some in dense]
            for part in (False, True)
        }
        self._has_outputs = False

    def add(self, number: int, batch: Rows, *, meant: Rows | None = None) -> None:
        """Add a batch: rows of inputs, and the rows in the reference where its outputs are wanted.

        Args:
            number: The number of the batch.
            batch: The index of a map and its rows, for each call.
            meant: The same of the reference; None wants what the dense weights make of the rows themselves.
        """
        self._has_outputs = meant is not None
        for (index, rows), (_, others) in zip(batch, meant or batch, strict=True):
            every = zip(self._sums[self._is_held(number)][index], self._dense[index], rows, others, strict=True)
            for moments, weights, group, reference in every:
                for start in range(0, len(group), _ROWS):
                    some = slice(start, start + _ROWS)
                    if meant is None:
                        moments.add_inputs(group[some])
                    else:
                        moments.add(group[some], reference[some] @ weights.T)

    def moments(self, *, held: bool = False) -> list[list[GramMoments]]:
        """Return the moments of each group of each map, of the batches that are kept apart or of the others."""
        if self._has_outputs:
            return self._sums[held]
        return [
            [moments.aimed_at(weights) for moments, weights in zip(some, groups, strict=True)]
            for some, groups in zip(self._sums[held], self._dense, strict=True)
        ]

"""Improve the layers in order, each on the outputs of the layers before it with their new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.layer_moments import IsHeld, MomentSums, Site, calls_by_name, none_held
from tfprune.compact.reconstruction.restored import Restored
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.tracing.same_outputs import Tolerance, same_outputs
from tfprune.solving.least_squares import GramMoments

_ROUNDED = Tolerance(relative=1e-4, of_largest=1e-4)
Pair = tuple[Site, Site]  # of the pruned model and of the reference
Improve = Callable[[Pair, list[GramMoments], list[GramMoments]], None]


@dataclass(frozen=True, eq=False)
class _Stage:
    """Neighboring calls with the layers to improve in them: from the first call of one to the last of any."""

    start: int
    end: int
    pairs: list[Pair]


def improve_in_order(
    pairs: Sequence[Pair],
    batches: Iterable[Sequence[Any]],
    *,
    graphs: tuple[Graph, Graph],
    improve: Improve,
    to_dense: bool,
    is_held: IsHeld = none_held,
) -> None:
    """Run a model from its first layer to its last, and improve layers on the way; those not called are left out.

    It takes one run of the model and one more of each layer for each of its kernels.

    Args:
        pairs: The layers to improve, each with its counterpart in the reference.
        batches: The arrays for the inputs of the model, batch by batch.
        graphs: The pruned model and the reference.
        improve: Sets new weights, from the moments of the batches and of those that are kept apart.
        to_dense: Whether the outputs in the reference are wanted, or what its weights make of the inputs here.
        is_held: Tells by its number whether a batch is kept apart.
    """
    restored = Restored(*graphs)
    walks = _walks(batches, graphs, restored=restored, to_dense=to_dense)
    for pair, moments, held in seen_in_order(pairs, walks, is_held=is_held):
        improve(pair, moments, held)
        restored.forget(pair[0].map.kernel.variable)


def seen_in_order(
    pairs: Sequence[Pair], walks: Sequence[GraphWalk], *, is_held: IsHeld = none_held
) -> Iterator[tuple[Pair, list[GramMoments], list[GramMoments]]]:
    """Yield layers in order, each with its moments, as its weights are at that time; walks stay before the layer.

    Args:
        pairs: The layers, each with its counterpart in the reference.
        walks: A walk that gives the inputs of the layers, and one that gives those of the outputs that are wanted;
            without it the wanted outputs are those that the weights in the reference make of the same inputs.
        is_held: Tells by its number whether a batch is kept apart.
    """
    for stage in _stages(pairs):
        for walk in walks:
            walk.advance(stage.start)
        for some in _with_the_same_inputs(walks[0], stage):
            maps = [ours.map for ours, _ in some]
            sums = MomentSums(maps, [reference.map.weights() for _, reference in some], is_held=is_held)
            streams = zip(*(walk.seen(maps, end=stage.end) for walk in walks), strict=True)
            for number, (rows, *meant) in enumerate(streams):
                sums.add(number, rows, meant=meant[0] if meant else None)
            yield from zip(some, sums.moments(), sums.moments(held=True), strict=True)


def _walks(
    batches: Iterable[Sequence[Any]], graphs: tuple[Graph, Graph], *, restored: Restored, to_dense: bool
) -> list[GraphWalk]:
    """Return a walk that gives the inputs of layers, and one that gives them in the reference where it is another."""
    walk = GraphWalk(graphs[0], batches)
    if to_dense:
        dense = _dense_weights(*graphs)
        return [walk, GraphWalk(graphs[0], walk.inputs(), weights=lambda: dense)]
    if not restored:
        return [walk]
    whole = GraphWalk(graphs[0], walk.inputs(), weights=restored.values)
    # All that read what was removed are zero for it where the outputs are the same with it put back.
    return [whole] if same_outputs(whole.outputs(0), walk.outputs(0), tolerance=_ROUNDED) else [walk, whole]


def _stages(pairs: Sequence[Pair]) -> Iterator[_Stage]:
    """Yield the parts of the graph in which layers are improved, in order; a layer that is called twice spans one."""
    places = {id(call): place for pair in pairs[:1] for place, call in enumerate(pair[0].graph.calls)}
    spans = [([places[id(call)] for call in pair[0].calls], pair) for pair in pairs]
    current: _Stage | None = None
    for span, pair in sorted(spans, key=lambda entry: min(entry[0])):
        if current is None or min(span) >= current.end:
            if current is not None:
                yield current
            current = _Stage(min(span), max(span) + 1, [pair])
        else:
            current = _Stage(current.start, max(current.end, max(span) + 1), [*current.pairs, pair])
    if current is not None:
        yield current


def _with_the_same_inputs(walk: GraphWalk, stage: _Stage) -> list[list[Pair]]:
    """Return the pairs of a stage whose layers are called, in the order in which the first batch calls them.

    Those in a list are other layers, called one after the other on the same tensors, so none sees the new weights of
    another.
    """
    maps = [ours.map for ours, _ in stage.pairs]
    calls: dict[int, list[int]] = {}
    first_inputs = walk.first_inputs(maps, end=stage.end)
    for index, tensor in first_inputs:
        calls.setdefault(index, []).append(id(tensor))  # of a tensor that is still held, and so has no other's id
    together: list[list[int]] = []
    for index, tensors in calls.items():
        last = together[-1][-1] if together else None
        if last is not None and calls[last] == tensors and maps[last].leaf is not maps[index].leaf:
            together[-1].append(index)
        else:
            together.append([index])
    return [[stage.pairs[index] for index in some] for some in together]


def _dense_weights(ours: Graph, theirs: Graph) -> list[tuple[Any, Any]]:
    """Return the variables of the pruned model with their values in the reference."""
    others = calls_by_name(theirs)
    return [
        (variable, keras.ops.convert_to_tensor(counterpart))
        for name, calls in calls_by_name(ours).items()
        for variable, counterpart in zip(calls[0].layer.weights, others[name][0].layer.weights, strict=True)
    ]

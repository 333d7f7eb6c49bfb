"""Open the layers of a graph that call other layers, by tracing their code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras

from tfprune.keras_models.models.graph import flatten, retrace
from tfprune.keras_models.models.layers import is_of_keras, sublayers, walk
from tfprune.keras_models.tracing.inline_calls import TraceFailures, inline_calls
from tfprune.keras_models.tracing.same_outputs import ROUNDED, same_outputs
from tfprune.keras_models.tracing.sample_inputs import first_run, fixed_inputs, run_on_numbers
from tfprune.keras_models.tracing.trace_failure import FAILURES, describe

_TOLERANCE = replace(ROUNDED, nan_is_same=True)  # a call of a layer may do more than its code says
IsKnown = Callable[[Any], bool]


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """A graph in which layers were opened.

    Attributes:
        model: The graph of what is inside of them. It shares the layers of the model that was opened.
        is_open_shaped: Whether it takes the shapes that the model takes; otherwise no size is open in it.
        closed: Why a layer was left whole, by the id of the layer.
    """

    model: keras.Model
    is_open_shaped: bool
    closed: dict[int, str]


def open_layers(flat: keras.Model, is_known: IsKnown) -> TracedGraph:
    """Return a graph of the layers inside of layers, however deep; it shares them, and gives them names of paths.

    Args:
        flat: A Functional model without plain models nested in it. Its inner layers are renamed.
        is_known: Tells whether a layer stays whole because its kind is known.
    """
    candidates = list(_openable(flat, is_known))
    if not candidates:
        return TracedGraph(flat, True, {})
    run = first_run(flat)
    if run is None:
        return TracedGraph(flat, True, dict.fromkeys(map(id, candidates), "the model does not run on small numbers"))
    length, expected = run
    _name_by_paths(flat, candidates)
    traced = _traced(flat, candidates, inputs=None)
    outputs = run_on_numbers(traced.model, length)  # None where code wrote open sizes into operations
    if traced.closed or outputs is None:
        fixed = _traced(flat, candidates, inputs=fixed_inputs(flat, length=length))
        if len(fixed.closed) < len(traced.closed) or outputs is None:
            traced, outputs = fixed, run_on_numbers(fixed.model, length)
    if outputs is None or not same_outputs(outputs, expected, tolerance=_TOLERANCE):
        return TracedGraph(
            flat, True, dict.fromkeys(map(id, candidates), "it returns something else than its code says")
        )
    return traced


def _openable(flat: keras.Model, is_known: IsKnown) -> Iterator[keras.layers.Layer]:
    """Yield the layers that may be opened, outer ones first: weights of their own would turn into constants."""

    def visit(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
        inner = sublayers(layer)
        if id(layer) in seen or is_of_keras(layer) or is_known(layer) or not inner or own_weights(layer):
            return
        seen.add(id(layer))
        yield layer
        for part in inner:
            yield from visit(part)

    seen: set[int] = set()
    for layer in flat.layers:
        yield from visit(layer)


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that none of the layers inside holds."""
    inner = {id(weight) for part in sublayers(layer) for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def _name_by_paths(flat: keras.Model, candidates: Iterable[keras.layers.Layer]) -> None:
    """Give the layers inside unique names, those of the layers around them in front."""
    names = {operation.name for operation in flat.operations}
    openable = {id(layer) for layer in candidates}
    named = {id(layer) for layer in flat.layers}
    for layer in [layer for layer in flat.layers if id(layer) in openable]:
        for path, part in list(walk(layer)):
            if id(part) not in named:
                named.add(id(part))
                name = f"{layer.name}_{path.replace('/', '_')}"
                while name in names:
                    name += "_"
                part.name = name
                names.add(name)
    for name in names:  # so that Keras numbers the operations that are traced from there on
        match = re.fullmatch(r"(.+)_(\d+)", name)
        while match and keras.backend.get_uid(match[1]) <= int(match[2]):
            pass


def _traced(flat: keras.Model, candidates: list[keras.layers.Layer], *, inputs: Any) -> TracedGraph:
    """Trace the graph with as many of the layers opened as can be."""
    closed: dict[int, str] = {}
    while True:
        failed = TraceFailures()
        open_ones = [layer for layer in candidates if id(layer) not in closed]
        if not open_ones:
            return TracedGraph(flat, True, closed)
        try:
            with inline_calls(open_ones, failed):
                traced = retrace(flat, _call, inputs=inputs)
            traced = flatten(traced)
            _number_operations(traced)
            return TracedGraph(traced, inputs is None, closed)
        except FAILURES as error:
            if not failed:  # what was recorded makes no graph: tensors of another trace, for example
                return TracedGraph(flat, True, closed | dict.fromkeys(map(id, open_ones), describe(error)))
            layer, reason = failed[0]
            closed[id(layer)] = describe(reason)


def _number_operations(traced: keras.Model) -> None:
    """Give operations names that are the same each time the same model is traced."""
    for index, operation in enumerate(traced.operations):
        if not isinstance(operation, keras.layers.Layer):
            operation.name = f"{type(operation).__name__.lower()}_of_call_{index}"


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return layer(*args, **kwargs)

"""A smaller model of the same class: by its arguments where they can say what is kept, else block by block."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.compact.same_class.class_arguments import NoClass
from tfprune.compact.same_class.exchanged import Exchange, has_cache, resize
from tfprune.compact.same_class.resized_by_arguments import Sizes, sizes_of, smaller_count
from tfprune.compact.same_class.smaller_graph import SmallerGraph
from tfprune.keras_models.models.layers import sublayers, walk
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.models.rebuild import copy_of
from tfprune.keras_models.tracing.same_outputs import same_outputs
from tfprune.keras_models.tracing.sample_inputs import numbers_for
from tfprune.keras_models.tracing.trace_failure import FAILURES
from tfprune.masking.wrapping.flat_copy import FlatCopy


def smaller_class(copy: FlatCopy, graph: SmallerGraph, *, keep: np.ndarray) -> keras.Model:
    """Build a model of the same class with fewer channels, the layers inside of its blocks exchanged.

    Args:
        copy: The flat copy of a Functional subclass. It is used up.
        graph: The smaller graph.
        keep: Which bundles are kept.

    Raises:
        NoClass: If the smaller model returns something else than the smaller graph.
    """
    network = graph.network
    changed = {id(layer) for layer in graph.changed()}
    layers = [layer for _, layer in walk(copy.plain)]
    parts = {index: _part(layer, graph) for index, layer in enumerate(layers) if id(layer) in changed}
    inner = {index: [part for part in sublayers(layer) if id(part) in changed] for index, layer in enumerate(layers)}
    sizes = {
        index: sizes_of(network, [network.layers[part.name] for part in some], keep=keep)
        for index, some in inner.items()
        if some and not isinstance(layers[index], keras.Model)  # whose numbers say what its cache is
    }
    numbers = {index: _numbers(layers[index], of_layer) for index, of_layer in sizes.items()}
    heads = {index: count for index, of_layer in sizes.items() if (count := _heads(layers[index], of_layer))}
    exchange = Exchange(parts, {key: values for key, values in numbers.items() if values}, heads)
    smaller = resize(copy.hand_out(), exchange)
    if not _returns_the_same(smaller, graph.model):
        raise NoClass("its code returns something else where layers are smaller")
    return smaller


def _part(layer: keras.layers.Layer, graph: SmallerGraph) -> keras.layers.Layer:
    """Return the smaller layer, built as the layer was, with its sizes open."""
    part = copy_of(layer, changes=graph.counted(layer))
    config = layer.get_build_config() or {}  # none of a layer without weights that another one built
    if "input_shape" in config:  # the smaller one's has other channels, and no open sizes
        built, called = config["input_shape"], graph.shape(layer)  # perhaps on positions in one axis
        sizes = [*built, *called][-len(built) :] if len(called) >= len(built) else [*built[: -len(called)], *called]
        config = {"input_shape": tuple(None if size is None else own for size, own in zip(built, sizes, strict=True))}
    part.build_from_config(config)
    train_alike(layer, part)
    for variable, kept in zip(part.variables, graph.layer(layer).variables, strict=True):
        variable.assign(kept)
    return part


def _numbers(layer: keras.layers.Layer, sizes: Sizes) -> dict[str, int]:
    """Return the attributes of a layer that count heads or units of the layers inside, with how many are kept."""
    before = {name: value for name, value in vars(layer).items() if type(value) is int}
    after = {name: smaller_count(name, value, sizes=sizes) for name, value in before.items()}
    return {name: value for name, value in after.items() if value != before[name]}


def _heads(layer: keras.layers.Layer, sizes: Sizes) -> int | None:
    """Return how many heads an attention keeps of those that a cache holds, the fewer of queries' and keys'."""
    kept = [count for (of_heads, _), count in sizes.items() if of_heads]
    return min(kept) if kept and has_cache(layer) else None


def _returns_the_same(model: keras.Model, graph: keras.Model) -> bool:
    """Tell whether a model of the class returns what the smaller graph does, on numbers of the graph's sizes."""
    numbers = numbers_for(graph.input)
    try:
        outputs, expected = (each(numbers, training=False) for each in (model, graph))
    except FAILURES:
        return False
    return same_outputs(outputs, expected)

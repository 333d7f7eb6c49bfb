"""Copies of models with some layers replaced; the weights are another step, and another module's."""

from __future__ import annotations

from collections.abc import Callable

import keras

from tfprune.models.kinds import as_graph, is_graph, is_subclassed, leaf_layers
from tfprune.models.layers import sublayers, walk
from tfprune.models.rebuild import Replace, rebuild
from tfprune.models.subclassed import reassemble

Copy = Callable[..., keras.Model]  # `reassemble` or `restore`


def copy_model(model: keras.Model, replace: Replace, *, subclassed: Copy = reassemble) -> keras.Model:
    """Return an uncompiled copy of a model in which some layers are replaced; weights are not copied.

    Args:
        model: A built model. It is left untouched.
        replace: Called with the path of each layer and the layer; returns the replacement, of which only the
            configuration is used, or None to keep a copy of the layer.
        subclassed: Copies a subclassed model: `reassemble` as an instance that is saved with its layers, `restore`
            as an instance of its first class.

    Raises:
        ValueError: If the model cannot be copied.
    """

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return subclassed(layer, replaced, path=path) if is_subclassed(layer) else replace(path, layer)

    graph = as_graph(model)
    return subclassed(model, replaced) if graph is None else rebuild(graph, replaced)


def check_model(model: keras.Model) -> None:
    """Refuse a model that cannot be copied: unbuilt, empty, or built around a graph, for example.

    Raises:
        ValueError: Saying what is wrong with it, and what to do.
    """
    if not is_graph(model) and not is_subclassed(model):
        raise ValueError(
            f"Expected a Sequential, Functional or subclassed model. Received: {model.name!r} of class "
            f"{type(model).__name__}, which is built around a graph. Pass that graph, "
            f"keras.Model(model.inputs, model.outputs)."
        )
    is_built = model.built if is_graph(model) else any(layer.weights for _, layer in leaf_layers(model))
    if not is_built and model.layers:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose weights do not exist yet. Start it with "
            f"keras.Input(shape), call model.build(input_shape), or call the model on a batch first."
        )
    if not model.layers:
        raise ValueError(f"Expected a model with layers. Received: {model.name!r}, which is empty.")
    _check_held_once(model)


def _check_held_once(model: keras.Model) -> None:
    """Refuse a layer that two others hold: each would get a copy of its own."""
    holders: dict[int, keras.layers.Layer] = {}
    for _, holder in walk(model):
        for part in sublayers(holder):
            other = holders.setdefault(id(part), holder)
            if other is not holder:
                raise ValueError(
                    f"Expected each layer to be held by one model or layer. Received: {part.name!r}, which both "
                    f"{other.name!r} and {holder.name!r} hold: their copies would not share it. Hold it in one of "
                    f"them, and pass the other its outputs or weights when it is called."
                )

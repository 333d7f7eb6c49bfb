"""Whether a model can be copied with its weights."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from tfprune.keras_models.models.kinds import as_graph, is_subclassed, leaf_layers, rebuilds_as_class
from tfprune.keras_models.models.layers import sublayers, walk


def check_model(model: keras.Model) -> None:
    """Refuse a model that cannot be copied with its weights: unbuilt, or empty, for example.

    Raises:
        ValueError: Saying what is wrong with it, and what to do.
    """
    check_layers(model)
    is_built = any(layer.weights for _, layer in leaf_layers(model)) if is_subclassed(model) else model.built
    if not is_built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose weights do not exist yet. Start it with "
            f"keras.Input(shape), call model.build(input_shape), or call the model on a batch first."
        )


def check_layers(model: keras.Model) -> None:
    """Refuse a model whose layers cannot be copied; it need not be built.

    Raises:
        ValueError: If it has no layers, one is held twice, or its class calls the graph that it is built around.
    """
    if as_graph(model) is None and not is_subclassed(model):
        raise ValueError(
            f"Expected a Sequential, Functional or subclassed model. Received: {model.name!r} of class "
            f"{type(model).__name__}, which is built around a graph, and whose `call` does more than call it. Pass "
            f"that graph, keras.Model(model.inputs, model.outputs)."
        )
    if not model.layers:
        raise ValueError(f"Expected a model with layers. Received: {model.name!r}, which is empty.")
    _check_held_once(model)


def _check_held_once(model: keras.Model) -> None:
    """Refuse a layer that would get two copies: one held in two of those that are copied one by one."""
    owners: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    for copied, holder, part in _held(model):
        if isinstance(part, keras.layers.InputLayer):  # which every graph has of its own
            continue
        owner, other = owners.setdefault(id(part), (copied, holder))
        if owner is not copied:
            raise ValueError(
                f"Expected each layer to be held by one model or layer. Received: {part.name!r}, which both "
                f"{other.name!r} and {holder.name!r} hold: their copies would not share it. Hold it in one of "
                f"them, and pass the other its outputs or weights when it is called."
            )


def _held(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, ...]]:
    """Yield each layer in a model, after the model or layer that is copied as a whole, and the holder in it."""
    if rebuilds_as_class(model) or not (as_graph(model) is not None or is_subclassed(model)):
        yield from ((model, holder, part) for _, holder in walk(model) for part in sublayers(holder))
        return
    yield from ((model, model, child) for child in model.layers)
    for child in model.layers:
        yield from _held(child)

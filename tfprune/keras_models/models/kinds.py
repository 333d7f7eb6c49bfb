"""What kind of model a model is, and the layers that it is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import keras


def check_keras(value: Any, kind: type[keras.layers.Layer] = keras.Model, *, argument: str = "model") -> None:
    """Refuse what is not a Keras model; with `keras.layers.Layer` as the kind, what is not even a layer.

    Raises:
        TypeError: Saying what to do with a path, or with a layer.
    """
    if isinstance(value, kind):
        return
    advice = ""
    if isinstance(value, (str, os.PathLike)):
        advice = " Load it first: keras.models.load_model(path)."
    elif isinstance(value, keras.layers.Layer):
        advice = " A layer becomes a model with keras.Sequential([keras.Input(shape), layer])."
    raise TypeError(
        f"Expected a Keras {'model' if kind is keras.Model else 'model or layer'}. Received: "
        f"{argument}={value!r:.100} of type {type(value).__name__}.{advice}"
    )


def is_graph(layer: Any) -> bool:
    """Tell whether it is a Sequential or Functional model, which is built from a list of layers."""
    if not isinstance(layer, keras.Model) or isinstance(layer, keras.Sequential):
        return isinstance(layer, keras.Sequential)
    if hasattr(type(layer), "copied_class"):  # a copy of a class, which has a configuration of another kind
        return False
    if type(layer).__module__.startswith("keras."):  # known without a configuration, which takes a while to write
        return hasattr(layer, "operations")
    try:
        return {"layers", "input_layers"} <= layer.get_config().keys()
    except NotImplementedError:  # a subclassed model that cannot tell its arguments
        return False


def is_subclassed(layer: Any) -> bool:
    """Tell whether it is a model whose own code creates its layers and calls them."""
    return isinstance(layer, keras.Model) and as_graph(layer) is None and not hasattr(layer, "inputs")


def is_functional_subclass(layer: Any) -> bool:
    """Tell whether it is a model of a class of its own that is built around a graph, and calls nothing but it."""
    return not is_graph(layer) and as_graph(layer) is not None


def rebuilds_as_class(layer: Any) -> bool:
    """Tell whether it is a Functional subclass whose class can be built anew, and does more than a plain graph."""
    if not is_functional_subclass(layer):
        return False
    own = set(type(layer).__mro__) - set(type(as_graph(layer)).__mro__)
    members = {name: member for cls in own for name, member in vars(cls).items()}
    return "get_config" in members and any(
        callable(member) or hasattr(member, "__get__")
        for name, member in members.items()
        if not name.startswith("__") and name not in ("get_config", "from_config")
    )


def as_graph(layer: Any) -> keras.Model | None:
    """Return a model as a Sequential or Functional one over the same layers; None if it is not built from a graph."""
    if is_graph(layer):
        return layer
    if not (isinstance(layer, keras.Model) and hasattr(layer, "inputs")):
        return None
    # A Functional subclass, whose arguments stand in its configuration instead of the layers.
    graph = keras.Model(layer.input, layer.output, name=layer.name, trainable=layer.trainable)
    return graph if type(layer).call is type(graph).call else None


def leaf_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that a model and the models in it, subclassed ones too, are made of, with their paths."""
    return _leaves(model, lambda layer: as_graph(layer) is not None or is_subclassed(layer))


def graph_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that the graph of a model and of the models nested in it is made of, with their paths."""
    return _leaves(model, lambda layer: as_graph(layer) is not None)


def configured_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that a graph is built anew from, with their paths: models that keep their class stay whole."""
    return _leaves(
        model, lambda layer: layer is model or (as_graph(layer) is not None and not rebuilds_as_class(layer))
    )


def _leaves(
    model: keras.Model, is_entered: Callable[[keras.layers.Layer], bool]
) -> Iterator[tuple[str, keras.layers.Layer]]:
    def visit(path: str, layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not is_entered(layer):
            yield path, layer
            return
        for child in layer.layers:
            yield from visit(f"{path}/{child.name}" if path else child.name, child)

    seen: set[int] = set()
    yield from visit("", model)

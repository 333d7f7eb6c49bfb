"""Copies of models and layers: with some layers replaced, and without the wrappers."""

from __future__ import annotations

import keras
from keras import ops

from tfprune.prunable import sublayers, walk
from tfprune.rebuild import (
    Replace,
    as_graph,
    copy_all,
    copy_of,
    copy_variables,
    is_graph,
    is_subclassed,
    rebuild,
    units,
)
from tfprune.subclassed import own_variables, pairs, reassemble, restore
from tfprune.wrapper import Pruned


def check_model(model: keras.Model) -> None:
    """Refuse a model that cannot be copied: unbuilt, empty, or built around a graph, for example."""
    if not is_graph(model) and not is_subclassed(model):
        raise ValueError(
            f"Expected a Sequential, Functional or subclassed model. Received: {model.name!r} of class "
            f"{type(model).__name__}, which is built around a graph. Pass that graph, "
            f"keras.Model(model.inputs, model.outputs)"
        )
    is_built = model.built if is_graph(model) else any(layer.weights for _, layer in units(model))
    if not is_built and model.layers:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose weights do not exist yet. Start it with "
            f"keras.Input(shape), call model.build(input_shape), or call the model on a batch first"
        )
    if not model.layers:
        raise ValueError(f"Expected a model with layers. Received: {model.name!r}, which is empty")
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
                    f"them, and pass the other its outputs or weights when it is called"
                )


def copy_with(model: keras.Model, replace: Replace) -> keras.Model:
    """Return an uncompiled copy of a built model in which some layers are replaced, with the model's weights."""

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return reassemble(layer, replaced, path=path) if is_subclassed(layer) else replace(path, layer)

    check_model(model)
    return copied(model, replaced)


def copied(model: keras.Model, replace: Replace) -> keras.Model:
    """Return a copy in which `replace` stands for layers, and for the subclassed models among them."""
    copy = replace("", model) if is_subclassed(model) else rebuild(as_graph(model), replace)
    for layer, counterpart in pairs(model, copy):
        copy_weights(layer, counterpart)
    return copy


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy the weights of a layer into its wrapped, stripped or plain copy; of a model those that no layer has."""
    if is_subclassed(source):
        copy_all(own_variables(source), own_variables(target), source=source)
    elif isinstance(source, Pruned) == isinstance(target, Pruned):
        copy_variables(source, target)
    elif isinstance(target, Pruned):
        copy_variables(source, target.layer)
    else:
        copy_variables(source.layer, target)
        _apply_masks(source, target)


def _check_no_inner_wrapper(model: keras.layers.Layer) -> None:
    for path, layer in units(model):
        for inner, part in walk(layer, stop=Pruned):
            if part is not layer and isinstance(part, Pruned):
                kind = type(layer).__name__
                raise ValueError(
                    f"Expected pruned layers to stand in the model's own list of layers. Received: {inner} inside of "
                    f"{path or layer.name} ({kind}). Prune the outer layer, Pruned({kind}(...)), to strip it"
                )


def _apply_masks(source: Pruned, target: keras.layers.Layer) -> None:
    places = {id(variable): place for place, variable in enumerate(source.layer.variables)}
    for name, kernel in source.kernels.items():
        variable = target.variables[places[id(kernel.variable)]]
        variable.assign(ops.multiply(variable, ops.cast(source.masks[name], variable.dtype)))


def _stripped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if is_subclassed(layer):
        return restore(layer, _stripped, path=path)
    return layer.layer if isinstance(layer, Pruned) else None


def strip(model_or_layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a plain, uncompiled copy without wrappers, the masked entries zero; it loads without tfprune.

    Args:
        model_or_layer: A built model, wrapped or not, or a single built layer.

    Raises:
        ValueError: For an unbuilt model, or one that has `Pruned` inside another layer or in its own code, which
            would create it again.
        TypeError: If it is no Keras model or layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> from tfprune import wrap
        >>> [type(layer).__name__ for layer in strip(wrap(model)).layers]
        ['Dense']
    """
    if isinstance(model_or_layer, keras.Model):
        check_model(model_or_layer)
        _check_no_inner_wrapper(model_or_layer)
        return copied(model_or_layer, _stripped)
    if not isinstance(model_or_layer, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: an object of {type(model_or_layer).__name__}")
    if not model_or_layer.built:
        raise ValueError(f"Expected a built layer. Received: {model_or_layer.name!r}, which has no weights yet")
    _check_no_inner_wrapper(model_or_layer)
    copy = copy_of(model_or_layer.layer if isinstance(model_or_layer, Pruned) else model_or_layer)
    copy_weights(model_or_layer, copy)
    return copy

"""Whole models and layers: wrap them for pruning, strip the wrappers again."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfprune.criteria import CRITERIA, Criterion
from tfprune.patterns import PATTERNS, Pattern
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
from tfprune.selection import Filters, choose
from tfprune.spec import resolve
from tfprune.subclassed import change, own_variables, pairs, reassemble, restore
from tfprune.wrapper import Pruned


def wrap(
    model_or_layer: keras.layers.Layer,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    filters: Filters = None,
    in_place: bool = False,
) -> keras.layers.Layer:
    """Return an uncompiled copy whose layers are wrapped in `Pruned`; the original is left untouched.

    Names of layers stay as they are, so `get_layer` finds the wrapper by the name of its layer. Layers without a
    prunable weight are copied as they are, and `sparsity_report` lists them with the reason.

    A subclassed model is built anew from its configuration, and the layers in its attributes are wrapped. The copy is
    an instance of its class, with its methods, and is saved with its wrappers.

    Args:
        model_or_layer: A built model (Sequential, Functional or subclassed, nested ones included), or a single layer.
        criterion: How important an entry is: `"magnitude"`, `"random"` or a `Criterion`.
        pattern: In which shape zeros may lie: `"unstructured"` or a `Pattern`.
        filters: Which weights. None takes every kernel that mixes inputs, embeddings and recurrent kernels too, but
            no depthwise ones. A regular expression, or a sequence of them, takes the weights in whose path
            (`block_1/conv/kernel`) one is found; a function from a layer to a bool takes all kernels of that layer.
        in_place: Wrap the layers of the subclassed model given, instead of a copy: for one that has no
            `get_config`, so that no copy can be made. Compile it again.

    Returns:
        The wrapped copy, or the model given.

    Raises:
        ValueError: For an unbuilt or empty model, one that cannot be copied or, with `in_place`, is not subclassed,
            a filter that matches nothing, or a weight that was asked for and cannot take the pattern.
        TypeError: If it is no Keras model or layer, or an argument is of the wrong type.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> wrap(model).get_layer("hidden").masks["kernel"].shape
        TensorShape([8, 4])
    """
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    pattern = resolve(pattern, PATTERNS, Pattern, "pattern")
    if in_place and not is_subclassed(model_or_layer):
        raise ValueError(
            f"Expected a subclassed model with `in_place=True`. Received: {type(model_or_layer).__name__}, which "
            f"wrap copies: call it without `in_place`"
        )
    if not isinstance(model_or_layer, keras.Model):
        return _wrap_layer(model_or_layer, criterion, pattern, filters)
    _check_model(model_or_layer)
    chosen = choose(model_or_layer, pattern=pattern, filters=filters)

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if is_subclassed(layer):
            return reassemble(layer, wrapped, path=path)
        if path not in chosen:
            return None
        return Pruned(layer, criterion=criterion, pattern=pattern, weights=chosen[path])

    def wrapped_in_place(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if as_graph(layer) is not None:
            return _copy(layer, lambda inner, one: wrapped(f"{path}/{inner}", one))
        replacement = wrapped(path, layer)
        if replacement is not None:
            replacement.build()
        return replacement

    if not in_place:
        return _copy(model_or_layer, wrapped)
    change(model_or_layer, wrapped_in_place)
    return model_or_layer


def _wrap_layer(layer: Any, criterion: Criterion, pattern: Pattern, filters: Filters) -> Pruned:
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: {layer!r} of type {type(layer).__name__}")
    if filters is not None:
        raise ValueError(
            f"Expected `filters` with a model only. Received: filters={filters!r} for layer {layer.name!r}. Choose "
            f"within a layer with Pruned(layer, weights=[...])"
        )
    copy = copy_of(Pruned(layer, criterion=criterion, pattern=pattern))
    if layer.built:
        _copy_weights(layer, copy)
    return copy


def _check_model(model: keras.Model) -> None:
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

    _check_model(model)
    return _copy(model, replaced)


def _copy(model: keras.Model, replace: Replace) -> keras.Model:
    copy = replace("", model) if is_subclassed(model) else rebuild(as_graph(model), replace)
    for layer, counterpart in pairs(model, copy):
        _copy_weights(layer, counterpart)
    return copy


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
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
        >>> [type(layer).__name__ for layer in strip(wrap(model)).layers]
        ['Dense']
    """
    if isinstance(model_or_layer, keras.Model):
        _check_model(model_or_layer)
        _check_no_inner_wrapper(model_or_layer)
        return _copy(model_or_layer, _stripped)
    if not isinstance(model_or_layer, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: an object of {type(model_or_layer).__name__}")
    if not model_or_layer.built:
        raise ValueError(f"Expected a built layer. Received: {model_or_layer.name!r}, which has no weights yet")
    _check_no_inner_wrapper(model_or_layer)
    copy = copy_of(model_or_layer.layer if isinstance(model_or_layer, Pruned) else model_or_layer)
    _copy_weights(model_or_layer, copy)
    return copy

"""Whole models and layers: wrap them for pruning, strip the wrappers again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfprune.criteria import CRITERIA, Criterion
from tfprune.patterns import PATTERNS, Pattern
from tfprune.prunable import Kernel, kernels, walk
from tfprune.rebuild import copy_of, copy_variables, is_graph, rebuild, units
from tfprune.spec import resolve
from tfprune.wrapper import Pruned

Filters = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def wrap(
    model_or_layer: keras.layers.Layer,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    filters: Filters = None,
) -> keras.layers.Layer:
    """Return an uncompiled copy whose layers are wrapped in `Pruned`; the original is left untouched.

    Names of layers stay as they are, so `get_layer` finds the wrapper by the name of its layer. Layers without a
    prunable weight are copied as they are, and `sparsity_report` lists them with the reason.

    Args:
        model_or_layer: A built Sequential or Functional model, nested ones included, or a single layer.
        criterion: How important an entry is: `"magnitude"`, `"random"` or a `Criterion`.
        pattern: In which shape zeros may lie: `"unstructured"` or a `Pattern`.
        filters: Which weights. None takes every kernel that mixes inputs, embeddings and recurrent kernels too, but
            no depthwise ones. A regular expression, or a sequence of them, takes the weights in whose path
            (`block_1/conv/kernel`) one is found; a function from a layer to a bool takes all kernels of that layer.

    Returns:
        The wrapped copy.

    Raises:
        ValueError: For an unbuilt or empty model, one that is neither Sequential nor Functional, a filter that
            matches nothing, or a weight that was asked for and cannot take the pattern.
        TypeError: If it is no Keras model or layer, or an argument is of the wrong type.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> wrap(model).get_layer("hidden").masks["kernel"].shape
        TensorShape([8, 4])
    """
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    pattern = resolve(pattern, PATTERNS, Pattern, "pattern")
    if not isinstance(model_or_layer, keras.Model):
        return _wrap_layer(model_or_layer, criterion, pattern, filters)
    _check_model(model_or_layer)
    chosen = _choose(model_or_layer, pattern, filters)

    def replace(path: str, layer: keras.layers.Layer) -> Pruned | None:
        if path not in chosen:
            return None
        return Pruned(layer, criterion=criterion, pattern=pattern, weights=chosen[path])

    return _copy(model_or_layer, replace)


def _wrap_layer(layer: Any, criterion: Criterion, pattern: Pattern, filters: Filters) -> Pruned:
    if filters is not None:
        raise ValueError("Expected `filters` with a model only; `Pruned(layer, weights=...)` chooses within a layer")
    copy = copy_of(Pruned(layer, criterion=criterion, pattern=pattern))
    if layer.built:
        _copy_weights(layer, copy)
    return copy


def _check_model(model: keras.Model) -> None:
    if not is_graph(model):
        raise ValueError(
            f"Expected a Sequential or Functional model. Received: {model.name!r} of class {type(model).__name__}. "
            f"In a subclassed model write tfprune.Pruned(layer) where the layer is created"
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose weights do not exist yet. Start it with "
            f"keras.Input(shape), or call model.build(input_shape) first"
        )
    if not model.layers:
        raise ValueError(f"Expected a model with layers. Received: {model.name!r}, which is empty")


def copy_with(model: keras.Model, replace: Callable[[str, keras.layers.Layer], Any]) -> keras.Model:
    """Return an uncompiled copy of a built model in which some layers are replaced, with the model's weights."""
    _check_model(model)
    return _copy(model, replace)


def _copy(model: keras.Model, replace: Callable[[str, keras.layers.Layer], Any]) -> keras.Model:
    copy = rebuild(model, replace)
    copies = dict(units(copy))
    for path, layer in units(model):
        _copy_weights(layer, copies[path])
    return copy


def _copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copy the weights of a layer into its wrapped, stripped or plain copy."""
    if isinstance(source, Pruned) == isinstance(target, Pruned):
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


def _choose(model: keras.Model, pattern: Pattern, filters: Filters) -> dict[str, list[str]]:
    """Return the names of the weights to prune, by the path of their layer."""
    offered = [
        (path, layer, kernel)
        for path, layer in units(model)
        if not any(isinstance(part, Pruned) for _, part in walk(layer, stop=Pruned))
        for kernel in kernels(layer)
    ]
    paths = [f"{path}/{kernel.path}" for path, _, kernel in offered]
    wanted = _selector(filters, pattern, paths)
    chosen: dict[str, list[str]] = {}
    for path, layer, kernel in offered:
        if wanted(f"{path}/{kernel.path}", layer, kernel):
            chosen.setdefault(path, []).append(kernel.path)
    if not chosen:
        raise ValueError(
            f"Expected weights to prune in model {model.name!r}. Received: filters={filters!r}, pattern={pattern!r}, "
            f"which leave none of those that can be pruned: {', '.join(paths) or 'none'}"
        )
    return chosen


def _selector(
    filters: Filters, pattern: Pattern, paths: list[str]
) -> Callable[[str, keras.layers.Layer, Kernel], bool]:
    """Turn `filters` into a function of path, layer and kernel; refuse an expression that matches no path."""
    if filters is None:  # of a whole model, what cannot take the pattern is left out instead of refused
        return lambda path, layer, kernel: kernel.mixes_inputs and not pattern.refusal(kernel.matrix_shape)
    if callable(filters):
        return lambda path, layer, kernel: bool(filters(layer))
    expressions = [filters] if isinstance(filters, str) else filters
    if not isinstance(expressions, Sequence) or not all(isinstance(one, str) for one in expressions):
        raise TypeError(
            f"Expected `filters` to be None, regular expressions or a function of a layer. Received: {filters!r}"
        )
    for expression in expressions:
        if not any(_regex(expression).search(path) for path in paths):
            raise ValueError(
                f"Expected the filter to match a weight. Received: {expression!r}, which is found in none of "
                f"{', '.join(paths) or 'no weights at all'}"
            )
    return lambda path, layer, kernel: any(re.search(expression, path) for expression in expressions)


def _regex(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ValueError(
            f"Expected `filters` to be regular expressions. Received: {expression!r} ({error})"
        ) from error


def strip(model_or_layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a plain, uncompiled copy without wrappers, the masked entries zero; it loads without tfprune.

    Args:
        model_or_layer: A built Sequential or Functional model, wrapped or not, or a single built layer.

    Raises:
        ValueError: For an unbuilt model, one that is neither Sequential nor Functional, or one that has `Pruned`
            inside another layer, whose code would create it again.
        TypeError: If it is no Keras model or layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> [type(layer).__name__ for layer in strip(wrap(model)).layers]
        ['Dense']
    """
    if isinstance(model_or_layer, keras.Model):
        _check_model(model_or_layer)
        _check_no_inner_wrapper(model_or_layer)
        return _copy(model_or_layer, lambda path, layer: layer.layer if isinstance(layer, Pruned) else None)
    if not isinstance(model_or_layer, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: an object of {type(model_or_layer).__name__}")
    if not model_or_layer.built:
        raise ValueError(f"Expected a built layer. Received: {model_or_layer.name!r}, which has no weights yet")
    _check_no_inner_wrapper(model_or_layer)
    copy = copy_of(model_or_layer.layer if isinstance(model_or_layer, Pruned) else model_or_layer)
    _copy_weights(model_or_layer, copy)
    return copy

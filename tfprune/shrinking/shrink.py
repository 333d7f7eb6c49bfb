"""Carry out a plan: build the smaller model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.models.graph import retrace
from tfprune.models.layers import as_numpy
from tfprune.models.rebuild import copy_of
from tfprune.shrinking.shrink_plan import ShrinkPlan
from tfprune.wrapping.flat_copy import flat_copy
from tfprune.wrapping.strip import strip


def shrink(model: keras.Model, plan: ShrinkPlan) -> keras.Model:
    """Build the smaller model, without the channels that a plan removes.

    Use it to carry out a plan. Up to rounding, the smaller model returns what `zero_channels` returns: the model of
    the same size with zeros in place of these channels. It saves, loads and exports like any model, without tfprune.

    Args:
        model: The model that the plan was made for, wrapped or not. It is left unchanged.
        plan: What `plan_shrink` returned for it.

    Returns:
        An uncompiled Functional model without nested models, its layers named as before.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> [weight.shape for weight in shrink(model, plan_shrink(model, 0.5)).get_layer("hidden").weights]
        [TensorShape([8, 3]), TensorShape([3])]
    """
    flat = fitting_copy(model, plan)
    smaller: dict[int, Any] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in smaller:
            smaller[id(layer)] = _smaller(layer, plan)
        return smaller[id(layer)](*args, **kwargs)

    result = retrace(flat, call)
    for layer in flat.layers:
        if layer.variables:
            _copy_kept(layer, smaller[id(layer)], plan)
    # Stripped, because layers and operations of the copy have been called on the larger tensors, too.
    return strip(keras.Model(result.input, result.output, name=model.name))


def fitting_copy(model: keras.Model, plan: ShrinkPlan) -> keras.Model:
    """Return a flat copy of the model that a plan was made for.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.
    """
    if not isinstance(plan, ShrinkPlan):
        raise TypeError(
            f"Expected a plan. Received: plan={plan!r} of type {type(plan).__name__}. Make one with "
            f"tfprune.plan_shrink(model, 0.5)."
        )
    flat = flat_copy(model).model
    shapes = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in flat.layers if layer.weights}
    planned = {
        name: [weight.shape for weight in layer.weights]
        for name, layer in plan.network.layers.items()
        if layer.weights
    }
    differing = sorted(name for name in shapes.keys() | planned.keys() if shapes.get(name) != planned.get(name))
    if differing:
        raise ValueError(
            f"Expected the model that the plan was made for. Received: {model.name!r}, where these layers differ: "
            f"{', '.join(differing[:5])}. Make a plan for this model: tfprune.plan_shrink(model, ...)."
        )
    return flat


_SIZED = {"newshape": keras.ops.reshape, "shape": keras.ops.broadcast_to}  # by the argument that is a shape


def _smaller(layer: Any, plan: ShrinkPlan) -> Any:
    """Return a copy of a layer or operation that counts only the channels that are kept."""
    known = plan.network.layers.get(layer.name)
    counted = _counted(known.config, plan.keep) if known else {}
    if isinstance(layer, keras.layers.Layer):
        return copy_of(layer, changes=counted)
    return next((lambda x, sizes=sizes, name=name: _SIZED[name](x, sizes) for name, sizes in counted.items()), layer)


def _counted(value: Any, keep: np.ndarray) -> Any:
    if isinstance(value, np.ndarray):
        return int(np.count_nonzero(keep[value]))
    if isinstance(value, dict):
        return {name: _counted(entry, keep) for name, entry in value.items()}
    return tuple(_counted(entry, keep) for entry in value) if isinstance(value, tuple) else value


def _copy_kept(source: keras.layers.Layer, target: keras.layers.Layer, plan: ShrinkPlan) -> None:
    """Assign the kept entries of the variables of a layer to its smaller copy."""
    weights = dict(zip(map(id, source.weights), plan.network.layers[source.name].weights, strict=True))
    for variable, counterpart in zip(source.variables, target.variables, strict=True):
        values = as_numpy(variable)
        if id(variable) in weights:
            for axis, bundles in weights[id(variable)].bundles_along.items():
                values = np.compress(plan.keep[bundles], values, axis=axis)
        counterpart.assign(values)

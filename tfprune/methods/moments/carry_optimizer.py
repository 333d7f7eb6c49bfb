"""Carry the state of an optimizer over to a model that was grown or made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfprune.keras_models.copying.origins import Origin, Origins
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import owned_slots


def carry_optimizer(model: keras.Model, new: keras.Model, *, origins: Origins) -> keras.optimizers.Optimizer:
    """Return an optimizer for a grown or smaller model, with the state of the optimizer of the model it comes from.

    Use it to train on without a new warm-up. The moments of a weight, and whatever else the optimizer keeps for it,
    take the way of the weight itself: a copy gets those of its original, and a merged expert their mean. Step count
    and learning rate are carried, too.

    Args:
        model: The model before, compiled and trained. It is left unchanged.
        new: What `grow_depth`, `drop_blocks`, `experts.grow`, `experts.merge` or `experts.drop` returned for it.
        origins: `report.origins` of the same call. For two calls in turn, compile the model in between with the
            optimizer that this function returns for it, and call it again.

    Returns:
        An optimizer of the same class and settings, for `new.compile(optimizer, ...)`. Weights that come from none,
        or from one that was frozen, start anew.

    Raises:
        TypeError: If one of both is not a Keras model, or `origins` are not those of a report.
        ValueError: If the model has no optimizer that has trained, or the origins are those of other models.
        ValueError: If the optimizer keeps values of other shapes than its weights, as Adafactor does.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(2)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x = keras.random.normal((32, 4), seed=0)
        >>> history = model.fit(x, x[:, :1], verbose=0)
        >>> grown, report = tfprune.growth.grow_depth(model)
        >>> grown.compile(carry_optimizer(model, grown, origins=report.origins), "mse")
        >>> int(grown.optimizer.iterations)
        1
    """
    for value, argument in ((model, "model"), (new, "new")):
        check_keras(value, keras.Model, argument=argument)
    check_origins(origins, model=model, new=new)
    optimizer = trained_optimizer(model)
    carried = type(optimizer).from_config(optimizer.get_config())
    carried.build(new.trainable_variables)
    slots, new_slots = (
        owned_slots(optimizer, model.trainable_variables),
        owned_slots(carried, new.trainable_variables),
    )
    rest, new_rest = _rest(optimizer, slots), _rest(carried, new_slots)
    _check_shapes(optimizer, [variable.shape for variable in rest], [variable.shape for variable in new_rest])
    for variable, other in zip(rest, new_rest, strict=True):
        other.assign(variable)
    weights = model.weights
    for weight, origin in zip(new.weights, origins, strict=True):
        own = slots.get(id(weights[origin.weight])) if origin else None
        if not origin or not own or id(weight) not in new_slots:  # it has no origin, or one of both is frozen
            continue
        values = [origin.follow(as_numpy(slot)) for slot in own]
        _check_shapes(optimizer, [value.shape for value in values], [slot.shape for slot in new_slots[id(weight)]])
        for slot, value in zip(new_slots[id(weight)], values, strict=True):
            slot.assign(value)
    return carried


def trained_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of a model.

    Raises:
        ValueError: If it has none, or one that has not begun to train.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        reason = "which has no optimizer" if optimizer is None else "whose optimizer has no state yet"
        raise ValueError(
            f"Expected a model that was compiled and trained. Received: {model.name!r}, {reason}. Pass the model "
            f"that was trained, or load it with keras.models.load_model(..., compile=True)."
        )
    return optimizer


def check_origins(origins: Any, *, model: keras.Model, new: keras.Model) -> None:
    """Refuse what are not the origins of the weights of one model in another.

    Raises:
        TypeError: If they are not origins.
        ValueError: If their number or the shapes do not fit.
    """
    if not isinstance(origins, tuple) or not all(isinstance(each, Origin | None) for each in origins):
        raise TypeError(
            f"Expected `origins` of a report, such as tfprune.growth.grow_depth(model)[1].origins. Received: a value "
            f"of type {type(origins).__name__}."
        )
    weights, new_weights = model.weights, new.weights
    fits = len(origins) == len(new_weights) and all(
        each is None or (each.weight < len(weights) and _fits(each, weights[each.weight].shape, weight.shape))
        for each, weight in zip(origins, new_weights, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Expected the origins of the weights of {new.name!r} in {model.name!r}. Received: those of "
            f"{len(origins)} weights, where they have {len(new_weights)} and {len(weights)}, or weights of other "
            f"shapes. Pass the report of the call that made this model of that one."
        )


def _fits(origin: Origin, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    expected = list(old)
    if origin.groups:
        expected[origin.axis] = len(origin.groups)
    return expected == list(new)


def _rest(optimizer: keras.optimizers.Optimizer, slots: dict[int, list[keras.Variable]]) -> list[keras.Variable]:
    """Return the variables of an optimizer that belong to no weight: the step count, the learning rate."""
    owned = {id(slot) for owner in slots.values() for slot in owner}
    return [variable for variable in optimizer.variables if id(variable) not in owned]


def _check_shapes(optimizer: keras.optimizers.Optimizer, shapes: Sequence[Any], new_shapes: Sequence[Any]) -> None:
    if list(map(tuple, shapes)) != list(map(tuple, new_shapes)):
        raise ValueError(
            f"Expected an optimizer whose values have the shapes of its weights, as those of Adam and SGD have. "
            f"Received: {type(optimizer).__name__}, which keeps others. Compile the new model with a new optimizer."
        )

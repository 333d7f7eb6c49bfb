"""Copy a layer that Keras cannot build from its configuration: an empty instance of its class gets its attributes.

Layers among the attributes are copied, and its variables become others like them. Anything else, such as a number, an
array or a function, is the same in both.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.keras_models.copying.held_layers import own_attributes, own_variables, replace_nested
from tfprune.keras_models.models.anatomy import UNCONFIGURED, Kind, kind_of
from tfprune.keras_models.models.layers import is_of_keras, sublayers, walk

UNGUARDED = "tfprune_unguarded"  # where a weight under a mask keeps the regularizer and the constraint that it had

_COPIED = (keras.layers.Layer, keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
_SEEDS_AND_METRICS = (keras.random.SeedGenerator, keras.metrics.Metric)


def is_configurable(layer: keras.layers.Layer) -> bool:
    """Tell whether the configuration of a layer holds the arguments that its class takes."""
    return not _missing(layer)


def _missing(layer: Any) -> str:
    """Return what is wrong with the configuration of a layer; empty if nothing is, as far as its arguments tell."""
    if is_of_keras(layer) or (isinstance(layer, keras.Model) and kind_of(layer) is not Kind.CODE):
        return ""
    try:
        config = layer.get_config()
        if _inherits_from_config(layer):
            inspect.signature(layer.__init__).bind(**config)
    except UNCONFIGURED as error:
        return reason_of(error)
    return ""


def reason_of(error: BaseException) -> str:
    """Return what an error in a `get_config` says, in one line, without the example that Keras adds."""
    return " ".join(str(error).partition("Example:")[0].split()).removesuffix(".")


def _inherits_from_config(layer: Any) -> bool:
    base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
    return type(layer).from_config.__func__ is base.from_config.__func__


def copy_by_attributes(layer: Any, copy_part: Callable[[keras.layers.Layer], keras.layers.Layer]) -> Any:
    """Return a copy of a layer, built if the layer is; weights are not copied.

    Args:
        layer: A layer, or a model whose code creates its layers.
        copy_part: Copies a layer that it holds, with all of its weights.

    Raises:
        ValueError: If something else that it holds refers to its layers or variables, which the copy would share.
    """
    _check_attributes(layer)
    copy, counterparts = _empty_instance(layer), {}
    for variable, is_trained in _own_weights(layer):
        counterparts[id(variable)] = _variable_like(variable, copy, is_trained=is_trained)

    def new(place: tuple, value: Any) -> Any:
        if id(value) not in counterparts and isinstance(value, keras.layers.Layer):
            counterparts[id(value)] = copy_part(value)
            counterparts.update(zip(map(id, value.variables), counterparts[id(value)].variables, strict=False))
        elif id(value) not in counterparts and isinstance(value, _SEEDS_AND_METRICS):
            counterparts[id(value)] = type(value).from_config(value.get_config())
            counterparts.update(zip(map(id, _state(value)), _state(counterparts[id(value)]), strict=False))
        return counterparts.get(id(value), value)

    with keras.name_scope(layer.name):
        # Keras lists layers in the order in which it sees them; of a tuple, nothing but that is noted down.
        copy.parts_in_order = tuple(new((), part) for part in sublayers(layer))
    del copy.parts_in_order
    for name, value in own_attributes(layer).items():
        setattr(copy, name, replace_nested((name,), value, new=new))
    expected = [counterparts.get(id(variable)) for variable in layer.variables]
    if [*map(id, expected)] != [*map(id, copy.variables)]:
        raise ValueError(_refusal(layer, "it has weights that no attribute leads to"))
    for name in ("supports_masking", "input_spec", "autocast", "activity_regularizer"):
        setattr(copy, name, getattr(layer, name))
    copy.built = layer.built
    if not layer.trainable:
        copy.trainable = False
    return copy


def _check_attributes(layer: Any) -> None:
    """Refuse a layer whose copy would share layers or variables with it, through a function for example."""
    if not layer.variables:
        return
    own = {id(part) for _, part in walk(layer)} | {id(variable) for variable in layer.variables}
    for name, value in own_attributes(layer).items():
        others = [leaf for leaf in _leaves(value) if not isinstance(leaf, _COPIED)]
        if own & _reached(others):
            reason = f"its attribute {name!r} refers to the layer or its weights in a way that cannot be copied"
            raise ValueError(_refusal(layer, reason))


def _refusal(layer: Any, reason: str) -> str:
    return (
        f"Expected {layer.name!r} of class {type(layer).__name__} to have a configuration, from which its copy is "
        f"built, or attributes that can be copied. Received: {_missing(layer) or 'neither'}; and {reason}. Let "
        f"`__init__` take **kwargs and pass them to super().__init__(**kwargs), and return its arguments in "
        f"`get_config`."
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _reached(values: list[Any]) -> set[int]:
    """Return the ids of all that functions, methods, sets and other objects refer to."""
    seen: set[int] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType, keras.KerasTensor)):
            continue
        seen.add(id(value))
        todo += value.variables if isinstance(value, keras.layers.Layer) else _referents(value)
    return seen


def _referents(value: Any) -> list[Any]:
    if isinstance(value, keras.Variable):
        return []
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return [*value.values()] if isinstance(value, dict) else [*value]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*cells, value.__defaults__, value.__kwdefaults__]
    return [*getattr(value, "__dict__", {}).values()]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True


def _empty_instance(layer: Any) -> Any:
    """Return an instance of a layer's class for which no code of that class was run."""
    kind: Any = type(layer)
    try:  # Keras notes down in `__new__` the arguments that its own `get_config` writes
        config, parameters = layer.get_config(), inspect.signature(layer.__init__).parameters
        copy = kind.__new__(kind, **{name: config[name] for name in parameters if name in config})
    except UNCONFIGURED:
        copy = kind.__new__(kind, object())
    base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
    base.__init__(copy, name=layer.name, dtype=layer.dtype_policy)
    return copy


def _own_weights(layer: Any) -> list[tuple[keras.Variable, bool]]:
    """Return the variables that a layer has created itself, and whether each trains where nothing is frozen."""
    stateful = [leaf for leaf in _leaves(own_attributes(layer)) if isinstance(leaf, _SEEDS_AND_METRICS)]
    state_ids = {id(variable) for leaf in stateful for variable in _state(leaf)}
    own = [variable for variable in own_variables(layer) if id(variable) not in state_ids]
    parts = [(part, part.trainable) for _, part in walk(layer)]
    before = [(variable, variable.trainable) for variable in layer.variables]
    if all(is_trained for _, is_trained in before):
        return [(variable, True) for variable in own]
    layer.trainable = True  # the only way to find out: Keras lists the variables that may train first
    trained = [variable.trainable for variable in own]
    for frozen, is_trained in (*parts, *before):  # a layer sets those inside, too, which come later
        if frozen.trainable != is_trained:
            frozen.trainable = is_trained
    return list(zip(own, trained, strict=True))


def _state(value: Any) -> list[keras.Variable]:
    return [value.state] if isinstance(value, keras.random.SeedGenerator) else value.variables


def _variable_like(variable: keras.Variable, copy: Any, *, is_trained: bool) -> keras.Variable:
    """Add to the copy of a layer a variable like one of the layer."""
    regularizer, constraint = getattr(variable, UNGUARDED, (variable.regularizer, variable.constraint))
    added = copy.add_weight(
        name=variable.name,
        shape=variable.shape,
        dtype=variable.dtype,
        initializer="zeros",
        trainable=is_trained,
        regularizer=regularizer,
        constraint=constraint,
        aggregation=variable.aggregation,
    )
    added.trainable = variable.trainable
    return added

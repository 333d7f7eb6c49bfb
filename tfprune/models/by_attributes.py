"""Copy layers and models by their attributes, where they have no configuration; and where each weight came from."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.models.anatomy import UNCONFIGURED, Anatomy, Kind, attributes, is_of_keras, kind_of, sublayers, walk

# The attributes of a model or layer: the layers in them, a copy made by them, and an exchange of all of them.
#
# A layer that Keras cannot build from its configuration is copied by its attributes: an empty instance of its class
# gets them. Layers among them are copied, and its variables become others like them. All else, such as a number, an
# array or a function, is the same in both.
#
# A model or layer that changes inside becomes another one, as Keras lets a built layer take no other layers: it
# gets the class and the attributes of a new one, and whatever refers to it still does.

ORIGIN = "tfprune_origin"  # where a copy keeps the configuration of the model that it was made from
PARTS = "tfprune_parts"  # where it keeps the layers of that model, in an order that comes again

AttributePath = tuple[Any, ...]  # an attribute's name, then the keys and indices of the dicts and lists in it


class RefusedMethod(functools.partial):
    """Replaces a method that raises; not a user attribute."""


def each_once(model: keras.Model, make: Callable[[keras.layers.Layer], Any]) -> dict[AttributePath, Any]:
    """Call a function on every layer that a model holds; one that it holds twice gives one result."""
    results: dict[int, Any] = {}
    held = dict(held_layers(model))
    missing = [layer.name for layer in model.layers if not any(layer is part for part in held.values())]
    if missing:
        raise ValueError(
            f"Expected the layers of {model.name!r} in attributes, or in lists, tuples and dicts there. Received: "
            f"{', '.join(missing)}, held elsewhere. Hold them in one of these."
        )
    for layer in held.values():
        if id(layer) not in results:
            results[id(layer)] = make(layer)
    return {place: results[id(layer)] for place, layer in held.items()}


def _names_of_keras(layer: Any) -> frozenset[str]:
    """Return the attributes that every compiled model of this kind has, before code of the user's adds any."""
    if not isinstance(layer, keras.Model):
        return _names_of_layers()
    return _names_of_graphs() if hasattr(layer, "inputs") else _names_of_code()


@functools.cache
def _names_of_layers() -> frozenset[str]:
    layer = keras.layers.Layer()
    layer.part = keras.layers.Layer()  # a backend may note down what it tracks
    return frozenset(vars(layer)) - {"part"}


@functools.cache
def _names_of_code() -> frozenset[str]:
    return _compiled_names(keras.Model())


@functools.cache
def _names_of_graphs() -> frozenset[str]:
    inputs = keras.Input((1,))
    return _compiled_names(keras.Model(inputs, inputs))


def _compiled_names(model: keras.Model) -> frozenset[str]:
    model.compile("sgd", "mse", metrics=["mse"])
    return frozenset(vars(model)) | {ORIGIN, PARTS}


def own_attributes(model: Any) -> dict[str, Any]:
    """Return the attributes that the user's code set on a model or layer, by name."""
    names = _names_of_keras(model)
    if not getattr(model, "compiled", True):  # of a loop of its own
        names -= {"loss", "optimizer"}
    return {
        name: value
        for name, value in attributes(model).items()
        if name not in names and not isinstance(value, RefusedMethod)
    }


def replace_nested(place: AttributePath, value: Any, *, new: Callable[[AttributePath, Any], Any]) -> Any:
    """Return the value of an attribute with leaves replaced; unaffected lists, tuples and dicts stay as they are.

    Args:
        place: The path of the value.
        value: The value.
        new: Called with path and value of each leaf (not a list, tuple or dict); returns the replacement.
    """
    if not isinstance(value, (dict, list, tuple)):
        return new(place, value)
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    items = [replace_nested((*place, key), item, new=new) for key, item in pairs]
    if all(item is old for item, (_, old) in zip(items, pairs, strict=True)):
        return value
    if isinstance(value, dict):
        return {key: item for item, (key, _) in zip(items, pairs, strict=True)}
    if hasattr(value, "_fields"):  # a namedtuple
        return value._make(items)  # type: ignore[union-attr]
    return tuple(items) if isinstance(value, tuple) else items


def copy_scalar_attributes(model: keras.Model, copy: keras.layers.Layer) -> None:
    """Give a copy the numbers and texts that methods have set on a model, such as which layers have LoRA."""
    for name, value in own_attributes(model).items():
        is_data = all(isinstance(leaf, (int, float, str)) for leaf in keras.tree.flatten(value))
        if name not in vars(copy) and is_data:
            setattr(copy, name, value)


def held_layers(model: Any) -> Iterator[tuple[AttributePath, keras.layers.Layer]]:
    """Yield the layers in a model's attributes, lists and dicts included, each with its place."""
    yield from held_values(model, keras.layers.Layer)


def held_values(model: Any, kind: type) -> Iterator[tuple[AttributePath, Any]]:
    """Yield what is of a kind in a model's attributes, lists and dicts included, each with its place."""

    def visit(place: AttributePath, value: Any) -> Iterator[tuple[AttributePath, Any]]:
        if isinstance(value, kind):
            yield place, value
        elif isinstance(value, (dict, list, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from visit((*place, key), item)

    for name, value in own_attributes(model).items():
        yield from visit((name,), value)


def beside_graph(anatomy: Anatomy) -> list[tuple[AttributePath, keras.layers.Layer]]:
    """Return the layers in the attributes of a Functional subclass that are no part of the graph."""
    inside = {id(layer) for _, layer in anatomy.every}
    return [(place, layer) for place, layer in held_layers(anatomy.model) if id(layer) not in inside]


def own_variables(layer: Any) -> list[keras.Variable]:
    """Return the variables of a model or layer that are not those of its layers."""
    held = {id(variable) for part in sublayers(layer) for variable in part.variables}
    return [variable for variable in layer.variables if id(variable) not in held]


def become(model: keras.Model, filled: keras.Model) -> keras.Model:
    """Make a model the same as another, its class and all its attributes, and return it; it is uncompiled by this.

    The calls that graphs around it make of it stay.
    """
    calls = {name for name, value in vars(model).items() if isinstance(value, list) and any(map(_is_call, value))}
    state = {name: value for name, value in vars(filled).items() if name not in calls}
    for name in _names_of_keras(model) & (vars(model).keys() - state.keys() - calls):
        del vars(model)[name]
    model.__class__ = type(filled)
    # Keras lets a built model take no new layers: it takes over the state of one that has them. Functions are not
    # taken over: those that the model's code made refer to the model itself.
    vars(model).update({name: value for name, value in state.items() if not isinstance(value, types.FunctionType)})
    return model


def forget_calls(layers: Iterable[Any]) -> None:
    """Let layers forget the calls of a graph that is to be called anew; that of its inputs stays."""
    for layer in layers:
        lists = [name for name, value in vars(layer).items() if isinstance(value, list) and any(map(_is_call, value))]
        for name in [] if isinstance(layer, keras.layers.InputLayer) else lists:
            vars(layer)[name] = []  # past Keras, which locks a built layer


def _is_call(value: Any) -> bool:
    return hasattr(value, "operation") and hasattr(value, "input_tensors")


def become_part(layer: keras.layers.Layer, part: keras.layers.Layer) -> None:
    """Make a layer the same as another one that was never called, its name and the calls in graphs aside."""
    if part.trainable != layer.trainable:
        part.trainable = layer.trainable
    name, state = layer.name, vars(layer)
    for key, value in vars(part).items():
        is_of_calls = isinstance(value, list) and any(map(_is_call, state.get(key) or ()))  # the part has none
        if not is_of_calls and not isinstance(value, types.FunctionType):  # some of which refer to the part
            state[key] = value
    layer.__class__ = type(part)
    layer.name = name


UNGUARDED = "tfprune_unguarded"  # where a weight under a mask keeps the regularizer and the constraint that it had

_COPIED = (keras.layers.Layer, keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
_SEEDS_AND_METRICS = (keras.random.SeedGenerator, keras.metrics.Metric)


def is_configurable(layer: keras.layers.Layer) -> bool:
    """Return True if the configuration of a layer holds the arguments that its class takes."""
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


# Where the weights of a model come from, if it was made of another one: whole weights, or means of their slices.

Groups = Sequence[Sequence[int]]
Shares = Sequence[Sequence[float]]  # of the slices of each group in their mean; none: equal ones
# A weight, and the groups of slices along an axis with their shares; no groups: all of it.
MadeOf = tuple[keras.Variable, int, Groups, Shares]


@dataclass(frozen=True)
class Origin:
    """Where the values of a weight come from.

    Attributes:
        weight: The index of a weight among the weights of the other model.
        axis: The axis along which it was cut into slices.
        groups: The slices whose mean each new slice is; empty for a weight that was copied whole.
        shares: The share of each of them in the mean; empty for equal ones.
    """

    weight: int
    axis: int = 0
    groups: tuple[tuple[int, ...], ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()

    def follow(self, value: np.ndarray) -> np.ndarray:
        """Return what a value of the shape of the old weight is for the new one.

        Example:
            >>> Origin(0, groups=((0,), (1, 2), (0,))).follow(np.array([1.0, 2.0, 4.0]))
            array([1., 3., 1.])
        """
        return mean_of_groups(value, self.groups, axis=self.axis, shares=self.shares) if self.groups else value

    def add_back(self, value: np.ndarray, total: np.ndarray) -> None:
        """Add a gradient of the new weight to that of the old one: the transpose of `follow`.

        Example:
            >>> total = np.zeros(3)
            >>> Origin(0, groups=((0,), (1, 2), (0,))).add_back(np.array([1.0, 2.0, 4.0]), total)
            >>> total
            array([5., 1., 1.])
        """
        if not self.groups:
            total += value
            return
        sums = np.moveaxis(total, self.axis, 0)  # a view
        shares = self.shares or [[1 / len(group)] * len(group) for group in self.groups]
        for part, group, own in zip(np.moveaxis(value, self.axis, 0), self.groups, shares, strict=True):
            sums[list(group)] += np.multiply.outer(own, part)


Origins = tuple[Origin | None, ...]


def mean_of_groups(value: np.ndarray, groups: Groups, *, axis: int, shares: Shares = ()) -> np.ndarray:
    """Return the means of groups of entries along an axis, by their shares if there are some; the union of masks."""
    parts = [np.take(value, list(group), axis) for group in groups]
    if value.dtype == bool:
        return np.stack([part.any(axis) for part in parts], axis)
    weights: Sequence[Sequence[float] | None] = shares or [None] * len(parts)
    # In float64 the mean of equal numbers is the number itself.
    means = [
        part.take(0, axis) if part.shape[axis] == 1 else np.average(part.astype(np.float64), axis, own)
        for part, own in zip(parts, weights, strict=True)
    ]
    return np.stack(means, axis if axis >= 0 else value.ndim + axis).astype(value.dtype)


def read_origins(source: keras.layers.Layer, target: keras.layers.Layer, *, made_of: Mapping[int, MadeOf]) -> Origins:
    """Return the origin of each weight of a model or layer, by its index; None where it has none.

    Args:
        source: The model or layer that it was made of.
        target: The model or layer.
        made_of: What its weights were made of, by their ids.
    """
    indices = {id(weight): index for index, weight in enumerate(source.weights)}

    def origin(weight: keras.Variable) -> Origin | None:
        old, axis, groups, shares = made_of.get(id(weight), (None, 0, (), ()))
        if id(old) not in indices:
            return None
        return Origin(indices[id(old)], axis, tuple(map(tuple, groups)), tuple(map(tuple, shares)))

    return tuple(map(origin, target.weights))

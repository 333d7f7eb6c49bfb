"""Copy a subclassed model with some of the layers it holds replaced; its class and everything else stay.

The code of such a model creates its layers and keeps them in attributes, so there is no list to rebuild it from.
The copy is an empty instance of the class that is given the attributes of a fresh one, other layers in place of the
fresh ones. It is saved together with these layers, and so loads with them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras

from tfprune.keras_models.copying.change_class import become, saved_with
from tfprune.keras_models.copying.class_config import (
    build_from_class_config,
    build_if_loadable,
    class_config,
    is_loadable,
)
from tfprune.keras_models.copying.held_layers import (
    ORIGIN,
    AttributePath,
    beside_graph,
    each_once,
    held_layers,
    own_attributes,
    own_variables,
    replace_nested,
)
from tfprune.keras_models.copying.rebuild import ReplacePart, config_of, copy_of, rebuild, revive
from tfprune.keras_models.copying.refuse_quantize import lock_models
from tfprune.keras_models.copying.transparent_wrapper import layer_inside
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.layers import join_path


class _Holding:
    """Mixed into the class of a copy: saves the layers that it holds, as its code would create others."""

    def get_config(self) -> dict[str, Any]:
        parts = [[list(place), config_of(part)] for place, part in held_layers(self)]
        return {**_state(self, vars(self)[ORIGIN]), "parts": parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        read = functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
        parts = {tuple(place): read(part) for place, part in config["parts"]}
        shell = build_from_class_config(config["origin"], read)
        copy = _fill(shell, _holding(type(shell)), parts, config)
        lock_models(Anatomy.of(copy))
        return copy


keras.saving.register_keras_serializable(package="tfprune", name="Subclassed")(_Holding)


def _holding(model_class: Any) -> Any:
    """Return a subclass of a model's class whose instances are saved with the layers that they hold."""
    return model_class if issubclass(model_class, _Holding) else saved_with(_Holding, model_class)


def reassemble(anatomy: Anatomy, replace: ReplacePart, *, path: str = "") -> keras.Model:
    """Return an uncompiled copy of a subclassed model in which some layers are replaced; weights are not copied.

    Args:
        anatomy: Of a built subclassed model. It is left untouched.
        replace: Called with path and anatomy of each layer; returns the replacement, of which only the configuration
            is used, or None to keep a copy of the layer.
        path: The model's own path, which those of its layers begin with.

    Raises:
        ValueError: If it has no configuration, or one that gives a model with other layers.
    """
    model = anatomy.model
    try:
        origin = class_config(model)
        shell = build_from_class_config(origin, lambda entry: revive(entry, model))
    except ValueError as error:
        raise ValueError(f"{error}. Or wrap the model itself: tfprune.wrap(model, in_place=True).") from None
    _check_code(shell, {place: layer_inside(layer) for place, layer in held_layers(model)})
    return _fill(shell, _holding(type(shell)), _copied(anatomy, replace, path), _state(model, origin))


def restore(anatomy: Anatomy, replace: ReplacePart, *, path: str = "") -> keras.Model:
    """Copy as `reassemble` does, as an instance of the model's first class, which loads by its own code.

    Raises:
        ValueError: If that code creates other layers than the copy has.
    """
    model, parts, shell = anatomy.model, _copied(anatomy, replace, path), build_if_loadable(anatomy.model)
    if shell is None:
        copies = {id(variable): _variable_like(variable) for variable in own_variables(model)}
        return _assemble(type(model), model, parts, _state(model, class_config(model)), variables=copies)
    _check_code(shell, parts)
    return _fill(shell, type(shell), parts, _state(model, class_config(model)))


def _check_code(shell: keras.Model, plain: dict[AttributePath, keras.layers.Layer]) -> None:
    """Refuse a class whose code creates other layers than the plain ones: its stripped copy would not load."""
    for place, layer in held_layers(shell):
        if place in plain and not isinstance(layer, (keras.Model, type(plain[place]))):
            raise ValueError(
                f"Expected the code of {type(shell).__name__} to create plain layers. Received: {layer.name!r} of "
                f"type {type(layer).__name__}, without which the model does not load. Create plain layers, and wrap "
                f"the model with tfprune.wrap(model)."
            )


def replace_in_place(anatomy: Anatomy, replace: ReplacePart, *, path: str = "") -> None:
    """Replace layers of a subclassed model in the model itself, which need not have a configuration.

    Args:
        anatomy: Of a built subclassed model. It is uncompiled by this.
        replace: Called with path and anatomy of each layer; returns the replacement itself, built or with a
            `build()` that cannot fail, or None to keep the layer.
        path: The model's own path, which those of its layers begin with.
    """

    plan: list[tuple[Any, ...]] = []
    replacements: list[keras.layers.Layer] = []

    def look_at(anatomy: Anatomy, path: str) -> None:
        model = anatomy.model

        def part(layer: keras.layers.Layer) -> keras.layers.Layer:
            inner, inside = join_path(path, layer.name), anatomy.part(layer)
            if inside.kind is Kind.CODE:
                look_at(inside, inner)
                return layer
            replacement = replace(inner, inside)
            replacements.extend([] if replacement is None else [replacement])
            return replacement or layer

        can_load = is_loadable(model)
        origin = class_config(model) if can_load else {"build_config": model.get_build_config()}
        target_class = _holding(type(model)) if can_load else type(model)
        plan.append((model, target_class, each_once(model, part), _state(model, origin)))

    look_at(anatomy, path)
    for layer in replacements:  # only now, when nothing can fail any more: a build may change the layer inside
        if not layer.built:
            layer.build()
    for step in plan:
        _fill(*step)


def layer_pairs(anatomy: Anatomy, target: Any) -> Iterator[tuple[Anatomy, Any]]:
    """Yield the layers of a model with their counterparts in a copy, subclassed models as well as their layers."""
    if not anatomy.kind.has_graph:
        yield anatomy, target
    if anatomy.kind is Kind.FUNCTIONAL_SUBCLASS:
        beside = dict(held_layers(target))
        yield from ((anatomy.part(layer), beside[place]) for place, layer in beside_graph(anatomy))
    if anatomy.kind.has_graph:
        yield from (pair for children in _child_pairs(anatomy, target) for pair in layer_pairs(*children))
    elif anatomy.kind is Kind.CODE:
        parts = dict(held_layers(target))
        for place, child in held_layers(anatomy.model):
            yield from layer_pairs(anatomy.part(child), parts[place])


def _child_pairs(anatomy: Anatomy, copy: keras.Model) -> Iterator[tuple[Anatomy, Any]]:
    """Yield the layers of a graph with those of a copy: in order, or by name, as a graph called anew has another."""
    named = {child.name: child for child in copy.layers}
    own = [part for part in anatomy.parts if not isinstance(part.model, keras.layers.InputLayer)]
    if all(part.model.name in named for part in own):
        return ((part, named[part.model.name]) for part in own)
    return zip(anatomy.parts, copy.layers, strict=True)


def _state(model: Any, origin: dict[str, Any]) -> dict[str, Any]:
    return {"name": model.name, "built": model.built, "origin": origin, "trainable": model.trainable}


def _copied(anatomy: Anatomy, replace: ReplacePart, path: str) -> dict[AttributePath, keras.layers.Layer]:
    """Return copies of the layers that a model holds, some replaced."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        own_path, part = join_path(path, layer.name), anatomy.part(layer)
        if part.kind.is_spelled_out:
            return rebuild(part, lambda inner, inside: replace(join_path(own_path, inner), inside))
        replacement = replace(own_path, part)
        return replacement if isinstance(layer, keras.Model) and replacement else copy_of(replacement or layer)

    return each_once(anatomy.model, copied)


def _fill(
    model: keras.Model, model_class: Any, parts: dict[AttributePath, keras.layers.Layer], state: dict[str, Any]
) -> keras.Model:
    """Put other layers into a model, and make it one of another class; it is uncompiled by this."""
    return become(model, _assemble(model_class, model, parts, state))


def _variable_like(variable: keras.Variable) -> keras.Variable:
    value = keras.ops.copy(variable.value)
    return keras.Variable(value, trainable=variable.trainable, dtype=variable.dtype, name=variable.name)


def _assemble(
    model_class: Any,
    shell: keras.Model,
    parts: dict[AttributePath, keras.layers.Layer],
    state: dict[str, Any],
    *,
    variables: dict[int, keras.Variable] | None = None,
) -> keras.Model:
    """Build a model that has the attributes of another, with other layers in them."""
    held = dict(held_layers(shell))
    if held.keys() != parts.keys():
        differing = ", ".join(".".join(map(str, place)) for place in held.keys() ^ parts.keys())
        raise ValueError(
            f"Expected {model_class.__name__} to hold the same layers when it is built from its configuration. "
            f"Received: one where these differ: {differing}. Create layers in `__init__` or `build`, and return "
            f"every argument in `get_config`."
        )

    def new(place: AttributePath, value: Any) -> Any:
        if isinstance(value, keras.Variable):
            return (variables or {}).get(id(value), value)
        return parts.get(place, value)

    model = model_class.__new__(model_class)
    keras.Model.__init__(model, name=state["name"], trainable=state["trainable"], dtype=shell.dtype_policy)
    for name in ("supports_masking", "input_spec", "autocast"):
        setattr(model, name, getattr(shell, name))
    for name, value in own_attributes(shell).items():
        setattr(model, name, replace_nested((name,), value, new=new))
    vars(model)[ORIGIN] = state["origin"]  # past Keras, which would track a dict
    _build(model, state["origin"].get("build_config"))
    model.built = state["built"]
    return model


def _build(model: keras.Model, build_config: dict[str, Any] | None) -> None:
    """Build what layers without a `build` of their own hold, and let the model remember its shapes."""
    if not build_config:
        return
    if type(model).build is keras.Model.build:
        if not all(layer.built for _, layer in Anatomy.of(model).leaves):
            model.build_from_config(build_config)
        elif "input_shape" in build_config:
            model.build(build_config["input_shape"])
    vars(model)["get_build_config"] = functools.partial(dict, build_config)

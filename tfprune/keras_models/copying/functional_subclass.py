"""Copy a Functional subclass as an instance of its class, some layers replaced.

The class is asked for its configuration, and no layer inside is. The graph is called anew over the layers of a fresh
model, with wrappers around them; its attributes keep the layers themselves, which methods of the class call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfprune.keras_models.copying.change_class import become, saved_with
from tfprune.keras_models.copying.class_config import (
    Parts,
    build_from_class_config,
    check_same_weights,
    class_config,
    layer_states,
    plain_parts,
    set_layer_states,
)
from tfprune.keras_models.copying.held_layers import (
    ORIGIN,
    PARTS,
    AttributePath,
    beside_graph,
    copy_scalar_attributes,
    held_values,
    own_attributes,
    replace_nested,
)
from tfprune.keras_models.copying.rebuild import Replace, revive
from tfprune.keras_models.copying.refuse_quantize import lock_models
from tfprune.keras_models.copying.subclassed import replace_in_place
from tfprune.keras_models.copying.transparent_wrapper import TransparentWrapper
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.layers import join_path, walk


class _Retraced:
    """Mixed into the class of a copy: saves the wrappers in its graph, of which its code knows nothing."""

    def get_config(self) -> dict[str, Any]:
        wrappers = [
            [index, keras.saving.get_registered_name(type(wrapper)), wrapper.settings()]
            for index, wrapper in _wrappers(Anatomy.of(self)).items()
        ]
        return {"origin": vars(self)[ORIGIN], "states": layer_states(plain_parts(self)), "wrappers": wrappers}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        read = functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
        find = functools.partial(keras.saving.get_registered_object, custom_objects=custom_objects)
        model = build_from_class_config(config["origin"], read)
        set_layer_states(plain_parts(model), config["states"])
        again = _again(model, {index: (find(name), read(settings)) for index, name, settings in config["wrappers"]})
        copy = _retraced(Anatomy.of(model), again, config["origin"])
        lock_models(Anatomy.of(copy))
        return copy


keras.saving.register_keras_serializable(package="tfprune", name="AroundGraph")(_Retraced)


def replace_in_graph(anatomy: Anatomy, replace: Replace, *, path: str = "") -> keras.Model:
    """Return an uncompiled copy of a Functional subclass, some layers replaced; weights are not copied.

    Args:
        anatomy: Of a Functional subclass. It is left untouched.
        replace: Called with the path of each layer and its copy; returns what takes its place, such as a wrapper
            around it, or None to keep it.
        path: The model's own path, which those of its layers begin with.

    Raises:
        ValueError: If it has no configuration, or one that gives a model with other layers.
    """
    model, read = anatomy.model, keras.saving.deserialize_keras_object
    copy, wrappers = _fresh_copy(anatomy), _wrappers(anatomy).items()
    again = _again(copy, {index: (type(wrapper), read(wrapper.settings())) for index, wrapper in wrappers})

    def replaced(inner: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return replace(join_path(path, inner), layer) or again(inner, layer)

    return _retraced(Anatomy.of(copy), replaced, class_config(model))


def _wrappers(anatomy: Anatomy) -> dict[int, Any]:
    """Return the wrappers in a graph by the number of the layer inside among `plain_parts`."""
    wrappers = [layer for _, layer in anatomy.leaves if isinstance(layer, TransparentWrapper)]
    numbers = {id(part): index for index, part in enumerate(plain_parts(anatomy.model) if wrappers else ())}
    return {numbers[id(wrapper.layer)]: wrapper for wrapper in wrappers}


def _again(model: keras.Model, wrappers: dict[int, tuple[Any, dict[str, Any]]]) -> Replace:
    """Return the function that wraps the layers of a plain model as others were, by their numbers."""
    parts = plain_parts(model) if wrappers else []
    wanted = {id(parts[index]): wrapper for index, wrapper in wrappers.items()}

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if id(layer) not in wanted:
            return None
        wrapper, settings = wanted[id(layer)]
        return wrapper(layer, **settings)

    return replaced


def replace_in_live_graph(anatomy: Anatomy, replace: Replace) -> keras.Model:
    """Do what `replace_in_graph` does in the model itself, which keeps its weights, and return it."""
    return _retraced(anatomy, replace, class_config(anatomy.model))


def wrap_alike(model: keras.Model, wrappers: Mapping[int, Any]) -> dict[int, keras.layers.Layer]:
    """Put wrappers around layers of a model itself, with the settings of others; return them by the layer inside.

    Args:
        model: A Functional subclass.
        wrappers: Wrappers of another model, by the ids of the layers of this one.
    """
    added: dict[int, keras.layers.Layer] = {}

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        wrapper = wrappers.get(id(layer))
        if wrapper is not None:
            settings = keras.saving.deserialize_keras_object(wrapper.settings())
            added[id(layer)] = type(wrapper)(layer, **settings)
        return added.get(id(layer))

    if wrappers:
        replace_in_live_graph(Anatomy.of(model), replace)
        lock_models(Anatomy.of(model))
    return added


def restore_functional_subclass(anatomy: Anatomy, replace: Replace, *, path: str = "") -> keras.Model:
    """Copy as `replace_in_graph` does, as an instance of the model's first class, which loads by its own code.

    Raises:
        ValueError: If that code creates layers that would have to be replaced.
    """
    copy = _fresh_copy(anatomy)
    for inner, layer in Anatomy.of(copy).leaves:
        if replace(join_path(path, inner), layer) is not None:
            raise ValueError(
                f"Expected the code of {type(copy).__name__} to create plain layers. Received: {inner} of type "
                f"{type(layer).__name__}, without which the model does not load. Create plain layers, and wrap the "
                f"model with tfprune.wrap(model)."
            )
    return copy


def _fresh_copy(anatomy: Anatomy) -> keras.Model:
    copy = _built_anew(anatomy, origin=class_config(anatomy.model))
    check_same_weights(plain_parts(anatomy.model), plain_parts(copy))
    return copy


def fresh_copy(model: keras.Model, *, origin: dict[str, Any]) -> keras.Model:
    """Build a model as its class does, and give it what was set on the model later, weights aside.

    Args:
        model: A Functional subclass.
        origin: Its configuration, or one with other sizes.
    """
    return _built_anew(Anatomy.of(model), origin=origin)


def _built_anew(anatomy: Anatomy, *, origin: dict[str, Any]) -> keras.Model:
    model = anatomy.model
    copy = build_from_class_config(origin, lambda entry: revive(entry, model))
    parts, counterparts = plain_parts(model), plain_parts(copy)
    set_layer_states(counterparts, layer_states(parts))
    keep_what_is_beside(anatomy, copy)
    for part, counterpart in zip(parts, counterparts, strict=True):
        if isinstance(part, keras.Model):
            copy_scalar_attributes(part, counterpart)
    return copy


def keep_what_is_beside(anatomy: Anatomy, copy: Any) -> None:
    """Give a copy what stands beside the graph of a model of its class and has no weights."""
    model = anatomy.model
    weightless = {place: layer for place, layer in beside_graph(anatomy) if not layer.weights}
    for (name, *rest), layer in weightless.items():
        if not rest:  # a preprocessor, for example, whose vocabulary is no part of the configuration
            setattr(copy, name, layer)
    if hasattr(model, "sampler"):  # by which language models of KerasHub write, set by their `compile`
        copy.sampler = model.sampler


def _retraced(anatomy: Anatomy, replace: Replace, origin: dict[str, Any]) -> keras.Model:
    """Call the graph of a model, and of the models in it, anew in the model itself, some layers replaced."""
    model = anatomy.model
    ends = [(path, part) for path, part in anatomy.ends(lambda part: part.kind.has_graph)]
    leaves = [(path, part.model) for path, part in ends if part.kind is not Kind.CODE]
    replacements: dict[int, Any] = {id(layer): replace(path, layer) or layer for path, layer in leaves}

    def replaced(path: str, part: Anatomy) -> keras.layers.Layer | None:
        return stand_in(path, part) if part.kind.has_graph else replace(path, part.model)

    def stand_in(path: str, part: Anatomy) -> Any:
        if id(part.model) not in replacements:
            replacements[id(part.model)] = remade(path, part)
        return replacements[id(part.model)]

    def remade(path: str, part: Anatomy) -> Any:
        layer = part.model
        if part.kind is Kind.CODE:
            replace_in_place(part, replaced, path=path)
        if not part.kind.has_graph:
            return layer

        def call(inner: Any, *args: Any, **kwargs: Any) -> Any:
            return stand_in(join_path(path, inner.name), part.part(inner))(*args, **kwargs)

        if not part.kind.is_functional_subclass:
            return like(layer, called_anew(_functional(layer), call))
        config = origin if layer is model else class_config(layer)
        return _assemble(layer, call, origin=config, replacements=replacements)

    return become(model, remade("", anatomy))


def called_anew(graph: keras.Model, call: Callable) -> keras.Model:
    """Call the layers of a graph again, on inputs of the same open shapes; layers may say what shapes they return."""
    return keras.models.clone_model(graph, clone_function=lambda layer: layer, call_function=call)


def _functional(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Sequential):  # whose `input` is what it was called on
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def like(model: keras.Model, copy: keras.Model) -> keras.Model:
    """Give a copy what a model has besides its layers, and return it."""
    copy.dtype_policy = model.dtype_policy
    for name in ("supports_masking", "input_spec", "autocast"):
        setattr(copy, name, getattr(model, name))
    if not model.trainable:
        states = [(part, part.trainable) for _, part in walk(copy) if part is not copy]
        copy.trainable = False
        for part, trainable in states:  # which it has set, too
            if part.trainable != trainable:
                part.trainable = trainable
    return copy


def _assemble(
    model: keras.Model, call: Callable, *, origin: dict[str, Any], replacements: dict[int, Any]
) -> keras.Model:
    """Build an instance of a model's class over its graph, called anew, with its attributes."""
    parts = plain_parts(model)  # before a model among them is wrapped
    tensors = [tensor for _, tensor in held_values(model, keras.KerasTensor)]
    graph = called_anew(keras.Model(model.input, [model.output, tensors], name=model.name), call)
    outputs, counterparts = graph.output
    others = dict(zip(map(id, tensors), counterparts, strict=True))
    model_class: Any = type(model)
    derived = saved_with(_Retraced, getattr(model_class, "copied_class", model_class))
    copy = derived.__new__(derived)
    type(graph).__init__(copy, graph.input, outputs, name=model.name)  # keras.Model's is for classes not used yet

    def new(place: AttributePath, value: Any) -> Any:
        is_replaced = isinstance(value, keras.Model) or id(value) in others
        return {**replacements, **others}.get(id(value), value) if is_replaced else value

    for name, value in own_attributes(model).items():
        setattr(copy, name, replace_nested((name,), value, new=new))
    parts = [replacements.get(id(part), part) if isinstance(part, keras.Model) else part for part in parts]
    vars(copy).update({ORIGIN: origin, PARTS: Parts(parts)})  # past Keras, which would track them
    return like(model, copy)

"""Replace layers of a model in the model itself, or in a twin of it, by the way in which it is put together.

A graph is called anew over its layers, with others among them. A model whose code creates its layers gets others in
its attributes. A Functional subclass is called anew, too; its attributes keep the layers inside of wrappers, which
methods of the class call. The last two become instances of derived classes, which are saved with what their own
code does not make.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from tfprune.base.spec import ArgumentError
from tfprune.models.anatomy import Anatomy, Kind, walk
from tfprune.models.by_attributes import (
    ORIGIN,
    PARTS,
    AttributePath,
    RefusedMethod,
    become,
    each_once,
    forget_calls,
    held_layers,
    held_values,
    own_attributes,
    replace_nested,
)
from tfprune.models.graph import functional
from tfprune.models.twin import (
    Parts,
    TransparentWrapper,
    build_from_class_config,
    check_loadable,
    class_config,
    config_of,
    fill,
    is_loadable,
    layer_pairs,
    layer_states,
    plain_parts,
    set_layer_states,
    state_of,
    twin,
)

Replace = Callable[[str, keras.layers.Layer], keras.layers.Layer | None]
_Replacements = Mapping[int, keras.layers.Layer]  # by the id of the layer that is replaced


def copy_layers(anatomy: Anatomy, replace: Replace | None = None) -> Any:
    """Return an uncompiled copy of a model or layer, wrappers included; weights are not copied.

    Args:
        anatomy: As for `twin`. It is left untouched.
        replace: Called with the path of each layer and its copy, which is not built if it is a wrapper; returns the
            replacement, such as a wrapper around the copy, or None to keep the copy.

    Raises:
        ValueError: If it cannot be copied.
    """
    copy = twin(anatomy)
    paths = {id(layer): path for path, layer in anatomy.leaves}
    replacements: dict[int, keras.layers.Layer] = {}
    for part, counterpart in layer_pairs(anatomy, copy):
        layer = part.model
        if part.kind is Kind.LAYER and id(layer) in paths:
            path, kept = paths.pop(id(layer)), counterpart  # a layer may be held twice
            if isinstance(layer, TransparentWrapper):
                own = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
                kept = layer.around(counterpart, **own)
            replacement = replace(path, kept) if replace is not None else None
            if (new := kept if replacement is None else replacement) is not counterpart:
                replacements[id(counterpart)] = new
    if anatomy.kind is Kind.LAYER:
        result = replacements.get(id(copy), copy)
        if copy.built and not result.built:
            result.build_from_config({})
        return result
    if replacements:
        check_loadable(anatomy, copy)
        _replace(Anatomy.of(copy), replacements, is_twin=True)
    return copy


def replace_layers(anatomy: Anatomy, replacements: _Replacements) -> None:
    """Replace layers of a model, and of the models in it, in place; the model need not have a configuration.

    Args:
        anatomy: Of a built model. It is uncompiled by this.
        replacements: The replacement of each layer by its id, built or with a `build()` that cannot fail.

    Raises:
        ValueError: If code of the user's holds a layer where it cannot be replaced; the model is then as it was.
    """
    _check_held(anatomy)
    _replace(anatomy, replacements)


def _check_held(anatomy: Anatomy) -> None:
    """Refuse code that holds layers where they cannot be replaced."""
    if anatomy.kind is Kind.CODE:
        each_once(anatomy.model, lambda layer: layer)
    for part in anatomy.parts:
        if part.kind is not Kind.LAYER:
            _check_held(part)


def _replace(anatomy: Anatomy, replacements: _Replacements, *, is_twin: bool = False) -> None:
    if anatomy.kind is Kind.CODE:
        graphs: list[Anatomy] = []

        def replaced(part: Anatomy) -> keras.layers.Layer | None:
            if part.kind.has_graph:
                graphs.append(part)
            return replacements.get(id(part.model))

        _replace_in_code(anatomy, replaced)
        for part in graphs:  # whose owner no longer changes
            _replace(part, replacements, is_twin=is_twin)
    elif anatomy.kind is Kind.GRAPH:
        _replace_in_graph(anatomy, replacements, is_twin=is_twin)
    else:
        _replace_in_class(anatomy, replacements)


def _replace_in_graph(anatomy: Anatomy, replacements: _Replacements, *, is_twin: bool) -> None:
    """Call a graph anew; what remembers the calls of a twin before, as `layer.output` does, forgets them."""
    model: Any = anatomy.model
    for part in anatomy.parts:
        if part.kind is not Kind.LAYER:
            _replace(part, replacements, is_twin=is_twin)
    if not any(id(part.model) in replacements for part in anatomy.parts):
        return

    def replaced(layer: Any) -> Any:
        return replacements.get(id(layer), layer)

    if isinstance(model, keras.Sequential):
        start, layers = model.inputs if model.built else [], model.layers
        forget_calls(layers if is_twin else ())
        copy = keras.Sequential([*start, *map(replaced, layers)], name=model.name)
    else:
        graph = model if is_twin else functional(model)  # a class of the user's may keep more than the graph
        forget_calls(model.operations if is_twin else ())
        copy = _called_anew(graph, lambda layer, *args, **kwargs: replaced(layer)(*args, **kwargs))
    copy.__class__ = type(model)  # perhaps one with a training step of its own
    become(model, _like(model, copy))


def _called_anew(graph: Any, call: Callable) -> keras.Model:
    """Call the layers of a graph again, on its own inputs; layers may say what shapes they return."""
    return keras.models.clone_model(
        graph, input_tensors=graph.input, clone_function=lambda layer: layer, call_function=call
    )


def _like(model: keras.Model, copy: keras.Model) -> keras.Model:
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


def _replace_in_code(anatomy: Anatomy, replace: Callable[[Anatomy], keras.layers.Layer | None]) -> None:
    """Replace layers of a subclassed model in the model itself, which need not have a configuration.

    Args:
        anatomy: Of a built subclassed model. It is uncompiled by this.
        replace: Called with each layer; returns the replacement itself, built or with a `build()` that cannot fail,
            or None to keep the layer.
    """
    plan: list[tuple[Any, ...]] = []
    replacements: list[keras.layers.Layer] = []

    def look_at(anatomy: Anatomy) -> None:
        model = anatomy.model

        def part(layer: keras.layers.Layer) -> keras.layers.Layer:
            inside = anatomy.part(layer)
            if inside.kind is Kind.CODE:
                look_at(inside)
                return layer
            replacement = replace(inside)
            replacements.extend([] if replacement is None else [replacement])
            return layer if replacement is None else replacement

        can_load = is_loadable(model)
        origin = class_config(model) if can_load else {"build_config": model.get_build_config()}
        target_class = _holding(type(model)) if can_load else type(model)
        plan.append((model, target_class, each_once(model, part), state_of(model, origin)))

    look_at(anatomy)
    for layer in replacements:  # only now, when nothing can fail any more: a build may change the layer inside
        if not layer.built:
            layer.build()
    for step in plan:
        fill(*step)


class Remade:
    """Mixed into the class of a model that was changed: it is saved as what its class makes, and what was changed.

    Derived classes, each registered under its name in files, say what was changed, and change it in a fresh model.
    """

    def tfprune_plain_config(self) -> dict[str, Any]:
        """Return the configuration from which its class makes it."""
        return vars(self)[ORIGIN]

    def tfprune_changes(self) -> dict[str, Any]:
        """Return the rest of the configuration."""
        raise NotImplementedError

    @staticmethod
    def tfprune_change(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> Any:
        """Return a model with the changes in a configuration, given what its class makes."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"origin": self.tfprune_plain_config(), **self.tfprune_changes()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        model = build_from_class_config(config["origin"], reader(custom_objects))
        return cls.tfprune_change(model, config, custom_objects)


def reader(custom_objects: dict[str, Any] | None) -> Callable[[Any], Any]:
    """Return the function that builds what a configuration holds."""
    return functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)


class _Holding(Remade):
    """Saves the layers that a model holds, as its code would create others."""

    def tfprune_changes(self) -> dict[str, Any]:
        parts = [[list(place), config_of(part)] for place, part in held_layers(self)]
        return {**state_of(self, vars(self)[ORIGIN]), "parts": parts}

    @staticmethod
    def tfprune_change(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> Any:
        read = reader(custom_objects)
        parts = {tuple(place): read(part) for place, part in config["parts"]}
        copy = fill(model, _holding(type(model)), parts, config)
        lock_models(Anatomy.of(copy))
        return copy


keras.saving.register_keras_serializable(package="tfprune", name="Subclassed")(_Holding)


def _holding(model_class: Any) -> Any:
    """Return a subclass of a model's class whose instances are saved with the layers that they hold."""
    return model_class if issubclass(model_class, _Holding) else saved_with(_Holding, model_class)


class _Retraced(Remade):
    """Saves the wrappers in the graph of a model, of which its code knows nothing."""

    def tfprune_changes(self) -> dict[str, Any]:
        wrappers = [
            [index, keras.saving.get_registered_name(type(wrapper)), wrapper.settings()]
            for index, wrapper in _wrappers(Anatomy.of(self)).items()
        ]
        return {"states": layer_states(plain_parts(self)), "wrappers": wrappers}

    @staticmethod
    def tfprune_change(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> Any:
        read, parts = reader(custom_objects), plain_parts(model)
        find = functools.partial(keras.saving.get_registered_object, custom_objects=custom_objects)
        set_layer_states(parts, config["states"])
        wrappers = {
            id(parts[index]): find(name)(parts[index], **read(settings))
            for index, name, settings in config["wrappers"]
        }
        _replace_in_class(Anatomy.of(model), wrappers, origin=config["origin"])
        lock_models(Anatomy.of(model))
        return model


keras.saving.register_keras_serializable(package="tfprune", name="AroundGraph")(_Retraced)


def _wrappers(anatomy: Anatomy) -> dict[int, Any]:
    """Return the wrappers in a graph by the number of the layer inside among `plain_parts`."""
    wrappers = [layer for _, layer in anatomy.leaves if isinstance(layer, TransparentWrapper)]
    numbers = {id(part): index for index, part in enumerate(plain_parts(anatomy.model) if wrappers else ())}
    return {numbers[id(wrapper.layer)]: wrapper for wrapper in wrappers}


def wrap_alike(model: keras.Model, wrappers: Mapping[int, Any]) -> dict[int, keras.layers.Layer]:
    """Put wrappers around layers of a model itself, with the settings of others; return them by the layer inside.

    Args:
        model: A Functional subclass.
        wrappers: Wrappers of another model, by the ids of the layers of this one.
    """
    layers = Anatomy.of(model)
    added = {id(layer): wrappers[id(layer)].around(layer) for _, layer in layers.leaves if id(layer) in wrappers}
    if added:
        _replace_in_class(layers, added)
        lock_models(Anatomy.of(model))
    return added


def _replace_in_class(anatomy: Anatomy, replacements: _Replacements, *, origin: dict[str, Any] | None = None) -> None:
    """Call the graph of a Functional subclass, and of the models in it, anew in the model itself.

    Args:
        anatomy: Of a Functional subclass.
        replacements: As in `replace_layers`.
        origin: The configuration that its class makes it from; None asks the class.
    """
    model = anatomy.model
    origin = class_config(model) if origin is None else origin
    ends = [part for _, part in anatomy.ends(lambda part: part.kind.has_graph)]
    leaves = [part.model for part in ends if part.kind is not Kind.CODE]
    made: dict[int, Any] = {id(layer): replacements.get(id(layer), layer) for layer in leaves}

    def replaced(part: Anatomy) -> keras.layers.Layer | None:
        return stand_in(part) if part.kind.has_graph else replacements.get(id(part.model))

    def stand_in(part: Anatomy) -> Any:
        if id(part.model) not in made:
            made[id(part.model)] = remade(part)
        return made[id(part.model)]

    def remade(part: Anatomy) -> Any:
        layer = part.model
        if part.kind is Kind.CODE:
            _replace_in_code(part, replaced)
        if not part.kind.has_graph:
            return layer

        def call(inner: Any, *args: Any, **kwargs: Any) -> Any:
            return stand_in(part.part(inner))(*args, **kwargs)

        if not part.kind.is_functional_subclass:
            graph = functional(layer) if isinstance(layer, keras.Sequential) else layer
            return _like(layer, _called_anew(graph, call))
        return _assemble(layer, call, origin=origin if layer is model else class_config(layer), replacements=made)

    become(model, remade(anatomy))


def _assemble(
    model: keras.Model, call: Callable, *, origin: dict[str, Any], replacements: dict[int, Any]
) -> keras.Model:
    """Build an instance of a model's class over its graph, called anew, with its attributes."""
    parts = plain_parts(model)  # before a model among them is wrapped
    tensors = [tensor for _, tensor in held_values(model, keras.KerasTensor)]
    graph = _called_anew(keras.Model(model.input, [model.output, tensors], name=model.name), call)
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
    return _like(model, copy)


def derive(base: Any, *mixins: Any, suffix: str = "", **members: Any) -> Any:
    """Return a class like another one, with the members of mixins and others before its own."""
    return type(base.__name__ + suffix, (*mixins, base), {"__module__": base.__module__, **members})


@functools.cache
def saved_with(mixin: Any, model_class: Any, *, suffix: str = "") -> Any:
    """Return a subclass of a model's class whose instances are saved as a registered mixin says."""
    derived = derive(model_class, mixin, suffix=suffix, __doc__=model_class.__doc__, copied_class=model_class)
    package, _, name = keras.saving.get_registered_name(mixin).partition(">")
    return keras.saving.register_keras_serializable(package=package, name=name)(derived)


@contextmanager
def classes_changed(layers: Iterable[Any], change: Callable[[Any], Any]) -> Iterator[None]:
    """Make layers instances of other classes within the context.

    Args:
        layers: The layers.
        change: Called with each class, once; returns the other one.
    """
    classes = [(layer, type(layer)) for layer in layers]
    changed = {kind: change(kind) for kind in {kind for _, kind in classes}}
    try:
        for layer, kind in classes:
            layer.__class__ = changed[kind]
        yield
    finally:
        for layer, kind in classes:
            layer.__class__ = kind


_CALLS = {"quantize": "quantize(mode)", "enable_lora": "enable_lora(rank)"}


def lock(layer: keras.layers.Layer) -> None:
    """Make `quantize` and `enable_lora` raise on a masked layer and everything inside it."""
    for _, part in walk(layer):
        _refuse(part, f"layer {part.name!r}, whose weights are under masks")


def lock_models(anatomy: Anatomy) -> None:
    """Make them raise on models that hold wrappers, too: these would change the layers before the first wrapper.

    A plain Functional or Sequential model that was loaded from a file is not locked: its layers refuse one by one.
    """
    for _, part in anatomy.nodes:
        if isinstance(part.model, keras.Model):
            masked = next((path for path, layer in part.every if isinstance(layer, TransparentWrapper)), None)
            if masked is not None:
                _refuse(part.model, f"model {part.model.name!r}, where weights of {masked!r} are under masks")


def _refuse(part: keras.layers.Layer, received: str) -> None:
    for name, call in _CALLS.items():
        if callable(getattr(part, name, None)):
            setattr(part, name, RefusedMethod(_raise, name, call, received))


def _raise(name: str, call: str, received: str, /, *args: object, **kwargs: object) -> None:
    raise ArgumentError(
        name,
        f"a model without masks for `{name}`",
        found=received,
        advice=f"Strip first: tfprune.strip(model).{call}.",
    )

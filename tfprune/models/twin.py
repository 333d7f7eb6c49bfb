"""A twin: a fresh plain model of the user's class, built as the model was built, without wrappers and weights.

A layer is built from its configuration, and a graph from those of its layers; a layer without one is copied by its
attributes. A Functional subclass is built by its class, from its arguments. A model whose code creates its layers
is built by that code, and its attributes get copies of the layers. Layers of a twin have the names of the
originals, and train as they do. The values of weights are another step: `copy_variables`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.models.anatomy import (
    UNCONFIGURED,
    Anatomy,
    Kind,
    is_of_keras,
    kind_of,
    paired,
    quantized_already,
    train_alike,
    unbuilt,
    walk,
)
from tfprune.models.by_attributes import (
    ORIGIN,
    PARTS,
    AttributePath,
    become,
    beside_graph,
    copy_by_attributes,
    copy_scalar_attributes,
    each_once,
    held_layers,
    is_configurable,
    own_attributes,
    own_variables,
    reason_of,
    replace_nested,
)

_Configure = Callable[[keras.layers.Layer], dict[str, Any]]

_LIVE = "tfprune_live"  # in a configuration: the id of the layer that is copied by its attributes


def twin(anatomy: Anatomy) -> Any:
    """Return a fresh, uncompiled copy of a model or layer without wrappers; weights are not copied.

    Args:
        anatomy: Of a model or layer. It is left untouched. A model is built, or a Sequential one that its first
            batch builds.

    Raises:
        ValueError: If it cannot be built anew, or its own code creates wrappers.
    """
    ways: dict[Kind, tuple[Callable[[Anatomy], Any], ...]] = {
        Kind.FUNCTIONAL_SUBCLASS: (_twin_by_class, _twin_by_configuration),
        Kind.PLAIN_SUBCLASS: (_twin_by_configuration, _twin_by_class),
    }
    refusals = []
    for way in ways.get(anatomy.kind, (_twin_of_part,)):
        try:
            result = way(anatomy)
        except ValueError as error:
            refusals.append(error)
        else:
            _be_alike(anatomy, result)
            return result
    raise refusals[0]


def _twin_of_part(anatomy: Anatomy) -> Any:
    """Return the twin of a layer, or of a model within another one."""
    if anatomy.kind is Kind.LAYER:
        return copy_of(layer_inside(anatomy.model))
    if anatomy.kind is Kind.CODE:
        return _twin_by_code(anatomy)
    return (_twin_by_configuration if anatomy.kind.is_spelled_out else _twin_by_class)(anatomy)


def _be_alike(anatomy: Anatomy, copy: Any) -> None:
    """Give the layers of a twin the names of the layers, and let them train as they do."""
    for part, counterpart in layer_pairs(anatomy, copy):
        if part.kind is Kind.LAYER:
            pairs = paired(layer_inside(part.model), layer_inside(counterpart))
            if counterpart.built:
                train_alike(pairs)
            for layer, other in pairs:
                other.name = layer.name  # Keras numbers layers anew in each copy


def layer_pairs(anatomy: Anatomy, target: Any) -> Iterator[tuple[Anatomy, Any]]:
    """Yield the layers of a model with their counterparts in a copy, subclassed models as well as their layers."""
    if not anatomy.kind.has_graph:
        yield anatomy, target
    if anatomy.kind is Kind.FUNCTIONAL_SUBCLASS:
        beside = dict(held_layers(target))
        others = ((place, layer) for place, layer in beside_graph(anatomy) if place in beside)
        yield from ((anatomy.part(layer), beside[place]) for place, layer in others)
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


class TransparentWrapper(keras.layers.Wrapper):
    """Answers what Keras asks about a layer as the layer inside does, and can be put around a copy of that layer."""

    layer: Any

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the layer, as a configuration holds them."""
        raise NotImplementedError

    def around(self, layer: keras.layers.Layer, **arguments: Any) -> TransparentWrapper:
        """Return such a wrapper, with other arguments where some are given, around a layer."""
        raise NotImplementedError

    def get_build_config(self) -> dict[str, Any] | None:
        return self.layer.get_build_config() if _builds_itself(self.layer) else None

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if "training" not in inspect.signature(self.layer.call).parameters:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    @property
    def supports_masking(self) -> bool:
        return self.layer.supports_masking

    @supports_masking.setter
    def supports_masking(self, value: bool) -> None:
        self.layer.supports_masking = value


def layer_inside(layer: Any) -> Any:
    """Return the layer in a wrapper, anything else as it is."""
    return layer.layer if isinstance(layer, TransparentWrapper) else layer


def _twin_by_configuration(anatomy: Anatomy) -> keras.Model:
    """Build a graph from the configurations of its layers."""
    return _with_live_layers(anatomy.graph, functools.partial(_rebuild, anatomy))


def _rebuild(anatomy: Anatomy, configure: _Configure) -> keras.Model:
    config = configure(anatomy.graph)
    config.pop("compile_config", None)
    _spell_out(anatomy, config, configure)
    for path, part in anatomy.configured:
        entry, layer = _entry(config, path), layer_inside(part.model)
        if part.kind is not Kind.LAYER:
            for name in ("build_config", "compile_config"):
                entry.pop(name, None)
            entry.update(registered_name=_Copied.NAME, config={"copied": _Copied(_twin_of_part(part))})
        else:
            entry.update({} if layer is part.model else configure(layer))
            _inline(layer, entry["config"])
    copy = revive(config, anatomy.graph)
    _restore_names(anatomy, copy)
    changed = dict(anatomy.configured).keys() ^ dict(Anatomy.of(copy).configured).keys()
    if changed:
        raise ValueError(
            f"Expected model {anatomy.model.name!r} to be the same when it is rebuilt from its configuration. "
            f"Received: one where these differ: {', '.join(sorted(changed))}. A layer that is shared between a model "
            f"and a model nested in it loses the sharing, in Keras' own save and load too; call it from one of them "
            f"only."
        )
    return copy


class _SequentialInOnePass:
    """Takes the place of Sequential in configurations: Keras' own calls all layers anew for each that it adds."""

    NAME = "tfprune>SequentialInOnePass"

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Sequential:
        layers = [
            keras.saving.deserialize_keras_object(entry, custom_objects=custom_objects) for entry in config["layers"]
        ]
        model = keras.Sequential(layers, name=config["name"])
        if not model.built and config.get("build_input_shape"):
            model.build(config["build_input_shape"])
        return model


class _Copied:
    """Takes the place of a class in configurations: the copy is there already."""

    NAME = "tfprune>Copied"

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Copied:
        return self

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.layers.Layer:
        return config["copied"]._layer


def _spell_out(anatomy: Anatomy, config: dict[str, Any], configure: _Configure) -> None:
    """Put into the configuration of a graph what it may leave out: a name for each entry, the layers of graphs."""
    if type(anatomy.graph) is keras.Sequential:
        config["registered_name"] = _SequentialInOnePass.NAME
    for child, entry in zip(reversed(_children(anatomy.graph)), reversed(config["config"]["layers"]), strict=False):
        entry["name"] = child.name  # beside the arguments, as not every layer takes a name among them
    for part in anatomy.parts:
        if part.kind.is_spelled_out:
            entry = _entry(config, part.model.name)
            if part.graph is not part.model:
                entry.update(configure(part.graph))
            _spell_out(part, entry, configure)


def _children(model: Any) -> list[Any]:
    return model.layers if isinstance(model, keras.Sequential) else model.operations


def _restore_names(anatomy: Anatomy, copy: keras.Model) -> None:
    """Give the layers of a copy their names back where their own configuration does not hold them."""
    for child, counterpart in zip(_children(anatomy.graph), _children(copy), strict=False):
        if counterpart.name != child.name and isinstance(child, keras.layers.Layer):
            counterpart.name = child.name
        if anatomy.part(child).kind.is_spelled_out and kind_of(counterpart).has_graph:
            _restore_names(anatomy.part(child), counterpart)


def _inline(layer: keras.layers.Layer, config: dict[str, Any]) -> None:
    """Put into a layer's configuration what Keras would lose: the names a lambda uses, an adapted vocabulary."""
    _inline_lambda(layer, config)
    if hasattr(layer, "get_vocabulary"):
        config["vocabulary"] = layer.get_vocabulary(include_special_tokens=False)


def _inline_lambda(layer: keras.layers.Layer, config: dict[str, Any]) -> None:
    if isinstance(layer, keras.layers.Lambda) and isinstance(layer.function, types.FunctionType):
        name = _lambda_name(layer)
        config["function"] = {"module": "builtins", "class_name": "function", "config": name, "registered_name": name}


def copy_of(layer: keras.layers.Layer, *, changes: Mapping[str, Any] | None = None) -> keras.layers.Layer:
    """Return a copy of a layer, built if the layer is; weights are not copied.

    Args:
        layer: The layer.
        changes: Arguments of other values, a dict for a layer inside; the copy is then not built.

    Raises:
        ValueError: If it cannot be copied.
    """

    def build(configure: _Configure) -> Any:
        config = configure(layer)
        _inline_lambda(layer, config["config"])
        if changes is not None:
            config.pop("build_config", None)
            _change(config["config"], changes)
        return revive(config, layer)

    copy = _with_live_layers(layer, build) if changes is None else build(config_of)
    if hasattr(layer, "get_vocabulary"):
        copy.set_vocabulary(layer.get_vocabulary(include_special_tokens=False))
    return copy


def _change(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            config[name].pop("build_config", None)
            _change(config[name]["config"], value)
        else:
            config[name] = value


def config_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the configuration that Keras saves of a layer or model, what cannot build it left out."""
    try:
        config = keras.saving.serialize_keras_object(layer)
    except UNCONFIGURED as error:
        raise ValueError(
            f"Expected {layer.name!r} to have a configuration, from which its copy is built. Received: "
            f"{reason_of(error)}."
        ) from None
    if not _builds_itself(layer):
        config.pop("build_config", None)
    return config


def _with_live_layers(source: keras.layers.Layer, build: Callable[[_Configure], Any]) -> Any:
    """Build from configurations; where that fails, with copies of the live layers that have none."""
    try:
        return build(config_of)
    except ValueError:
        if all(is_configurable(part) for _, part in walk(source)):
            raise
    return build(_live_config_of)


def _live_config_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the configuration of which `revive` makes a copy now: it refers to live layers that have none."""
    bare = [part for _, part in walk(layer) if not is_configurable(part)]
    try:
        for part in bare:
            vars(part)["get_config"] = functools.partial(dict, {_LIVE: id(part), "name": part.name})
        return config_of(layer)
    finally:
        for part in bare:
            del vars(part)["get_config"]


def _copy_live(config: Any, layers: Mapping[int, keras.layers.Layer]) -> None:
    """Copy the layers to which a configuration refers, and put the copies into it."""
    inner = config.get("config") if isinstance(config, dict) else None
    if isinstance(inner, dict) and _LIVE in inner:
        copied = _Copied(copy_by_attributes(layers[inner[_LIVE]], _built_copy_of))
        config.update(registered_name=_Copied.NAME, config={"copied": copied})
    elif isinstance(config, (dict, list, tuple)):
        for item in config.values() if isinstance(config, dict) else config:
            _copy_live(item, layers)


def _built_copy_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Copy a layer with all of its weights, though it may be one that creates them when it is called."""
    try:
        copy = copy_of(layer)
    except ValueError:  # its configuration has the arguments, but Keras refuses them
        if is_of_keras(layer):
            raise
    else:
        if len(copy.variables) == len(layer.variables):
            return copy
    return copy_by_attributes(layer, _built_copy_of)


def _builds_itself(layer: keras.layers.Layer) -> bool:
    """Return True if a layer can be built from a shape; one without `build` gets its weights when it is called."""
    return type(layer).build is not keras.layers.Layer.build or isinstance(layer, keras.Model)


def revive(config: dict[str, Any], source: keras.layers.Layer) -> Any:
    """Build a layer or model from a configuration made of live ones, whose custom classes and functions it uses."""
    objects = _custom_objects(source, config)
    objects.update({kind.NAME: kind for kind in (_SequentialInOnePass, _Copied)})
    _copy_live(config, {id(part): part for _, part in walk(source)})
    # Code in a configuration that was written a moment ago from live objects is the user's own: safe_mode=False.
    try:
        return keras.saving.deserialize_keras_object(config, custom_objects=objects, safe_mode=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Expected {source.name!r} to be rebuilt from its configuration, as Keras' own save and load do. "
            f"Received one that Keras refuses: {_root_cause(error)}. Let each `__init__` take **kwargs and pass them "
            f"to super().__init__(**kwargs), return all its arguments in `get_config`, and name the functions passed "
            f"to layers: a lambda as an activation cannot be rebuilt."
        ) from None  # Keras' own message repeats the whole configuration at every level


def _root_cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:300]


def _entry(config: dict[str, Any], path: str) -> dict[str, Any]:
    """Find a layer's configuration by its path in the configuration of a model."""
    for name in path.split("/"):
        config = next(entry for entry in config["config"]["layers"] if entry.get("name") == name)
    return config


def _lambda_name(layer: keras.layers.Lambda) -> str:
    """Return the name of a lambda layer's function in configurations: one of its own."""
    return f"{layer.function.__name__}_of_{layer.name}_{id(layer)}"


def _custom_objects(source: keras.layers.Layer, config: Any) -> dict[str, Any]:
    """Return the user's classes and functions that a layer is or holds, by the name Keras saves.

    Args:
        source: The layer, or model.
        config: What is built with them, a configuration of Keras.

    Raises:
        ValueError: If two of them have a name that the configuration mentions: Keras would take one for the other.
    """
    mentioned = set(_texts(config))
    objects: dict[str, Any] = {}
    for name, thing in named_things(source):
        if objects.setdefault(name, thing) is not thing and name in mentioned:
            raise ValueError(
                f"Expected custom classes and functions to have different names. Received: two called {name!r} in "
                f"{source.name!r}, which Keras cannot tell apart when it rebuilds or loads the model. Rename one."
            )
    return objects


def _texts(config: Any) -> Iterator[str]:
    """Yield every text in a configuration."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list, tuple)):
        for item in config.values() if isinstance(config, dict) else config:
            yield from _texts(item)


def named_things(model: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the user's classes and functions that the layers of a model are or hold, by the name in its copies."""
    for _, layer in walk(model):
        # A function over a method of the class is Keras' wrapper around it, not an argument of the layer.
        arguments = {
            name: value
            for name, value in vars(layer).items()
            if _may_be_custom(value) and not callable(getattr(type(layer), name, None))
        }
        if isinstance(layer, keras.layers.Lambda) and isinstance(arguments.pop("function", None), types.FunctionType):
            yield _lambda_name(layer), layer.function
        for value in (layer, *arguments.values()):
            # A copy of a subclassed model has a class of its own, and is made by the user's.
            thing = value if isinstance(value, types.FunctionType) else getattr(value, "copied_class", type(value))
            is_custom = hasattr(thing, "get_config") or isinstance(thing, types.FunctionType)
            if is_custom and not thing.__module__.startswith("keras."):
                yield keras.saving.get_registered_name(thing), thing


def _may_be_custom(value: Any) -> bool:
    return isinstance(value, types.FunctionType) or type(value).__module__ != "builtins"


def _twin_by_class(anatomy: Anatomy) -> keras.Model:
    """Build a Functional subclass as its class does.

    Raises:
        ValueError: If it has no configuration, one that gives a model with other layers, or code that creates
            wrappers.
    """
    copy = _built_by_class(anatomy, class_config(anatomy.model))
    counterparts = plain_parts(copy)
    _check_same_weights(plain_parts(anatomy.model), counterparts)
    _check_plain(copy, [part for part in counterparts if isinstance(part, TransparentWrapper)])
    return copy


def _check_plain(model: keras.Model, created: Sequence[keras.layers.Layer]) -> None:
    """Refuse a class whose code creates wrappers: its stripped copy would not load."""
    for layer in created:
        raise ValueError(
            f"Expected the code of {type(model).__name__} to create plain layers. Received: {layer.name!r} of type "
            f"{type(layer).__name__}, without which the model does not load. Create plain layers, and wrap the model "
            f"with tfprune.wrap(model)."
        )


def fresh_copy(model: keras.Model, *, origin: dict[str, Any]) -> keras.Model:
    """Build a model as its class does, and give it what was set on the model later, weights aside.

    Args:
        model: A Functional subclass.
        origin: Its configuration, or one with other sizes.
    """
    return _built_by_class(Anatomy.of(model), origin)


def _built_by_class(anatomy: Anatomy, origin: dict[str, Any]) -> keras.Model:
    model = anatomy.model
    copy = _built_anew(model, origin)
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


def class_config(model: keras.Model) -> dict[str, Any]:
    """Return the configuration of a model as its own code gives it, and the shapes that it was built with."""
    config = vars(model).get(ORIGIN) or config_of(model)
    return {name: value for name, value in config.items() if name != "compile_config"}


def build_from_class_config(origin: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> keras.Model:
    """Build a model as its class does; one with a `build` of its own creates its layers there.

    Args:
        origin: What `class_config` returned.
        read: Builds a model from a configuration.
    """
    origin = copy.deepcopy(origin)  # as a `from_config` may take it apart
    entry = {name: value for name, value in origin.items() if name != "build_config"}
    model = read(entry)
    if not model.built and type(model).build is not keras.Model.build:
        model.build_from_config(origin.get("build_config"))
    return model


def _built_anew(model: keras.Model, origin: dict[str, Any]) -> keras.Model:
    """Build a model as its class does, with custom classes and functions that are in the model."""
    return build_from_class_config(origin, lambda entry: revive(entry, model))


def is_loadable(model: keras.Model) -> bool:
    """Return True if a subclassed model can be built from its configuration."""
    return "config" in vars(model)[ORIGIN] if ORIGIN in vars(model) else _build_if_loadable(model) is not None


def _build_if_loadable(model: keras.Model) -> keras.Model | None:
    """Return a subclassed model built from its configuration; None if it cannot be."""
    if ORIGIN in vars(model):
        config = vars(model)[ORIGIN]
        return _built_anew(model, config) if "config" in config else None
    try:
        return _built_anew(model, class_config(model))
    except ValueError:
        return None


def layer_states(parts: Sequence[keras.layers.Layer]) -> list[list[Any]]:
    """Return of each layer of `plain_parts`: name, whether it trains, rank and scale of its LoRA factors."""
    return [
        [part.name, part.trainable, getattr(part, "lora_rank", None), getattr(part, "lora_alpha", None)]
        for part in parts
    ]


def _check_same_weights(parts: Sequence[keras.layers.Layer], counterparts: Sequence[keras.layers.Layer]) -> None:
    """Refuse a copy of a model, built from its configuration, that has other weights.

    Args:
        parts: What `plain_parts` returns of the model.
        counterparts: The same of the copy.

    Raises:
        ValueError: Naming the first layer that differs.
    """
    for part, counterpart in zip(parts, counterparts, strict=True):
        shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in (part, counterpart)]
        if shapes[0] != shapes[1] and not isinstance(part, keras.Model):  # which may hold masks, too
            raise ValueError(
                f"Expected {type(parts[0]).__name__} to have the same weights when it is built from its "
                f"configuration. Received: {part.name!r} with weights of shapes {shapes[1]} where it has "
                f"{shapes[0]}. Return every argument in `get_config`."
            )


def set_layer_states(parts: Sequence[Any], states: Sequence[Sequence[Any]]) -> None:
    """Give the layers of a model, `plain_parts`, that was made from the same configuration the same states.

    Raises:
        ValueError: If it has other layers.
    """
    if len(parts) != len(states):
        raise ValueError(
            f"Expected {type(parts[0]).__name__} to have the same layers when it is built from its configuration. "
            f"Received: {len(parts)} where it has {len(states)}. Return every argument in `get_config`."
        )
    for part, (name, trainable, _, _) in zip(parts, states, strict=True):
        part.name = name
        if part.trainable != trainable:  # sets those inside, too, which come later
            part.trainable = trainable
    for part, (_, _, rank, alpha) in zip(parts, states, strict=True):
        if rank is not None and not getattr(part, "lora_enabled", False):  # freezes the kernel, so it comes last
            part.enable_lora(rank, lora_alpha=alpha)


def plain_parts(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model as its class made them, in the order in which it makes them."""
    parts = vars(model).get(PARTS)
    return parts.layers if parts else [part for _, part in walk(model)]


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a copy that `plain_parts` returns; not a list, so that Keras does not save it."""

    layers: list[keras.layers.Layer]


def _twin_by_code(anatomy: Anatomy) -> keras.Model:
    """Run the code that creates the layers of a model, and put copies of its layers into the attributes.

    A model that was wrapped in place, and that cannot be built from its configuration, is copied by its attributes.
    """
    model = anatomy.model
    parts = each_once(model, lambda layer: _twin_of_part(anatomy.part(layer)))
    shell, origin = _build_if_loadable(model), _class_config(model)
    if shell is None:
        copies = {id(variable): _variable_like(variable) for variable in own_variables(model)}
        state = state_of(model, {"build_config": origin.get("build_config")})
        return _assemble(type(model), model, parts, state, variables=copies)
    for place, layer in held_layers(shell):
        if place in parts and not isinstance(layer, (keras.Model, type(parts[place]))):
            _check_plain(shell, [layer])
    return fill(shell, type(shell), parts, state_of(model, origin))


def _class_config(model: keras.Model) -> dict[str, Any]:
    try:
        return class_config(model)
    except ValueError as error:
        raise ValueError(f"{error}{_OR_IN_PLACE}") from None


_OR_IN_PLACE = ". Or wrap the model itself: tfprune.wrap(model, in_place=True)."


def check_loadable(anatomy: Anatomy, copy: Any) -> None:
    """Refuse a twin that could not be loaded with wrappers, as the code of a model in it does not build it.

    Raises:
        ValueError: Saying what is wrong with the configuration.
    """
    for part, counterpart in layer_pairs(anatomy, copy):
        if part.kind is Kind.CODE and not is_loadable(counterpart):
            try:
                _built_anew(part.model, class_config(part.model))
            except ValueError as error:
                raise ValueError(f"{error}{_OR_IN_PLACE}") from None


def state_of(model: Any, origin: dict[str, Any]) -> dict[str, Any]:
    """Return what a model has besides attributes and layers: what `fill` sets."""
    return {"name": model.name, "built": model.built, "origin": origin, "trainable": model.trainable}


def fill(
    model: keras.Model, model_class: Any, parts: dict[AttributePath, keras.layers.Layer], state: dict[str, Any]
) -> keras.Model:
    """Put other layers into a model, and make it one of another class; it is uncompiled by this.

    Args:
        model: A model whose code creates its layers.
        model_class: The class that it gets.
        parts: Its layers from now on, by place.
        state: What `state_of` returned, or a configuration that holds the same.
    """
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


def copy_variables(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Assign every variable of a layer, seeds included, to its counterpart in a copy of the layer.

    Raises:
        ValueError: If the two do not have the same variables.
    """
    pairs = paired(source, target)
    train_alike(pairs)
    copy_all(source.variables, target.variables, source=source)
    for layer, counterpart in pairs:
        counterpart.name = layer.name  # Keras numbers layers anew in each copy
    _finish(pairs)


def set_values(source: keras.layers.Layer, target: keras.layers.Layer, *, values: Sequence[np.ndarray]) -> None:
    """Give a copy of a layer with other sizes the values of its variables, and let it train as the layer does."""
    pairs = paired(source, target)
    train_alike(pairs)
    for variable, value in zip(target.variables, values, strict=True):
        variable.assign(value)
    _finish(pairs)


def _finish(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Let layers derive what they keep besides their variables, once these have their values."""
    for _, counterpart in pairs:
        if isinstance(counterpart, keras.layers.Normalization):  # which derives constants from its variables
            counterpart.finalize_state()


def check_copy_of(layer: keras.layers.Layer) -> None:
    """Refuse a layer that cannot be copied by its configuration, or whose copy has other variables.

    Raises:
        ValueError: Saying what is wrong with its configuration.
    """
    copy = copy_of(layer)
    if not unbuilt(copy):  # some layers create their weights when they are called
        _check_same_variables(layer.variables, copy.variables, source=layer)


def _check_same_variables(
    variables: Sequence[keras.Variable], counterparts: Sequence[keras.Variable], *, source: keras.layers.Layer
) -> None:
    """Refuse a copy of a layer, `source`, that has other variables.

    Raises:
        ValueError: If their number or shapes differ.
    """
    if [variable.shape for variable in variables] != [counterpart.shape for counterpart in counterparts]:
        raise ValueError(
            f"Expected layer {source.name!r} ({type(source).__name__}) to have the same variables when it is rebuilt "
            f"from its configuration. Received: {len(counterparts)} where it has {len(variables)}. "
            + (
                quantized_already(source)
                or "Create all variables in `__init__` or `build`, and return every argument in `get_config`."
            )
        )


def copy_all(
    variables: Sequence[keras.Variable], counterparts: Sequence[keras.Variable], *, source: keras.layers.Layer
) -> None:
    """Assign variables of a layer, `source`, to as many others of the same shapes."""
    _check_same_variables(variables, counterparts, source=source)
    for variable, counterpart in zip(variables, counterparts, strict=True):
        # On JAX both would hold one buffer, which training gives away.
        counterpart.assign(keras.ops.copy(variable.value))

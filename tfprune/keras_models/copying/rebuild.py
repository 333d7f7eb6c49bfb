"""Copy a model with some of its layers replaced, its weights and everything else kept."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfprune.keras_models.copying.copy_by_attributes import copy_by_attributes, is_configurable, reason_of
from tfprune.keras_models.copying.custom_objects import custom_objects, lambda_name
from tfprune.keras_models.models.anatomy import UNCONFIGURED, Anatomy, kind_of
from tfprune.keras_models.models.layers import is_of_keras, walk

Replace = Callable[[str, keras.layers.Layer], keras.layers.Layer | None]
ReplacePart = Callable[[str, Anatomy], keras.layers.Layer | None]
_Configure = Callable[[keras.layers.Layer], dict[str, Any]]

_LIVE = "tfprune_live"  # in a configuration: the id of the layer that is copied by its attributes


def rebuild(anatomy: Anatomy, replace: ReplacePart) -> keras.Model:
    """Return an uncompiled copy of a graph model in which some layers are replaced; weights are not copied.

    Args:
        anatomy: Of a built model that has a graph. It is left untouched.
        replace: Called with path and anatomy of each layer, and of each model that its own class or code builds;
            returns the replacement, of which only the configuration is used, or None to keep a copy of the layer.

    Raises:
        ValueError: If the model cannot be rebuilt from its configuration.
    """
    return _with_live_layers(anatomy.graph, functools.partial(_rebuild, anatomy, replace))


def _rebuild(anatomy: Anatomy, replace: ReplacePart, configure: _Configure) -> keras.Model:
    config = configure(anatomy.graph)
    config.pop("compile_config", None)
    _spell_out(anatomy, config, configure)
    replacements = []
    for path, part in anatomy.configured:
        _inline(part.model, _entry(config, path)["config"])
        replacement = replace(path, part)
        if replacement is not None:
            _entry(config, path).update(configure(replacement))
            replacements.append(replacement)
    copy = revive(config, anatomy.graph, replacements=replacements)
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
        name = lambda_name(layer)
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
    if not builds_itself(layer):
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


def builds_itself(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer can be built from a shape; one without `build` gets its weights when it is called."""
    return type(layer).build is not keras.layers.Layer.build or isinstance(layer, keras.Model)


def revive(
    config: dict[str, Any], source: keras.layers.Layer, *, replacements: Sequence[keras.layers.Layer] = ()
) -> Any:
    """Build a layer or model from a configuration made of live ones, whose custom classes and functions it uses."""
    objects = custom_objects([source, *replacements], config)
    objects.update({kind.NAME: kind for kind in (_SequentialInOnePass, _Copied)})
    _copy_live(config, {id(part): part for root in (source, *replacements) for _, part in walk(root)})
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

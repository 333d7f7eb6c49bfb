"""Exchange layers deep inside a model of a class for smaller ones; the model is saved with them.

The code of a class makes all blocks alike, of the sizes that its arguments give. Where blocks keep different numbers
of heads or units, their layers are exchanged, and the numbers that their code reads are set. Other settings are set
as well, such as the window of a block that has another index now.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfprune.compact.same_class.removed_branches import without_branch
from tfprune.keras_models.copying.by_attributes import become_part
from tfprune.keras_models.copying.in_place import Remade, derive, reader, saved_with
from tfprune.keras_models.copying.twin import class_config, config_of
from tfprune.keras_models.models.anatomy import Kind, kind_of
from tfprune.keras_models.models.layers import sublayers, walk

_SIZES = "tfprune_sizes"  # where a resized model keeps what was exchanged
_ORIGIN = "tfprune_made_from"  # where it keeps what class it was made by
_SUFFIX = "OfUnequalBlocks"  # of the name of its class, by which a task of KerasHub refuses to export it
_SHOWN = 2  # layers that differ from block to block, in an error
_HEADS = "tfprune_heads"  # where an attention layer keeps the number of its heads in a cache


@dataclass(frozen=True)
class Exchange:
    """How a model differs from what its code builds, by the index of a layer in `walk`.

    Attributes:
        parts: The layers that others become.
        numbers: The attributes of layers to set.
        heads: How many heads of a cache are a layer's own.
        branches: Layers whose code is left out, as all layers inside of them are removed; each is 1.
    """

    parts: dict[int, keras.layers.Layer] = field(default_factory=dict)
    numbers: dict[int, dict[str, Any]] = field(default_factory=dict)
    heads: dict[int, int] = field(default_factory=dict)
    branches: dict[int, int] = field(default_factory=dict)

    def moved(self, places: Mapping[int, int]) -> Exchange:
        """Return the changes to the layers in `places`, renumbered."""

        def renumbered(values: dict[int, Any]) -> dict[int, Any]:
            return {places[index]: value for index, value in values.items() if index in places}

        return Exchange(*map(renumbered, (self.parts, self.numbers, self.heads, self.branches)))

    def __or__(self, later: Exchange) -> Exchange:
        joined = {name: values | vars(later)[name] for name, values in vars(self).items()}
        numbers = {index: self.numbers.get(index, {}) | own for index, own in later.numbers.items()}
        return Exchange(**{**joined, "numbers": self.numbers | numbers})


class Resized(Remade):
    """Saves what was exchanged in a model."""

    def tfprune_plain_config(self) -> dict[str, Any]:
        arguments = super(Remade, self).get_config()  # type: ignore[misc]
        return {**vars(self)[_ORIGIN], "config": arguments}

    def tfprune_changes(self) -> dict[str, Any]:
        sizes: Exchange = vars(self)[_SIZES]
        layers = [layer for _, layer in walk(self)]
        parts = {str(index): _as_made(config_of(layers[index])) for index in sizes.parts}
        plain = {
            name: {str(index): value for index, value in values.items()}
            for name, values in vars(sizes).items()
            if name != "parts"
        }
        return {"parts": parts, **plain}

    @staticmethod
    def tfprune_change(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> Any:
        read = reader(custom_objects)
        exchange = Exchange(
            {int(index): read(part) for index, part in config["parts"].items()},
            {int(index): numbers for index, numbers in config["numbers"].items()},
            {int(index): count for index, count in config["heads"].items()},
            {int(index): count for index, count in config.get("branches", {}).items()},  # none in older files
        )
        resize([layer for _, layer in walk(model)], exchange)
        return model

    def save_to_preset(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("a preset")

    def export_to_transformers(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("the configuration of a Transformers model")

    def _refuse(self, target: str) -> None:
        name = type(self).__name__.removesuffix(_SUFFIX)
        sizes: Exchange = vars(self)[_SIZES]
        if sizes.parts or sizes.heads or sizes.branches:
            received = f"in which some layers are smaller: {_differing(self, name)}"
            otherwise = (
                f" Or remove the same number of units and heads from each block, of the kinds that the arguments of "
                f"{name} count: tfprune.shrink(model, plan, uniform=True)."
            )
        else:
            settings = ", ".join(sorted({setting for own in sizes.numbers.values() for setting in own}))
            received, otherwise = f"with blocks of other settings ({settings}) than its arguments give them", ""
        raise ValueError(
            f"Expected a model that its arguments describe, as {target} holds nothing else. Received: a {name} "
            f"{received}. Call save('model.keras'), and import keras and then tfprune before "
            f"keras.models.load_model.{otherwise}"
        )


keras.saving.register_keras_serializable(package="tfprune", name="Resized")(Resized)


def _differing(model: Any, name: str) -> str:
    """Say which layers differ from block to block."""
    shapes: dict[str, dict[tuple[int, ...], str]] = {}
    for path, layer in walk(model):
        if layer.weights and not sublayers(layer):
            role = re.sub(r"\d+", "*", path)
            shapes.setdefault(role, {}).setdefault(tuple(layer.weights[0].shape), path)
    unequal = [paths for paths in shapes.values() if len(paths) > 1]
    if not unequal:
        return f"all blocks are equal, but no argument of {name} counts what was removed"
    listed = [" and ".join(f"{path} has {shape}" for shape, path in list(paths.items())[:2]) for paths in unequal]
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more


def replace_methods(model: Any, **methods: Callable[..., None]) -> None:
    """Let methods of one model, where it has them, be others that raise an error."""
    for name, method in methods.items():
        if hasattr(model, name):
            vars(model)[name] = method  # past Keras, which keeps a record of attributes


def _as_made(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer without LoRA, which Keras adds to the kernel that it saves."""
    arguments = {name: value for name, value in config["config"].items() if not name.startswith("lora_")}
    return {**config, "config": arguments}


def resize(layers: Sequence[keras.layers.Layer], exchange: Exchange) -> None:
    """Let layers of a model become others, and set numbers.

    A model of a class that holds such layers, itself or inside of a model of a class, is saved with them from now on.

    Args:
        layers: The model, a Functional subclass that is the caller's own, and all layers below it, as in `walk`.
        exchange: What to exchange; the parts are built, and used up.
    """
    model = layers[0]
    owners = [layer for layer in layers if layer is model or kind_of(layer) is Kind.FUNCTIONAL_SUBCLASS]
    origins = [vars(owner).get(_ORIGIN) or class_config(owner) for owner in owners]
    for index, part in exchange.parts.items():
        become_part(layers[index], part)
    for index, numbers in exchange.numbers.items():
        vars(layers[index]).update(numbers)  # past Keras, which locks a built layer
    for index, count in exchange.heads.items():
        vars(layers[index])[_HEADS] = count
        attention: Any = type(layers[index])
        layers[index].__class__ = _with_own_heads(attention)
    for index in exchange.branches:
        inner_class: Any = type(layers[index])
        layers[index].__class__ = without_branch(inner_class)
    left = {id(layer): index for index, layer in enumerate(layers)}
    for owner, origin in reversed(list(zip(owners, origins, strict=True))):  # the innermost first
        inside = enumerate(layer for _, layer in walk(owner))
        own = exchange.moved({left.pop(id(layer)): place for place, layer in inside if id(layer) in left})
        if own != Exchange():
            _keep(owner, own, origin)
            if owner is not model:  # a task, which writes the arguments of its backbone
                replace_methods(
                    model,
                    save_to_preset=owner.save_to_preset,
                    export_to_transformers=owner.export_to_transformers,
                )


def _keep(model: keras.Model, exchange: Exchange, origin: dict[str, Any]) -> None:
    """Make a model one of a class that is saved with what was exchanged."""
    vars(model).update({_SIZES: vars(model).get(_SIZES, Exchange()) | exchange, _ORIGIN: origin})
    model_class: Any = type(model)
    is_resized = issubclass(model_class, Resized)
    model.__class__ = model_class if is_resized else saved_with(Resized, model_class, suffix=_SUFFIX)


def has_cache(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer's call takes a cache of keys and values, as KerasHub's attention does."""
    return "cache" in inspect.signature(layer.call).parameters


def own_heads(layer: keras.layers.Layer, count: int) -> int:
    """Return how many heads of a cache an attention layer uses, of the `count` that its model has for all layers."""
    return vars(layer).get(_HEADS, count)


@functools.cache
def _with_own_heads(layer_class: Any) -> Any:
    """Return a subclass of an attention's class that uses the first heads of a cache, which all layers share."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(layer_class.call).bind(self, *args, **kwargs)
        cache, count = bound.arguments.get("cache"), vars(self)[_HEADS]
        if cache is None or keras.tree.flatten(cache)[0].shape[-2] == count:  # none, or one of its own
            return layer_class.call(*bound.args, **bound.kwargs)
        bound.arguments["cache"] = keras.tree.map_structure(lambda part: part[..., :count, :], cache)
        *others, own = layer_class.call(*bound.args, **bound.kwargs)
        return (*others, keras.tree.map_structure(functools.partial(_put_back, count), own, cache))

    call.__signature__ = inspect.signature(layer_class.call)  # type: ignore[attr-defined]
    return derive(layer_class, call=call)


def _put_back(count: int, own: Any, cache: Any) -> Any:
    return keras.ops.concatenate([own, cache[..., count:, :]], axis=-2)

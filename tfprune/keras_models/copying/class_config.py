"""What a model was made from: the configuration that its own code gives, and what was set on its layers later."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.copying.held_layers import ORIGIN, PARTS
from tfprune.keras_models.copying.rebuild import config_of, revive
from tfprune.keras_models.models.layers import walk


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


def is_loadable(model: keras.Model) -> bool:
    """Tell whether a subclassed model can be built from its configuration."""
    return "config" in vars(model)[ORIGIN] if ORIGIN in vars(model) else build_if_loadable(model) is not None


def build_if_loadable(model: keras.Model) -> keras.Model | None:
    """Return a subclassed model built from its configuration; None if it cannot be."""
    if ORIGIN in vars(model):
        config = vars(model)[ORIGIN]
        return build_from_class_config(config, lambda entry: revive(entry, model)) if "config" in config else None
    try:
        return build_from_class_config(class_config(model), lambda entry: revive(entry, model))
    except ValueError:
        return None


def layer_states(parts: Sequence[keras.layers.Layer]) -> list[list[Any]]:
    """Return of each layer of `plain_parts`: name, whether it trains, rank and scale of its LoRA factors."""
    return [
        [part.name, part.trainable, getattr(part, "lora_rank", None), getattr(part, "lora_alpha", None)]
        for part in parts
    ]


def check_same_weights(parts: Sequence[keras.layers.Layer], counterparts: Sequence[keras.layers.Layer]) -> None:
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
    """What `plain_parts` returns of a copy; no list, so that Keras does not save it."""

    layers: list[keras.layers.Layer]

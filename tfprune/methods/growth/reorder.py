"""A model with its blocks in another order: of the same class if its arguments allow it, else a Functional model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import keras

from tfprune.compact.same_class.class_arguments import build_with_arguments, dicts_in
from tfprune.compact.same_class.exchanged import Exchange, Resized, resize
from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.keras_models.copying.in_place import wrap_alike
from tfprune.keras_models.copying.twin import (
    build_from_class_config,
    class_config,
    copy_variables,
    keep_what_is_beside,
    layer_inside,
    revive,
)
from tfprune.keras_models.models.anatomy import Anatomy, Kind, kind_of
from tfprune.keras_models.models.layers import paired, rename, walk
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.tracing.same_outputs import Tolerance, same_outputs
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.reordered_model import ReorderedModel, reorder_as_graph

_WORDS_FOR_A_COUNT_OF_BLOCKS = ("layers", "depth", "blocks")  # in the names of arguments
_TOLERANCE = Tolerance(of_largest=1e-4, absolute=1e-10)


def reorder(blocks: Blocks, order: Sequence[int]) -> ReorderedModel:
    """Build a model of some blocks, each as often as it is named, one after the other.

    Args:
        blocks: The blocks of a model.
        order: The numbers of the blocks.

    Raises:
        ValueError: If a layer cannot be copied.
    """
    reason = ""
    if kind_of(blocks.copy) is Kind.FUNCTIONAL_SUBCLASS:
        try:
            return reorder_as_class(blocks, order)
        except NoClass as why:
            reason = str(why)
    try:
        return reorder_as_graph(blocks, order, reason=reason)
    except ValueError as error:
        if not reason:
            raise
        raise ValueError(f"{error} A model of class {type(blocks.copy).__name__} cannot be had: {reason}.") from None


def reorder_as_class(blocks: Blocks, order: Sequence[int]) -> ReorderedModel:
    """Build a model of the same class by other arguments, with weights, masks and latent values.

    Raises:
        NoClass: If its arguments cannot say how many blocks there are, or it would compute something else.
    """
    model = blocks.copy
    if any(isinstance(layer, Resized) for _, layer in walk(model)):
        raise NoClass("some of its layers have other sizes than its arguments say")
    reasons = [f"no argument of {type(model).__name__} counts its {len(blocks.blocks)} blocks"]
    for config in _configurations(class_config(model), len(blocks.blocks), order):
        try:
            return _built_from(blocks, order, config)
        except NoClass as why:
            reasons.append(str(why))
    raise NoClass(reasons[1] if len(reasons) > 1 else reasons[0])


def _configurations(origin: dict[str, Any], count: int, order: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the configuration with another number of blocks, for each argument that may count them.

    A list with as many entries may have one for each block, or something else: both are tried.
    """
    for index, arguments in enumerate(dicts_in(origin["config"])):
        for name, value in arguments.items():
            if type(value) is int and value == count and any(word in name for word in _WORDS_FOR_A_COUNT_OF_BLOCKS):
                plain = deepcopy(origin)
                list(dicts_in(plain["config"]))[index][name] = len(order)
                reordered = deepcopy(plain)
                _reorder_lists(reordered["config"], count, order)
                yield from (plain, reordered)[: 1 + (reordered != plain)]


def _reorder_lists(config: dict[str, Any], count: int, order: Sequence[int]) -> None:
    """Bring lists that have an entry for each block into the order of the blocks."""
    for arguments in list(dicts_in(config)):
        for name, value in arguments.items():
            if isinstance(value, (list, tuple)) and len(value) == count:
                arguments[name] = [value[number] for number in order]


def _built_from(blocks: Blocks, order: Sequence[int], config: dict[str, Any]) -> ReorderedModel:
    model = blocks.copy
    try:
        new = build_with_arguments(model, config, build=_fresh)
    except NoClass as why:
        raise NoClass(f"its class does not take {len(order)} blocks: {why}") from None
    keep_what_is_beside(Anatomy.of(model), new)
    names = [layer.name for _, layer in walk(new)]
    pairs = _pairs(blocks, order, blocks.flatten(new))
    rename(new, names)
    parts = [part for _, part in walk(new)]
    places = {id(part): index for index, part in enumerate(parts)}
    settings: dict[int, dict[str, Any]] = {}
    for layer, counterpart in pairs.values():
        settings |= {places[key]: own for key, own in _own_settings(layer_inside(layer), counterpart).items()}
        _name_alike(layer_inside(layer), counterpart)
    if settings:
        resize(parts, Exchange(numbers=settings))
    wrapped = wrap_alike(
        new, {id(plain): layer for layer, plain in pairs.values() if layer_inside(layer) is not layer}
    )
    layers: dict[tuple[int, int | None], Any] = {}
    for key, (layer, plain) in pairs.items():
        layers[key] = wrapped.get(id(plain), plain)
        own_names = [part.name for _, part in walk(layers[key])]
        copy_variables(layer, layers[key])
        rename(layers[key], own_names)
    new.name = model.name
    reordered = ReorderedModel(new, blocks, order, layers, "class")
    _check_outputs(reordered, has_own_settings=bool(settings))
    return reordered


def _name_alike(layer: keras.layers.Layer, counterpart: keras.layers.Layer) -> None:
    """Give what is inside of a layer the names that masks find it by: Keras numbers some anew in each block."""
    inner_names = [part.name for _, part in walk(layer)][1:]
    rename(counterpart, [counterpart.name, *inner_names])


def _fresh(model: keras.Model, *, origin: dict[str, Any]) -> keras.Model:
    return build_from_class_config(origin, lambda entry: revive(entry, model))


def _pairs(
    blocks: Blocks, order: Sequence[int], flat: keras.Model
) -> dict[tuple[int, int | None], tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return each layer with its counterpart in a new model, by its id and the index of the block, or None."""
    new = {layer.name: layer for layer in _without_inputs(flat)}
    names = blocks.names()
    pairs: dict[tuple[int, int | None], tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    for index, number in enumerate(order):
        for call, name_at in zip(blocks.blocks[number].calls, names, strict=True):
            if not isinstance(call.layer, keras.layers.Layer):
                continue
            name = name_at(index) if name_at else ""
            if name not in new:
                raise NoClass(f"its class names no layer at place {index} as it names {call.layer.name!r}")
            pairs[id(call.layer), index] = call.layer, new.pop(name)
    inside = {id(call.layer) for block in blocks.blocks for call in block.calls}
    rest = [layer for layer in _without_inputs(blocks.graph.model) if id(layer) not in inside]
    others = list(new.values())
    if [type(layer_inside(layer)) for layer in rest] != [type(layer) for layer in others]:
        raise NoClass(
            f"its class makes {len(others)} layers around {len(order)} blocks, where there were {len(rest)}"
        )
    return pairs | {(id(layer), None): (layer, other) for layer, other in zip(rest, others, strict=True)}


def _without_inputs(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _own_settings(layer: keras.layers.Layer, other: keras.layers.Layer) -> dict[int, dict[str, Any]]:
    """Return what a layer has set otherwise than its class sets it at its new index, by the id of the new part.

    An example is a window, which some classes use in every other block.

    Raises:
        NoClass: If the layer has weights of other shapes there.
    """
    pairs = paired(layer, other)
    if are_alike := all(type(part) is type(counterpart) for part, counterpart in pairs):
        train_alike(pairs)  # LoRA has weights of its own
    shapes = [[tuple(weight.shape) for weight in side.weights] for side in (layer, other)]
    if not are_alike or shapes[0] != shapes[1]:
        raise NoClass(f"its class makes {other.name!r} with weights of other shapes than {layer.name!r}")
    own: dict[int, dict[str, Any]] = {}
    for part, counterpart in pairs:
        old, new = _settings(part), _settings(counterpart)
        if differing := {name: old[name] for name in sorted(old.keys() & new.keys()) if old[name] != new[name]}:
            own[id(counterpart)] = differing
    return own


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the numbers and texts among the attributes of a layer, without its names and states."""
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, _SETTING_TYPES) and name not in _STATES
    }


_SETTING_TYPES = (bool, int, float, str, type(None))
_STATES = ("name", "built", "trainable", "autocast", "lora_rank", "lora_alpha", "lora_enabled")


def _check_outputs(reordered: ReorderedModel, *, has_own_settings: bool) -> None:
    """Refuse a model that returns something else than its blocks do, such as an output of each."""
    source = reordered.source.graph.model
    length = usable_length(source)
    if length is None and has_own_settings:
        raise NoClass("its class makes blocks with other settings, and what these change cannot be run")
    if length is None:
        return
    numbers = numbers_for(source.input, length=length)
    returned = reordered.model(numbers, training=False)
    expected = reordered.source.run(reordered.order, inputs=keras.tree.flatten(numbers)).outputs
    if not same_outputs(returned, expected, tolerance=_TOLERANCE):
        raise NoClass("its class returns something else than its blocks one after the other")

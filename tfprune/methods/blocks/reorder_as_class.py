"""A model of the same class with the blocks of another one, in another order: by other arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import keras

from tfprune.compact.same_class.class_arguments import NoClass, build_with_arguments, dicts_in
from tfprune.compact.same_class.exchanged import is_resized
from tfprune.keras_models.copying.class_config import build_from_class_config, class_config
from tfprune.keras_models.copying.functional_subclass import keep_what_is_beside, wrap_alike
from tfprune.keras_models.models.layers import rename, walk
from tfprune.keras_models.models.rebuild import copy_variables, revive
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.methods.blocks.block import layer_inside
from tfprune.methods.blocks.find_blocks import Blocks
from tfprune.methods.blocks.names import numbered_names
from tfprune.methods.blocks.reordered_model import Arranged
from tfprune.methods.blocks.run import run

_COUNTS = ("layers", "depth", "blocks")  # words in the names of arguments that count blocks


def arranged_class(found: Blocks, order: Sequence[int]) -> Arranged:
    """Return a model of the same class with weights, masks and latent values.

    Raises:
        NoClass: If its arguments cannot say how many blocks there are, or it would compute something else.
    """
    model = found.copy
    if is_resized(model):
        raise NoClass("some of its layers have other sizes than its arguments say")
    reasons = [f"no argument of {type(model).__name__} counts its {len(found.blocks)} blocks"]
    for config in _configurations(class_config(model), len(found.blocks), order):
        try:
            return _made(found, order, config)
        except NoClass as why:
            reasons.append(str(why))
    raise NoClass(reasons[1] if len(reasons) > 1 else reasons[0])


def _configurations(origin: dict[str, Any], count: int, order: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the configuration with another number of blocks, for each argument that may count them.

    A list with as many entries may have one for each block, or something else: both are tried.
    """
    for index, arguments in enumerate(dicts_in(origin["config"])):
        for name, value in arguments.items():
            if type(value) is int and value == count and any(word in name for word in _COUNTS):
                plain = deepcopy(origin)
                list(dicts_in(plain["config"]))[index][name] = len(order)
                reordered = deepcopy(plain)
                _reorder(reordered["config"], count, order)
                yield from (plain, reordered)[: 1 + (reordered != plain)]


def _reorder(config: dict[str, Any], count: int, order: Sequence[int]) -> None:
    """Bring lists that have an entry for each block into the order of the blocks."""
    for arguments in list(dicts_in(config)):
        for name, value in arguments.items():
            if isinstance(value, (list, tuple)) and len(value) == count:
                arguments[name] = [value[number] for number in order]


def _made(found: Blocks, order: Sequence[int], config: dict[str, Any]) -> Arranged:
    model = found.copy
    try:
        new = build_with_arguments(model, config, build=_fresh)
    except NoClass as why:
        raise NoClass(f"its class does not take {len(order)} blocks: {why}") from None
    keep_what_is_beside(model, new)
    names = [layer.name for _, layer in walk(new)]
    pairs = _pairs(found, order, found.flat(new))
    rename(new, names)
    for (key, layer), counterpart in pairs.items():
        _check_same(layer_inside(layer), counterpart, key)
    wrappers = {id(plain): layer for (_, layer), plain in pairs.items() if layer_inside(layer) is not layer}
    wrapped = wrap_alike(new, wrappers)
    layers: dict[tuple[int, int | None], Any] = {}
    for ((_, place), layer), plain in pairs.items():
        own = wrapped.get(id(plain), plain)
        own_names = [part.name for _, part in walk(own)]
        copy_variables(layer, own)
        rename(own, own_names)
        layers[id(layer), place] = own
    new.name = model.name
    made = Arranged(new, found, order, layers, "class")
    _check_outputs(made)
    return made


def _fresh(model: keras.Model, *, origin: dict[str, Any]) -> keras.Model:
    return build_from_class_config(origin, lambda entry: revive(entry, model))


def _pairs(found: Blocks, order: Sequence[int], flat: keras.Model) -> dict[Any, keras.layers.Layer]:
    """Return the layer of a new model for each layer of the old one and its place, None outside of blocks."""
    new = {layer.name: layer for layer in flat.layers if not isinstance(layer, keras.layers.InputLayer)}
    named = numbered_names(found)
    pairs: dict[Any, keras.layers.Layer] = {}
    inside = set()
    for block in found.blocks:
        inside |= {id(call.layer) for call in block.calls}
    for place, number in enumerate(order):
        for call, name_at in zip(found.blocks[number].calls, named, strict=True):
            if not isinstance(call.layer, keras.layers.Layer):
                continue
            name = name_at(place) if name_at else ""
            if name not in new:
                raise NoClass(f"its class names no layer at place {place} as it names {call.layer.name!r}")
            pairs[(id(call.layer), place), call.layer] = new.pop(name)
    old = [layer for layer in found.graph.model.layers if not isinstance(layer, keras.layers.InputLayer)]
    rest = [layer for layer in old if id(layer) not in inside]
    others = list(new.values())
    if [type(layer_inside(layer)) for layer in rest] != [type(layer) for layer in others]:
        raise NoClass(
            f"its class makes {len(others)} layers around {len(order)} blocks, where there were {len(rest)}"
        )
    pairs.update({((id(layer), None), layer): other for layer, other in zip(rest, others, strict=True)})
    return pairs


def _check_same(layer: keras.layers.Layer, other: keras.layers.Layer, key: Any) -> None:
    """Refuse a layer that is made in another way at its new place, such as with a window in every other block."""
    own = [[tuple(weight.shape) for weight in one.weights] for one in (layer, other)]
    if type(layer) is not type(other) or own[0] != own[1]:
        raise NoClass(f"its class makes {other.name!r} with weights of other shapes than {layer.name!r}")
    for (_, part), (_, counterpart) in zip(walk(layer), walk(other), strict=False):
        one, two = _settings(part), _settings(counterpart)
        differing = sorted(name for name in one.keys() & two.keys() if one[name] != two[name])
        if differing:
            name = differing[0]
            raise NoClass(
                f"its class makes {other.name!r} with {name}={two[name]!r}, where {layer.name!r} has {one[name]!r}"
            )


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the numbers and texts that a layer holds, its names and states aside."""
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, _PLAIN) and name not in _STATES
    }


_PLAIN = (bool, int, float, str, type(None))
_STATES = ("name", "built", "trainable", "autocast", "lora_rank", "lora_alpha", "lora_enabled")


def _check_outputs(made: Arranged) -> None:
    """Refuse a model that returns something else than its blocks do, such as an output of each."""
    source = made.found.graph.model
    length = usable_length(source)
    if length is None:
        return
    numbers = keras.tree.flatten(numbers_for(source.input, length=length))
    ours = keras.tree.flatten(made.model(keras.tree.pack_sequence_as(source.input, numbers), training=False))
    theirs = run(made.found, made.order, inputs=numbers).outputs
    arrays = [[keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in side] for side in (ours, theirs)]
    if len(ours) != len(theirs) or not all(map(_is_close, *arrays)):
        raise NoClass("its class returns something else than its blocks one after the other")


def _is_close(one: Any, other: Any) -> bool:
    return one.shape == other.shape and abs(one - other).max(initial=0) <= 1e-4 * max(abs(other).max(initial=0), 1e-6)

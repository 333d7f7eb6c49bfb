"""Build a model or layer anew with another number of experts; its weights are another step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import keras

from tfprune.compact.same_class.class_arguments import dicts_in
from tfprune.keras_models.copying.in_place import copy_layers, wrap_alike
from tfprune.keras_models.copying.twin import (
    TransparentWrapper,
    class_config,
    config_of,
    fresh_copy,
    plain_parts,
    revive,
)
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.layers import walk
from tfprune.methods.experts.moe_layers import MoeLayer


def set_expert_count(source: Anatomy, layers: Sequence[MoeLayer], *, sizes: Mapping[str, tuple[int, int]]) -> Any:
    """Build a model or layer with another number of experts, wrappers included; weights are not copied.

    Args:
        source: A built model or layer.
        layers: Its layers with experts.
        sizes: For each of them, by its path, the number of experts that it gets, and how many of them are used for
            each input.

    Raises:
        ValueError: If it cannot be built anew, or one configuration would need several numbers of experts.
    """

    def changed(config: dict[str, Any], held: Sequence[MoeLayer]) -> dict[str, Any]:
        config = deepcopy(config)
        counts = {layer.path: sizes[layer.path][0] for layer in held}
        if len({sizes[layer.path] for layer in held}) > 1:
            raise ValueError(
                f"Expected the same number of experts in all layers of {source.model.name!r}, as one argument of its "
                f"class counts them. Received: {counts}. Keep {max(counts.values())} in each."
            )
        for layer in held:
            names = layer.rule.count_argument, layer.rule.top_k_argument
            before = dict(zip(names, (layer.experts, layer.top_k), strict=True))
            _change(config, before, dict(zip(names, sizes[layer.path], strict=True)))
        return config

    root = source.model
    if not isinstance(root, keras.Model):
        return revive(changed(config_of(root), layers), root)
    if source.kind is Kind.CODE:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass. Received: {root.name!r} "
            f"of class {type(root).__name__}, whose code creates its layers. Pass its layers one by one."
        )
    if source.kind is Kind.FUNCTIONAL_SUBCLASS:
        return _of_class(source, changed(class_config(root), layers))
    with_experts, before = {id(layer.layer): layer for layer in layers}, dict(source.leaves)

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        own = before[path]
        held = [with_experts[id(part)] for _, part in walk(own) if id(part) in with_experts]
        return revive(changed(config_of(own), held), own) if held else None

    return copy_layers(source, replace)


def _change(config: Any, before: dict[str, int], after: dict[str, int]) -> None:
    """Change the numbers wherever a configuration has all of the old ones."""
    for arguments in dicts_in(config):
        if all(type(arguments.get(name)) is int and arguments[name] == value for name, value in before.items()):
            arguments.update(after)


def _of_class(source: Anatomy, config: dict[str, Any]) -> keras.Model:
    new = fresh_copy(source.model, origin=config)
    counterparts = dict(zip(map(id, plain_parts(source.model)), plain_parts(new), strict=True))
    wrappers = [layer for _, layer in source.leaves if isinstance(layer, TransparentWrapper)]
    wrap_alike(new, {id(counterparts[id(wrapper.layer)]): wrapper for wrapper in wrappers})
    return new

"""Build a model or layer anew with another number of experts; its weights are another step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import keras

from tfprune.compact.same_class.class_arguments import dicts_in
from tfprune.keras_models.copying.class_config import class_config, plain_parts
from tfprune.keras_models.copying.copy_model import copy_model
from tfprune.keras_models.copying.functional_subclass import fresh_copy, wrap_alike
from tfprune.keras_models.copying.rebuild import config_of, revive
from tfprune.keras_models.copying.transparent_wrapper import TransparentWrapper
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.layers import walk
from tfprune.methods.experts.moe_layers import MoeLayer


def set_expert_count(source: Anatomy, layers: Sequence[MoeLayer], *, experts: int, top_k: int) -> Any:
    """Build a model or layer with another number of experts, wrappers included; weights are not copied.

    Args:
        source: A built model or layer.
        layers: Its layers with experts.
        experts: The number of experts that each of them gets.
        top_k: The number of experts that are used for each input.

    Raises:
        ValueError: If it cannot be built anew.
    """

    def changed(config: dict[str, Any]) -> dict[str, Any]:
        config = deepcopy(config)
        for layer in layers:
            before = {layer.rule.count_argument: layer.experts, layer.rule.top_k_argument: layer.top_k}
            _change(config, before, {layer.rule.count_argument: experts, layer.rule.top_k_argument: top_k})
        return config

    root = source.model
    if not isinstance(root, keras.Model):
        return revive(changed(config_of(root)), root)
    if source.kind is Kind.CODE:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass. Received: {root.name!r} "
            f"of class {type(root).__name__}, whose code creates its layers. Pass its layers one by one."
        )
    if source.kind is Kind.FUNCTIONAL_SUBCLASS:
        return _of_class(source, changed(class_config(root)))
    with_experts = {id(layer.layer) for layer in layers}

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        has_experts = any(id(part) in with_experts for _, part in walk(layer))
        return revive(changed(config_of(layer)), layer) if has_experts else None

    return copy_model(source, replace)


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

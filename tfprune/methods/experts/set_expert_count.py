"""A model or layer built anew with other numbers of experts; its weights are another step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import keras

from tfprune.compact.same_class.class_arguments import dicts_in
from tfprune.keras_models.copying.class_config import class_config
from tfprune.keras_models.copying.copy_model import copy_model
from tfprune.keras_models.copying.functional_subclass import fresh_copy, wrap_alike
from tfprune.keras_models.copying.layer_states import Around, plain_parts
from tfprune.keras_models.models.anatomy import Anatomy, Kind, kind_of
from tfprune.keras_models.models.layers import walk
from tfprune.keras_models.models.rebuild import config_of, revive
from tfprune.methods.experts.moe_layers import MoeLayer


def set_expert_count(root: keras.layers.Layer, found: Sequence[MoeLayer], *, experts: int, top_k: int) -> Any:
    """Return a model or layer with other numbers of experts, wrappers included.

    Args:
        root: A built model or layer.
        found: Its layers with experts.
        experts: How many each of them has.
        top_k: How many of them are used for each input.

    Raises:
        ValueError: If it cannot be built anew.
    """

    def changed(config: dict[str, Any]) -> dict[str, Any]:
        config = deepcopy(config)
        for layer in found:
            before = {layer.rule.count: layer.experts, layer.rule.top_k: layer.top_k}
            _change(config, before, {layer.rule.count: experts, layer.rule.top_k: top_k})
        return config

    if not isinstance(root, keras.Model):
        return revive(changed(config_of(root)), root)
    if kind_of(root) is Kind.CODE:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass. Received: {root.name!r} "
            f"of class {type(root).__name__}, whose code creates its layers. Pass its layers one by one."
        )
    if kind_of(root) is Kind.FUNCTIONAL_SUBCLASS:
        return _of_class(root, changed(class_config(root)))
    holders = {id(layer.layer) for layer in found}

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        holds = any(id(part) in holders for _, part in walk(layer))
        return revive(changed(config_of(layer)), layer) if holds else None

    return copy_model(Anatomy.of(root), replace)


def _change(config: Any, before: dict[str, int], after: dict[str, int]) -> None:
    """Change the numbers wherever a configuration has all of them as they were."""
    for arguments in dicts_in(config):
        if all(type(arguments.get(name)) is int and arguments[name] == value for name, value in before.items()):
            arguments.update(after)


def _of_class(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    new = fresh_copy(model, origin=config)
    counterparts = dict(zip(map(id, plain_parts(model)), plain_parts(new), strict=True))
    wrappers = [layer for _, layer in Anatomy.of(model).leaves if isinstance(layer, Around)]
    wrap_alike(new, {id(counterparts[id(wrapper.layer)]): wrapper for wrapper in wrappers})
    return new

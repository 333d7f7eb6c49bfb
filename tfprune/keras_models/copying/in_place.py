"""Replace layers of a model in the model itself, by the way in which it is put together."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.keras_models.copying.change_class import become
from tfprune.keras_models.copying.functional_subclass import called_anew, like, replace_in_live_graph
from tfprune.keras_models.copying.held_layers import each_once
from tfprune.keras_models.copying.rebuild import Replace
from tfprune.keras_models.copying.subclassed import replace_in_place
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.graph import functional
from tfprune.keras_models.models.layers import join_path


def replace_layers(anatomy: Anatomy, replace: Replace) -> None:
    """Replace layers of a model, and of the models in it, in place; the model need not have a configuration.

    Args:
        anatomy: Of a built model. It is uncompiled by this.
        replace: Called with path and layer; returns the replacement itself, built or with a `build()` that cannot
            fail, or None to keep the layer. It must not fail.

    Raises:
        ValueError: If code of the user's holds a layer where it cannot be replaced; the model is then as it was.
    """
    _check_held(anatomy)
    _replace(anatomy, replace, "")


def _check_held(anatomy: Anatomy) -> None:
    """Refuse code that holds layers where they cannot be replaced."""
    if anatomy.kind is Kind.CODE:
        each_once(anatomy.model, lambda layer: layer)
    for part in anatomy.parts:
        if part.kind is not Kind.LAYER:
            _check_held(part)


def _replace(anatomy: Anatomy, replace: Replace, path: str) -> None:
    if anatomy.kind is Kind.CODE:
        _replace_in_code(anatomy, replace, path)
    elif anatomy.kind is Kind.GRAPH:
        _replace_in_graph(anatomy, replace, path)
    else:
        replace_in_live_graph(anatomy, lambda inner, layer: replace(join_path(path, inner), layer))


def _replace_in_code(anatomy: Anatomy, replace: Replace, path: str) -> None:
    graphs: list[tuple[str, Anatomy]] = []

    def replaced(inner: str, part: Anatomy) -> keras.layers.Layer | None:
        if part.kind.has_graph:
            graphs.append((inner, part))
            return None
        return replace(inner, part.model)

    replace_in_place(anatomy, replaced, path=path)
    for inner, part in graphs:  # whose owner no longer changes
        _replace(part, replace, inner)


def _replace_in_graph(anatomy: Anatomy, replace: Replace, path: str) -> None:
    model = anatomy.model
    replacements: dict[int, keras.layers.Layer | None] = {}
    for part in anatomy.parts:
        inner = join_path(path, part.model.name)
        if part.kind is Kind.LAYER:
            replacements[id(part.model)] = replace(inner, part.model)
        else:
            _replace(part, replace, inner)
    if not any(replacements.values()):
        return

    def replaced(layer: Any) -> Any:
        return replacements.get(id(layer)) or layer

    if isinstance(model, keras.Sequential):
        (inputs,) = model.inputs
        start = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype, name=inputs.name)
        copy = keras.Sequential([start, *map(replaced, model.layers)], name=model.name)
    else:
        copy = called_anew(functional(model), lambda layer, *args, **kwargs: replaced(layer)(*args, **kwargs))
    copy.__class__ = type(model)  # perhaps one with a training step of its own
    become(model, like(model, copy))

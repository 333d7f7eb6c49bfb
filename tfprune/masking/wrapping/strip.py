"""Take the wrappers away: a plain copy in which the masked entries are zero."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.keras_models.copying.class_config import is_loadable
from tfprune.keras_models.copying.copy_model import CopyMode, copy_model
from tfprune.keras_models.models.kinds import (
    as_graph,
    check_keras,
    check_model,
    configured_layers,
    is_subclassed,
    leaf_layers,
    rebuilds_as_class,
)
from tfprune.keras_models.models.layers import is_of_keras, walk
from tfprune.keras_models.models.rebuild import copy_of
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.masking.wrapping.pruned_layers import warn_if_dense
from tfprune.masking.wrapping.transfer_weights import transfer_weights


def strip(model_or_layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a plain, uncompiled copy without wrappers, the masked entries zero; it loads without tfprune.

    Warns if the wrappers' masks hide nothing, because the model was trained without a callback that sets them.

    Args:
        model_or_layer: A built model, wrapped or not, or a single built layer.

    Raises:
        ValueError: For an unbuilt model, or one that has `Pruned` inside another layer or in its own code, which
            would create it again.
        TypeError: If it is not a Keras model or layer.

    Example:
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> report = update_masks(model, 0.5)
        >>> [type(layer).__name__ for layer in strip(model).layers]
        ['Dense']
    """
    copy = plain_copy(model_or_layer)
    warn_if_dense(model_or_layer)
    return copy


def plain_copy(model_or_layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the copy that `strip` returns, without its warning, as models are also copied before masks are set.

    Raises:
        ValueError, TypeError: As `strip` does.
    """
    _check(model_or_layer)
    if isinstance(model_or_layer, keras.Model):
        copy = copy_model(model_or_layer, _inside, mode=CopyMode.ORIGINAL_CLASS)
    else:
        copy = copy_of(_inside("", model_or_layer) or model_or_layer)
    transfer_weights(model_or_layer, copy)
    return copy


def try_the_way_back(wrapped: keras.layers.Layer) -> None:
    """Strip once before anything is trained: code of the user's may give layers that cannot be copied again.

    Raises:
        ValueError: As `strip` does.
    """
    is_built = not isinstance(wrapped, keras.Sequential) or wrapped.built
    if is_built and any(not is_of_keras(part) for _, part in walk(wrapped)):
        plain_copy(wrapped)


def try_copies(model: keras.Model) -> None:
    """Copy each layer once as `strip` will, where the model is wrapped in place and too large for another copy.

    Args:
        model: A subclassed model, whose layers are copied by their configurations.

    Raises:
        ValueError: If a layer has none.
    """
    for _, layer in configured_layers(model):
        if is_subclassed(layer) and layer is not model:
            try_copies(layer)
        elif not isinstance(layer, keras.Model) and any(not is_of_keras(part) for _, part in walk(layer)):
            copy_of(layer)


def _inside(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    return layer.layer if isinstance(layer, Pruned) else None


def _check(model_or_layer: Any) -> None:
    check_keras(model_or_layer, keras.layers.Layer, argument="model_or_layer")
    if isinstance(model_or_layer, keras.Model):
        check_model(model_or_layer)
    elif not model_or_layer.built:
        raise ValueError(f"Expected a built layer. Received: {model_or_layer.name!r}, which has no weights yet.")
    _check_no_inner_wrapper(model_or_layer)
    if as_graph(model_or_layer) is not None:
        _check_inner_models(model_or_layer)


def _check_no_inner_wrapper(model: keras.layers.Layer) -> None:
    for path, layer in leaf_layers(model):
        for inner, part in walk(layer, stop=Pruned):
            if part is not layer and isinstance(part, Pruned):
                kind = type(layer).__name__
                raise ValueError(
                    f"Expected pruned layers to stand in the model's own list of layers. Received: {inner} inside of "
                    f"{path or layer.name} ({kind}). Prune the outer layer, Pruned({kind}(...)), to strip it."
                )


def _check_inner_models(graph: keras.Model) -> None:
    """Refuse a graph that calls a model which was wrapped in place, as it cannot be copied within the graph."""
    if rebuilds_as_class(graph):
        return
    for _, layer in configured_layers(graph):
        if is_subclassed(layer) and holds_pruned(layer) and not is_loadable(layer):
            raise ValueError(
                f"Expected models within a graph to be rebuilt from their configuration. Received: {layer.name!r} of "
                f"class {type(layer).__name__}, which was wrapped in place and cannot be. Strip it first, then build "
                f"the graph: keras.Model(x, tfprune.strip(model)(x))."
            )

"""Remove the wrappers: a plain copy in which the masked entries are zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.keras_models.copying.twin import check_copy_of, is_loadable, layer_inside, plain_parts, twin
from tfprune.keras_models.models.anatomy import Anatomy, Kind, check_model
from tfprune.keras_models.models.layers import is_of_keras
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import warn_if_dense
from tfprune.masking.wrapping.transfer_weights import transfer_weights


def strip(model_or_layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a plain, uncompiled copy without wrappers, with zeros in the masked entries.

    Use it after training, before you save or export the model: the copy loads without tfprune. It warns if no entry
    is masked, because the model was then trained without a callback that sets masks.

    Args:
        model_or_layer: A built model, wrapped or not, or a single built layer. It is left unchanged.

    Returns:
        The plain copy.

    Raises:
        ValueError: If the model is not built, or has `Pruned` inside another layer or in its code, which would create
            it again.
        TypeError: If `model_or_layer` is not a Keras model or layer.

    Example:
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> report = update_masks(model, 0.5)
        >>> [type(layer).__name__ for layer in strip(model).layers]
        ['Dense']
    """
    anatomy = Anatomy.of(model_or_layer, accepts=keras.layers.Layer, argument="model_or_layer")
    copy = plain_copy(anatomy)
    warn_if_dense(model_or_layer)
    return copy


def plain_copy(anatomy: Anatomy) -> Any:
    """Return the copy that `strip` returns, without its warning, as models are also copied before masks are set.

    Raises:
        ValueError: As `strip` does.
    """
    _check(anatomy)
    copy = twin(anatomy)
    transfer_weights(anatomy, copy)
    return copy


def check_way_back(anatomy: Anatomy) -> None:
    """Refuse a wrapped copy that could not be stripped, before anything is trained.

    No second copy of the model is made for this: its graph, its class and its code were built anew just now, for the
    copy. Code of the user's may give layers that cannot be copied again, so each of these is copied once, by itself.

    Args:
        anatomy: Of a copy that was wrapped just now.

    Raises:
        ValueError: As `strip` does.
    """
    is_built = not isinstance(anatomy.model, keras.Sequential) or anatomy.model.built
    if is_built and any(not is_of_keras(part) for _, part in anatomy.every):
        _check(anatomy)
        try_copies(anatomy)


def try_copies(anatomy: Anatomy) -> None:
    """Copy each layer with code of the user's once, as `strip` will.

    Args:
        anatomy: Of a model or a layer. A Functional subclass copies no layers: its class makes them.

    Raises:
        ValueError: If a layer has no configuration, or one that gives another layer.
    """
    for part in _copied_parts(anatomy):
        layer = layer_inside(part.model)
        if any(not is_of_keras(inner) for _, inner in part.every):
            check_copy_of(layer)


def _copied_parts(anatomy: Anatomy) -> Iterator[Anatomy]:
    """Yield the layers that are copied one by one."""
    if anatomy.kind is Kind.LAYER:
        yield anatomy
    elif not _is_built_by_class(anatomy):
        for _, part in anatomy.configured:
            yield from _copied_parts(part)


def _is_built_by_class(anatomy: Anatomy) -> bool:
    """Tell whether it is a Functional subclass whose class makes plain layers."""
    is_subclass = anatomy.kind is Kind.FUNCTIONAL_SUBCLASS
    return is_subclass and not any(isinstance(part, Pruned) for part in plain_parts(anatomy.model))


def _holds_masks(anatomy: Anatomy) -> bool:
    return any(isinstance(part, Pruned) and part.prunes for _, part in anatomy.every)


def _check(anatomy: Anatomy) -> None:
    layer = anatomy.model
    if isinstance(layer, keras.Model):
        check_model(anatomy)
    elif not layer.built:
        raise ValueError(f"Expected a built layer. Received: {layer.name!r}, which has no weights yet.")
    _check_no_inner_wrapper(anatomy)
    if anatomy.kind.is_spelled_out:
        _check_inner_models(anatomy)


def _check_no_inner_wrapper(anatomy: Anatomy) -> None:
    for path, leaf in anatomy.ends(lambda part: part.kind is not Kind.LAYER):
        for inner, part in leaf.every if not isinstance(leaf.model, Pruned) else ():
            if isinstance(part, Pruned):
                kind = type(leaf.model).__name__
                raise ValueError(
                    f"Expected pruned layers to stand in the model's own list of layers. Received: {inner} inside of "
                    f"{path or leaf.model.name} ({kind}). Prune the outer layer, Pruned({kind}(...)), to strip it."
                )


def _check_inner_models(anatomy: Anatomy) -> None:
    """Refuse a graph that calls a model which was wrapped in place, as it cannot be copied within the graph."""
    for _, part in anatomy.configured:
        layer = part.model
        if part.kind is Kind.CODE and _holds_masks(part) and not is_loadable(layer):
            raise ValueError(
                f"Expected models within a graph to be rebuilt from their configuration. Received: {layer.name!r} of "
                f"class {type(layer).__name__}, which was wrapped in place and cannot be. Strip it first, then build "
                f"the graph: keras.Model(x, tfprune.strip(model)(x))."
            )

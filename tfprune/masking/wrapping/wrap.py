"""Whole models and layers: wrap them for pruning."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import keras

from tfprune.base.spec import check_choice, resolve
from tfprune.criteria import CRITERIA, Criterion
from tfprune.keras_models.copying.in_place import Replace, lock_models, replace_layers
from tfprune.keras_models.models.anatomy import Anatomy, check_layers, check_model
from tfprune.keras_models.models.compiled import compile_like
from tfprune.keras_models.models.filters import Filters
from tfprune.masking.wrapping.choose_channels import choose_channels
from tfprune.masking.wrapping.choose_weights import choose_weights, is_unbuilt
from tfprune.masking.wrapping.masked_weights import LATENT
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.sparsity_report import sparsity_report
from tfprune.masking.wrapping.strip import check_way_back, try_copies
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.patterns import PATTERNS, Channel, Pattern
from tfprune.report import Skipped

_log = logging.getLogger(__name__)


def wrap(
    model_or_layer: keras.layers.Layer,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    filters: Filters = None,
    in_place: bool = False,
    latent: str = "keep",
) -> keras.layers.Layer:
    """Return a copy of a model whose layers are wrapped in `Pruned`.

    Use it before training with a `PruningCallback` or `update_masks`. The copy of a compiled model is compiled with
    the same arguments and a new optimizer: call `fit` at once, or compile it again. If Keras cannot save and load
    these arguments, for example a lambda as the loss, the copy is not compiled.

    Layers keep their names, so `get_layer` returns the wrapper by the name of its layer. Layers without a prunable
    weight are copied without a wrapper, and `sparsity_report` lists them with the reason. Existing wrappers with this
    criterion and pattern are kept with their masks, so you can run a notebook cell twice.

    A subclassed model is built anew from its configuration, and the layers in its attributes are wrapped. The copy is
    an instance of its class, with its methods, and is saved with its wrappers. The same applies to Functional
    subclasses, `super().__init__(inputs, outputs)`, such as a backbone or task of KerasHub: the graph calls the
    wrappers, and the attributes keep the inner layers, whose weights have the zeros. A class that adds nothing to its
    graph, or cannot be built anew, becomes a plain Functional model, with a warning.

    A layer that Keras cannot build from its configuration, because its class accepts no `**kwargs` or has no
    `get_config`, is copied by its attributes: layers and weights among them are copied, all others are shared.
    Keras saves the weights of such a model (`save_weights`), but cannot load a `.keras` file of it, wrapped or not.

    On JAX under `keras.distribution`, wrap within the scope of the distribution: masks and latent values get the
    layout of their kernels, and the results are the same as on one device. Start the patterns of a `LayoutMap` with
    `.*`, because the paths of the copy's variables do not include the name of the model.

    Args:
        model_or_layer: A built model (Sequential, Functional or subclassed, also with nested models), a Sequential
            model that its first batch builds, or a single layer. It is left unchanged.
        criterion: The importance of an entry: a name in `criteria.CRITERIA`, such as `"magnitude"` (the default) or
            `"wanda"`, or a `Criterion`.
        pattern: The shape of the zeros: `"unstructured"` (the default) or a `Pattern`. `"channel"` and `"head"` prune
            channels and heads that `shrink` can remove, and wrap all kernels that make or read them (graph models
            only).
        filters: The weights to prune. None (the default) takes all kernels that mix inputs, including embeddings and
            recurrent kernels but not depthwise kernels. A regular expression, or a sequence of them, is searched in
            the path of each weight (`block_1/conv/kernel`); a function from a layer to a bool takes all kernels of
            that layer. With `"channel"` and `"head"`: the kernels whose channels or heads can be removed.
        in_place: Whether to wrap the layers of the model itself and return it: for a model that fills the memory, or
            a subclassed model without `get_config`, which cannot be copied. Compile it again. Default False.
        latent: `"keep"` (the default) stores the value of each masked entry, so that an entry comes back with its old
            value if a later mask keeps it; it needs five bytes beside each float32 weight. `"zero"` discards the
            values, and needs one byte. Use it if memory is short. A criterion that ranks weights then sees 0 in each
            masked entry, so with a gradual schedule a masked entry stays masked; a criterion that uses gradients can
            bring it back, and it is trained from 0.

    Returns:
        The wrapped copy; with `in_place` the model itself, or a wrapper around the layer itself.

    Raises:
        ValueError: If the model is empty, is not built although it is subclassed or wrapped in place, or cannot be
            copied.
        ValueError: If a filter matches nothing, or a weight that it matches cannot have the pattern, or is wrapped
            with another criterion, pattern or `latent`.
        TypeError: If `model_or_layer` is not a Keras model or layer, or an argument has the wrong type.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> wrap(model).get_layer("hidden").masks["kernel"].shape
        TensorShape([8, 4])
    """
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    pattern = resolve(pattern, PATTERNS, Pattern, "pattern")
    check_choice(latent, "latent", choices=LATENT)
    anatomy = Anatomy.of(model_or_layer, accepts=keras.layers.Layer, argument="model_or_layer")
    if not isinstance(model_or_layer, keras.Model):
        _check_no_filters(model_or_layer, filters)

        def around(path: str, layer: keras.layers.Layer) -> Pruned:
            return Pruned(layer, criterion=criterion, pattern=pattern, latent=latent)

        return _wrap_layer(anatomy, around("", model_or_layer)) if in_place else _wrap_copy_of_layer(anatomy, around)
    may_be_unbuilt = not in_place and not isinstance(pattern, Channel)
    check = check_layers if may_be_unbuilt and is_unbuilt(model_or_layer) else check_model
    check(anatomy)
    if isinstance(pattern, Channel):
        choice = choose_channels(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent=latent)
    else:
        choice = choose_weights(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent=latent)

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if path not in choice:
            return None
        names, shape = choice[path]
        if isinstance(layer, Pruned):  # of a kind that has no masks yet
            return layer.around(layer.layer, criterion=criterion, pattern=shape, weights=names, latent=latent)
        return Pruned(layer, criterion=criterion, pattern=shape, weights=names, latent=latent)

    copy = _wrap_in_place(anatomy, wrapped) if in_place else _wrap_copy(anatomy, wrapped)
    _log_choice(copy)
    return copy


def _wrap_copy(anatomy: Anatomy, wrapped: Replace) -> keras.Model:
    copy = copy_with(anatomy, wrapped)
    result = Anatomy.of(copy)
    check_way_back(result)
    if anatomy.kind.is_functional_subclass and not result.kind.is_functional_subclass:
        model = anatomy.model
        warnings.warn(
            f"The copy of {model.name!r} is a plain Functional model, not of class {type(model).__name__}. To take "
            f"the zeros back into that class: model.set_weights(tfprune.strip(copy).get_weights()).",
            stacklevel=3,
        )
    if anatomy.model.compiled:
        _compile_copy(copy, anatomy.model)
    return copy


def _compile_copy(copy: keras.Model, model: keras.Model) -> None:
    try:
        compile_like(copy, model, advice="Compile the copy")
    except ValueError as error:
        _log.info("%r is not compiled: %s", copy.name, error)
        return
    if copy.built and copy.optimizer is not None:
        copy.optimizer.build(copy.trainable_variables)  # else Keras warns when it loads the copy from a file


def _wrap_in_place(anatomy: Anatomy, wrapped: Replace) -> keras.Model:
    wrappers = {id(layer): wrapped(path, layer) for path, layer in anatomy.leaves}
    for wrapper in wrappers.values():  # each refuses what its layer cannot do, before anything is changed
        if isinstance(wrapper, Pruned):
            wrapper.choose_kernels()
    try_copies(anatomy)  # layer by layer: another copy may not fit into the memory
    replace_layers(anatomy, {key: wrapper for key, wrapper in wrappers.items() if wrapper is not None})
    lock_models(Anatomy.of(anatomy.model))
    return anatomy.model


def _log_choice(model: keras.Model) -> None:
    """Log what is under masks, and which weights are left alone."""
    if not _log.isEnabledFor(logging.INFO):
        return  # a report reads all weights
    if is_unbuilt(model):
        _log.info("wrapped %r, which its first batch builds", model.name)
        return
    report = sparsity_report(model)
    _log.info("wrapped %r: %d weights under masks", model.name, len(report.rows))
    for entry in report.skipped:
        if entry.kind != Skipped.NO_KERNEL:
            _log.info("left alone, %s: %s", entry.layer, entry.reason)


def _check_no_filters(layer: keras.layers.Layer, filters: Filters) -> None:
    if filters is not None:
        raise ValueError(
            f"Expected `filters` with a model only. Received: filters={filters!r} for layer {layer.name!r}. Choose "
            f"within a layer with Pruned(layer, weights=[...])."
        )


def _wrap_copy_of_layer(anatomy: Anatomy, around: Replace) -> Pruned:
    copy: Any = copy_with(anatomy, around)
    if anatomy.model.built:
        check_way_back(Anatomy.of(copy, accepts=keras.layers.Layer))
    return copy


def _wrap_layer(anatomy: Anatomy, wrapper: Pruned) -> Pruned:
    try_copies(anatomy)
    if anatomy.model.built:
        wrapper.build_from_config({})
    return wrapper

"""Whole models and layers: wrap them for pruning."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import keras

from tfprune.base.spec import check_choice, resolve
from tfprune.criteria import CRITERIA, Criterion
from tfprune.keras_models.copying.copy_model import copy_model
from tfprune.keras_models.copying.in_place import replace_layers
from tfprune.keras_models.copying.rebuild import Replace, copy_of
from tfprune.keras_models.copying.refuse_quantize import lock_models
from tfprune.keras_models.models.anatomy import Anatomy, check_layers, check_model
from tfprune.keras_models.models.compiled import compile_like
from tfprune.keras_models.models.filters import Filters
from tfprune.masking.wrapping.choose_channels import choose_channels
from tfprune.masking.wrapping.choose_weights import choose_weights, is_unbuilt
from tfprune.masking.wrapping.masked_weights import LATENT
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.sparsity_report import sparsity_report
from tfprune.masking.wrapping.strip import check_way_back, try_copies
from tfprune.masking.wrapping.transfer_weights import transfer_weights
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
    """Return a copy whose layers are wrapped in `Pruned`; the original is left untouched.

    The copy of a compiled model is compiled with the same arguments and a new optimizer: call `fit` at once, or
    compile it again. If Keras cannot save and load these arguments, for example a lambda as the loss, the copy is
    not compiled.

    Names of layers stay as they are, so `get_layer` finds the wrapper by the name of its layer. Layers without a
    prunable weight are copied as they are, and `sparsity_report` lists them with the reason. Wrappers that are there
    already stay as they are, masks included, if they have this criterion and pattern: a cell of a notebook can be run
    twice.

    A subclassed model is built anew from its configuration, and the layers in its attributes are wrapped. The copy is
    an instance of its class, with its methods, and is saved with its wrappers. So is a class that is built around a
    graph, `super().__init__(inputs, outputs)`, such as a backbone or task of KerasHub: its graph calls the wrappers,
    and its attributes keep the layers inside, whose weights hold the zeros. A class that adds nothing to its graph,
    or cannot be built anew, comes back as a plain Functional model, with a warning.

    A layer that Keras cannot build from its configuration, because its class takes no `**kwargs` or has no
    `get_config`, is copied by its attributes: layers and weights among them are copied, anything else is shared.
    Keras saves the weights of such a model (`save_weights`), but cannot load a `.keras` file of it, wrapped or not.

    On JAX under `keras.distribution`, wrap within the scope of the distribution: masks and latent values are split
    over the devices as their kernels are, and come out as on one device. Let the patterns of a `LayoutMap` begin with
    `.*`, because variables of the copy have paths without the name of the model.

    Args:
        model_or_layer: A built model (Sequential, Functional or subclassed, nested ones included), a Sequential model
            that its first batch builds, or a single layer.
        criterion: How important an entry is: a name among `criteria.CRITERIA`, such as `"magnitude"` or `"wanda"`, or
            a `Criterion`.
        pattern: In which shape zeros may lie: `"unstructured"` or a `Pattern`; `"channel"` and `"head"` prune what
            `shrink` can remove, and wrap every kernel that makes or reads it (graph models only).
        filters: Which weights. None takes every kernel that mixes inputs, embeddings and recurrent kernels too, but
            no depthwise ones. A regular expression, or a sequence of them, takes the weights in whose path
            (`block_1/conv/kernel`) one is found; a function from a layer to a bool takes all kernels of that layer.
            With `"channel"` and `"head"` those whose channels or heads may go.
        in_place: Wrap the layers of the model given instead of a copy, and return that model, or a wrapper around
            the layer given: for one that fills the memory, or a subclassed model without `get_config`, of which no
            copy can be made. Compile it again.
        latent: What becomes of the values that a mask hides. `"keep"` sets them aside, and an entry that a later mask
            keeps comes back as it was: five bytes beside each float32 weight. `"zero"` forgets them: one byte, the
            mask. Use it where memory is short. A criterion that ranks weights then finds 0 in every masked entry,
            so under a gradual schedule nothing comes back before all other entries are kept; with a criterion
            that looks at gradients too, such as a `Criterion` of your own on their size, an entry comes back
            from 0 and is trained from there.

    Returns:
        The wrapped copy; with `in_place` the model given, or a wrapper around the layer given.

    Raises:
        ValueError: If the model is empty, is subclassed or wrapped in place and not built, or cannot be copied; if a
            filter matches nothing; if a weight that was asked for cannot take the pattern, or
            is wrapped with another criterion, pattern or choice of `latent`.
        TypeError: If it is not a Keras model or layer, or an argument is of the wrong type.

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
        wrapper = Pruned(model_or_layer, criterion=criterion, pattern=pattern, latent=latent)
        return _wrap_layer(anatomy, wrapper) if in_place else _wrap_copy_of_layer(anatomy, wrapper)
    may_be_unbuilt = not in_place and not isinstance(pattern, Channel)
    check = check_layers if may_be_unbuilt and is_unbuilt(model_or_layer) else check_model
    check(anatomy)
    if isinstance(pattern, Channel):
        chosen = choose_channels(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent=latent)
    else:
        chosen = choose_weights(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent=latent)

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if path not in chosen:
            return None
        names, shape = chosen[path]
        if isinstance(layer, Pruned):  # of a kind that has no masks yet
            return layer.around(layer.layer, criterion=criterion, pattern=shape, weights=names, latent=latent)
        return Pruned(layer, criterion=criterion, pattern=shape, weights=names, latent=latent)

    copy = _wrap_in_place(anatomy, wrapped) if in_place else _wrap_copy(anatomy, wrapped)
    _log_choice(copy)
    return copy


def _wrap_copy(anatomy: Anatomy, wrapped: Replace) -> keras.Model:
    copy = copy_model(anatomy, wrapped)
    transfer_weights(anatomy, copy)
    result = Anatomy.of(copy)
    lock_models(result)
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
    replace_layers(anatomy, lambda path, layer: wrappers.get(id(layer)))
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


def _wrap_copy_of_layer(anatomy: Anatomy, wrapper: Pruned) -> Pruned:
    copy: Any = copy_of(wrapper)
    if anatomy.model.built:
        transfer_weights(anatomy, copy)
        check_way_back(Anatomy.of(copy, accepts=keras.layers.Layer))
    return copy


def _wrap_layer(anatomy: Anatomy, wrapper: Pruned) -> Pruned:
    try_copies(anatomy)
    if anatomy.model.built:
        wrapper.build_from_config({})
    return wrapper

"""Wrap whole models and layers for pruning, and choose their weights by `filters`, or whole channels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from tfprune.base.spec import ArgumentError, check_choice, resolve
from tfprune.channels.groups import choose_groups, kernels_by_weight, why_stuck
from tfprune.criteria import CRITERIA, Criterion
from tfprune.masking.pruned import LATENT, Pruned, holds_pruned
from tfprune.masking.strip import Source, check_way_back, copy_with, flat_copy, sparsity_report, try_copies
from tfprune.models.anatomy import (
    Anatomy,
    Filters,
    Kernel,
    check_layers,
    check_model,
    expected_kernels,
    kernels,
    quantized_already,
    selector,
)
from tfprune.models.in_place import Replace, lock_models, replace_layers
from tfprune.models.training import compile_like
from tfprune.models.twin import layer_inside
from tfprune.patterns import Channel, Pattern, as_pattern
from tfprune.report import Skipped
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

# Which weights of a model to wrap, layer by layer.

# By the path of a layer: the names of its weights, None for those that the wrapper finds, and their pattern.
_Choice = dict[str, tuple[list[str] | None, Pattern]]

_Offer = tuple[str, keras.layers.Layer, Kernel]  # the path of a layer, the layer, and a weight of it


def choose_weights(
    anatomy: Anatomy, *, criterion: Criterion, pattern: Pattern, filters: Filters, latent: str
) -> _Choice:
    """Return the names of the weights to wrap, by the path of their layer, with the pattern.

    Weights that are wrapped already, with these arguments, stay as they are and are not in the choice. The layers of
    a Sequential model that is not built are chosen by their class.

    Raises:
        ValueError: If no weight is meant, a filter matches nothing, two weights have the same path, or one is wrapped
            with another criterion, pattern or choice of latent values.
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
    """
    model = anatomy.model
    find = expected_kernels if is_unbuilt(model) else kernels
    kernels(model)  # refuses two weights of one path, of which no report could tell which is which
    offered = _each_once(
        (path, layer, kernel)
        for path, layer in anatomy.leaves
        if not isinstance(layer, keras.Model)  # its class calls a graph
        for kernel in _offered(layer, find)
    )
    paths = [f"{path}/{kernel.path}" for path, _, kernel in offered]
    others = ((f"{path}/{weight.name}", layer) for path, layer in anatomy.leaves for weight in layer.weights)
    wanted = selector(filters, pattern, paths, others=others)
    meant = [entry for entry in offered if wanted(f"{entry[0]}/{entry[2].path}", entry[1], entry[2])]
    if not meant:
        unnamed = "" if paths else "Name the weights of your layers with tfprune.register_prunable."
        advice = quantized_already(model) or unnamed
        raise ValueError(
            f"Expected weights to prune in model {model.name!r}. Received: filters={filters!r}, pattern={pattern!r}, "
            f"which leave none of those that can be pruned: {', '.join(paths) or 'none'}. {advice}".rstrip()
        )
    wrapped = {path: layer for path, layer, _ in meant if isinstance(layer, Pruned) and layer.prunes}
    _check_agreement(wrapped, criterion, pattern, latent)
    choice: _Choice = {}
    finds_them = filters is None and is_unbuilt(model)
    for path, _, kernel in meant:
        if path not in wrapped:
            names = [] if path not in choice else choice[path][0] or []
            choice[path] = (None if finds_them else [*names, kernel.path], pattern)
    return choice


def _each_once(offered: Iterable[_Offer]) -> list[_Offer]:
    """Leave a weight that several layers hold to the one that holds it most closely."""
    closest: dict[int, _Offer] = {}
    offers = list(offered)
    for offer in offers:
        if offer[2].variable is not None:
            best = closest.setdefault(id(offer[2].variable), offer)
            if offer[2].path.count("/") < best[2].path.count("/"):
                closest[id(offer[2].variable)] = offer
    return [offer for offer in offers if closest.get(id(offer[2].variable), offer) is offer]


def is_unbuilt(model: keras.Model) -> bool:
    """Return True if it is a list of layers that the first batch will build."""
    return isinstance(model, keras.Sequential) and not model.built


def _offered(layer: keras.layers.Layer, find: Callable[[keras.layers.Layer], list[Kernel]]) -> list[Kernel]:
    if isinstance(layer, Pruned):
        return list(layer.kernels.values()) if layer.built and layer.prunes else find(layer.layer)
    return [] if holds_pruned(layer) else find(layer)


def _check_agreement(wrapped: dict[str, Pruned], criterion: Criterion, pattern: Pattern, latent: str) -> None:
    """Refuse wrappers that are to stay as they are, but were made with other arguments.

    Raises:
        ValueError: Naming the first of them.
    """
    for path, layer in wrapped.items():
        if layer.criterion != criterion or layer.pattern != pattern:
            asked = f"criterion={criterion!r} and pattern={pattern!r}"
            own = f"criterion={layer.criterion!r} and pattern={layer.pattern!r}"
        elif layer.latent_values != latent:
            asked, own = f"latent={latent!r}", f"latent={layer.latent_values!r}"
        else:
            continue
        raise ValueError(
            f"Expected weights that are not wrapped yet, or wrapped with {asked}. Received: {path}, which is wrapped "
            f"with {own}. Leave it out with `filters`, or wrap tfprune.strip(model)."
        )


# Which layers to wrap so that channels can go: all whose kernels make or read them.


def _choose_channels(
    anatomy: Anatomy, *, criterion: Criterion, pattern: Channel, filters: Filters, latent: str
) -> _Choice:
    """Return the kernels that make or read the channels to prune, by the path of their layer, with its pattern.

    Layers that are wrapped already, with these arguments, stay as they are and are not in the choice.

    Raises:
        ValueError: If the model is not a graph, or if the channels asked for cannot be removed.
    """
    flat = flat_copy(anatomy)
    network = flat.network
    kernels = kernels_by_weight(network, flat.model)
    places = {
        weight: place
        for weight, variable in network.variables(flat.model)
        for place in [location_of(flat.sources[id(variable)])]
        if weight in kernels and place is not None
    }
    with_paths = {weight: (places[weight].path, *kernels[weight][1:]) for weight in places}

    def uncovered(weight: ChanneledWeight, group: Group) -> str | None:
        asked = replace(pattern, makes=bool(weight.making(group.bundles)))
        place = places.get(weight)
        if place and holds_pruned(place.layer) and not _covers(place, criterion, asked):
            return f"{place.layer_path} is wrapped already, with another criterion or pattern"
        if place and holds_pruned(place.layer) and place.layer.latent_values != latent:
            return f"{place.layer_path} is wrapped already, with latent={place.layer.latent_values!r}"
        if place is None and weight.name.startswith("lora_"):
            return f"{weight.path} is a factor of LoRA, which fills the zeros of its kernel"
        if place is None:
            return f"{weight.path} is not a kernel that can be masked; tfprune.register_prunable names those"
        return None

    def refusal(group: Group) -> str | None:
        return why_stuck(network, group, uncovered=uncovered)

    groups = choose_groups(network, with_paths, pattern=pattern, filters=filters, refusal=refusal)
    return _cover(network, groups, places, pattern)


@dataclass(frozen=True)
class _KernelLocation:
    """Where a kernel is in the model to wrap.

    Attributes:
        layer: The layer in the model's own list that has it, itself or in a layer inside.
        layer_path: The path of this layer.
        name: The path of the kernel in this layer.
    """

    layer: keras.layers.Layer
    layer_path: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.layer_path}/{self.name}"


def location_of(source: Source) -> _KernelLocation | None:
    """Return the place of a kernel; None for a weight that is not one."""
    names = {id(kernel.variable): kernel.path for kernel in kernels(layer_inside(source.layer))}
    name = names.get(id(source.variable))
    return None if name is None else _KernelLocation(source.layer, source.path, name)


def _covers(place: _KernelLocation, criterion: Criterion, pattern: Channel) -> bool:
    """Return True if a wrapper that is there does what is asked for; one that makes channels may read others, too."""
    layer = place.layer
    same = isinstance(layer, Pruned) and layer.criterion == criterion and place.name in layer.kernels
    return same and layer.pattern in (pattern, replace(pattern, makes=True))


def _cover(
    network: Network, groups: list[Group], places: Mapping[ChanneledWeight, _KernelLocation], pattern: Channel
) -> _Choice:
    """Return the choice of all kernels of some groups whose layers are not wrapped yet."""
    names: dict[str, list[str]] = {}
    making = set()
    for group in groups:
        part = group.free_part()
        for weight in network.weights_of(part):
            place = places[weight]
            if not holds_pruned(place.layer):
                weight_names = names.setdefault(place.layer_path, [])
                weight_names += [place.name] if place.name not in weight_names else []
                making |= {place.layer_path} if weight.making(part.bundles) else set()
    shapes: dict[str, Pattern] = {path: replace(pattern, makes=path in making) for path in names}
    return {path: (names[path], shapes[path]) for path in names}


# Whole models and layers: wrap them for pruning.

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
        pattern: The shape of the zeros: `"unstructured"` (the default) or a `Pattern`, such as `patterns.NM(2, 4)`
            or `patterns.Block(1, 4)`, in short `"2:4"` and `"1x4"`. `"channel"` and `"head"` prune channels and heads
            that `shrink` can remove, and wrap all kernels that make or read them (graph models only).
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
    pattern = as_pattern(pattern)
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
        choice = _choose_channels(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent=latent)
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
        raise ArgumentError(
            "filters",
            "`filters` with a model only",
            f"{filters!r} for layer {layer.name!r}",
            advice="Choose within a layer with Pruned(layer, weights=[...]).",
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

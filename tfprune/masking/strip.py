"""Strip: a plain copy whose masked entries are zero, the transfer of weights, a flat copy, the report of zeros."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.spec import warn_user
from tfprune.channels.groups import NamedKernels, analyze, known_rule
from tfprune.criteria import Criterion, Evidence, finite
from tfprune.evidence import Gatherer, gather
from tfprune.gradients import Subject
from tfprune.masking.pruned import Pruned, count_kept
from tfprune.models.anatomy import (
    Anatomy,
    Kernel,
    Kind,
    as_numpy,
    check_keras,
    check_model,
    is_of_keras,
    is_registered,
    kernels,
    matrices,
    sublayers,
    walk,
)
from tfprune.models.by_attributes import own_variables
from tfprune.models.graph import functional
from tfprune.models.in_place import Replace, copy_layers, lock_models
from tfprune.models.tracing import TracedGraph, call_graph, check_followable, open_layers
from tfprune.models.twin import (
    check_copy_of,
    copy_all,
    copy_variables,
    is_loadable,
    layer_inside,
    layer_pairs,
    plain_parts,
    twin,
)
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import ChanneledWeight, Network, StatisticsOwners

_log = logging.getLogger(__name__)

# Transfer the weights of a model into its wrapped, stripped or plain copy.


def copy_with(anatomy: Anatomy, replace: Replace | None = None) -> Any:
    """Return what `copy_layers` does, a copy with wrappers in which some layers are replaced, with the weights.

    Raises:
        ValueError: If the model or layer cannot be copied.
    """
    copy = copy_layers(anatomy, replace)
    if anatomy.model.built or isinstance(anatomy.model, keras.Model):
        transfer_weights(anatomy, copy)
    lock_models(Anatomy.of(copy, accepts=keras.layers.Layer))
    return copy


def transfer_weights(anatomy: Anatomy, target: keras.layers.Layer) -> None:
    """Copy every weight of a model or layer into a copy of it, in which layers may be wrapped, or wrappers stripped.

    Where a wrapper was stripped, the entries that its mask hides become zero.

    Raises:
        ValueError: If a layer of the copy has other variables.
    """
    for part, counterpart in layer_pairs(anatomy, target):
        if part.kind is Kind.CODE:  # its layers come by themselves
            copy_all(own_variables(part.model), own_variables(counterpart), source=part.model)
        else:
            _transfer(part.model, counterpart)


def _transfer(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    inside = layer_inside(target)
    if not isinstance(source, Pruned):
        copy_variables(source, inside)
        return
    copy_variables(source.layer, inside)
    if not _copy_state(source, target):
        _write_masked_values(source, inside)


def _copy_state(source: Pruned, target: keras.layers.Layer) -> bool:
    """Copy of masks, latent values and ranges those that both have; return True if the target has all of them."""
    saved, own = source.saved_variables(), target.saved_variables() if isinstance(target, Pruned) else {}
    for name in saved.keys() & own.keys():
        own[name].assign(ops.copy(saved[name].value))
    return saved.keys() <= own.keys()


def _write_masked_values(source: Pruned, target: keras.layers.Layer) -> None:
    """Give a copy of the layer inside the values that the wrapper lets it read."""
    indices = {id(variable): index for index, variable in enumerate(source.layer.variables)}
    for variable, value in source.settled():
        target.variables[indices[id(variable)]].assign(value)


# The wrappers in a model, and whether their masks hide anything.


def wrappers(model: keras.layers.Layer) -> list[tuple[str, Pruned]]:
    """Return the wrappers of a model with their paths, each once, built or not; there may be none."""
    candidates = ((path, layer) for path, layer in walk(model, stop=Pruned) if isinstance(layer, Pruned))
    return [(path or layer.name, layer) for path, layer in candidates if layer.prunes]


def waits_for_data(model: keras.layers.Layer) -> bool:
    """Return True if a model, or a wrapper in it, is built by the first batch that it is called on."""
    named_layers = wrappers(model)
    return not all(layer.built for _, layer in named_layers) if named_layers else not model.built


def pruned_layers(model: keras.layers.Layer) -> list[tuple[str, Pruned]]:
    """Return the wrappers of a model with their paths, each once.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If there are none, one is not built, or two hold the same weight.
    """
    check_keras(model, keras.layers.Layer)
    named_layers = wrappers(model)
    if not named_layers:
        raise ValueError(
            f"Expected a model with pruned layers. Received: {model.name!r}, which has none. Use the model that "
            f"tfprune.wrap(model) returns."
        )
    unbuilt = [path for path, layer in named_layers if not layer.built]
    if unbuilt:
        raise ValueError(f"Expected built layers. Received: {', '.join(unbuilt)}; call the model on data first.")
    _check_owners(named_layers)
    return named_layers


def masked_sparsity(model: keras.layers.Layer) -> float:
    """Return the fraction of zeros in the weights under masks, in [0, 1], as `sparsity_report` counts it."""
    masked = [(kernel.variable, layer.masks[name]) for layer, name, kernel in _kernels(model)]
    return 1 - sum(itertools.starmap(count_kept, masked)) / sum(math.prod(mask.shape) for _, mask in masked)


def hidden_share(model: keras.layers.Layer) -> float:
    """Return the share of entries that masks hide, in [0, 1]; entries that have just grown are 0, but not hidden."""
    masks = [layer.masks[name] for layer, name, _ in _kernels(model)]
    return 1 - sum(map(count_kept, masks)) / sum(math.prod(mask.shape) for mask in masks)


def _kernels(model: keras.layers.Layer) -> Iterator[tuple[Pruned, str, Kernel]]:
    return ((layer, name, kernel) for _, layer in wrappers(model) for name, kernel in layer.kernels.items())


def warn_if_dense(model: keras.layers.Layer) -> None:
    """Warn if a model has masks and none of them holds a zero."""
    masks = [mask for _, layer in wrappers(model) for mask in layer.masks.values()]
    if masks and all(as_numpy(mask).all() for mask in masks):
        warn_user(
            f"No weight of {model.name!r} is pruned: it has pruned layers, but none of their masks holds a zero. "
            f"Train it with PruningCallback, or UpdatePruningStep under tfmot's names, among the callbacks, or call "
            f"tfprune.update_masks(model, sparsity), before you strip it."
        )


def mask_zeros(model: keras.layers.Layer) -> None:
    """Let the masks of wrappers show where their weights are zero."""
    for _, layer in wrappers(model):
        for name, kernel in layer.kernels.items():
            layer.set_mask(name, as_numpy(kernel.variable) != 0)


def _check_owners(layers: list[tuple[str, Pruned]]) -> None:
    """Refuse a weight under two masks: the one set last would count, silently."""
    owners: dict[int, str] = {}
    for path, layer in layers:
        for name, kernel in layer.kernels.items():
            first = owners.setdefault(id(kernel.variable), f"{path}/{name}")
            if first != f"{path}/{name}":
                raise ValueError(
                    f"Expected each weight under one mask. Received: {first} and {path}/{name}, which are the same "
                    f"weight. Wrap its layer once, and call the wrapper wherever the layer is needed."
                )


# Remove the wrappers: a plain copy in which the masked entries are zero.


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
    """Return True if it is a Functional subclass whose class makes plain layers."""
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


# Count the zeros of a model.


def sparsity_report(model: keras.layers.Layer) -> SparsityReport:
    """Count the zeros of a model, per weight and overall.

    It takes a wrapped model, which need not be trained, a stripped one or any other.

    Args:
        model: A Keras model or layer. If it holds `Pruned` layers, their weights are counted, with the masks applied;
            otherwise every kernel that can be pruned.

    Returns:
        A row per counted weight, the layers that were skipped, and the totals.

    Raises:
        TypeError: If `model` is not a Keras model or layer.

    Example:
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="out")])
        >>> sparsity_report(model).size
        100
    """
    anatomy = Anatomy.of(model, accepts=keras.layers.Layer)
    wrapped = [(path, layer) for path, layer in anatomy.every if isinstance(layer, Pruned)]
    masked = {
        id(kernel.variable): _row(path or layer.name, name, kernel.variable, layer.masks[name])
        for path, layer in wrapped
        for name, kernel in layer.kernels.items()
    }
    offered = kernels(model)
    inside = {
        id(kernel.variable): (path or layer.name, kernel.path)
        for path, layer in wrapped
        for kernel in kernels(layer.layer)
    }
    every = {
        id(kernel.variable): _row(*inside.get(id(kernel.variable), _split(kernel.path, model)), kernel.variable)
        for kernel in offered
        if id(kernel.variable) not in masked
    }
    rows = tuple((masked or every).values())
    every |= masked
    return SparsityReport(
        rows=rows,
        skipped=tuple(_skipped(anatomy, masked=masked.keys() | _latents(wrapped))),
        total_nnz=sum(row.nnz for row in every.values()),
        total_size=sum(row.size for row in every.values()),
        has_masks=bool(masked),
    )


def _split(path: str, root: keras.layers.Layer) -> tuple[str, str]:
    layer, _, weight = path.rpartition("/")
    return layer or root.name, weight


def _row(layer: str, weight: str, variable: keras.Variable, mask: keras.Variable | None = None) -> WeightRow:
    shape = tuple(variable.shape)
    return WeightRow(layer, weight, shape, math.prod(shape), count_kept(variable, mask))


def _latents(wrapped: list[tuple[str, Pruned]]) -> set[int]:
    """Return the ids of what wrappers keep beside the weights of their layers."""
    pruning = [layer for _, layer in wrapped if layer.prunes]
    return {id(weight) for layer in pruning for weight in layer.weights} - {
        id(weight) for layer in pruning for weight in layer.layer.weights
    }


def _skipped(anatomy: Anatomy, *, masked: Collection[int]) -> list[Skipped]:
    """List the layers that hold weights which are not pruned, with the reason."""
    rows, model = [], anatomy.model
    for path, layer in anatomy.leaves:
        if not isinstance(layer, Pruned) and not layer.built and is_registered(layer):
            reason = "not built: the model has not called it yet"
            rows.append(Skipped(path or layer.name, reason, Skipped.UNBUILT))
        elif layer.weights:
            rows += [Skipped(path or layer.name, *reasons) for reasons in _reasons(layer, masked)]
    in_layers = {id(variable) for _, layer in anatomy.leaves for variable in layer.variables}
    of_models: dict[str, dict[str, keras.Variable]] = defaultdict(dict)
    for path, weight in matrices(model):
        if id(weight) not in in_layers:
            owner, _, name = path.rpartition("/")
            of_models[owner or model.name][name] = weight
    for owner, weights in of_models.items():
        reason = f"{_sizes(weights)}: held by the model itself; move them into a layer"
        rows.append(Skipped(owner, reason, Skipped.NO_RULE))
    return rows


def _reasons(layer: keras.layers.Layer, masked: Collection[int]) -> Iterator[tuple[str, str]]:
    """Yield why weights of a layer are left as they are, in words and as a kind.

    Args:
        layer: A layer, or a wrapper.
        masked: The ids of all weights under masks, and of what is kept beside them; empty in a plain model, whose
            kernels are all counted.
    """
    if isinstance(layer, Pruned):
        frozen = [name for name in layer.kernels if name not in layer.trained()]
        if frozen:
            yield f"frozen (trainable=False), so the masks never change: {', '.join(frozen)}", Skipped.FROZEN
        layer = layer.layer
    offered = {id(kernel.variable): kernel for kernel in kernels(layer)}
    left = [kernel for variable, kernel in offered.items() if variable not in masked]
    for reason, group in _left_out(left if masked else []).items():
        yield f"{', '.join(group)}{reason}", Skipped.FILTERED
    others = {
        path: weight for path, weight in matrices(layer) if id(weight) not in offered and id(weight) not in masked
    }
    factors = {path: weight for path, weight in others.items() if weight.name.startswith("lora_")}
    if factors:
        yield f"{_sizes(factors)}: factors of LoRA, which are added to the kernel and fill its zeros", Skipped.NO_RULE
    integers = {path: weight for path, weight in others.items() if not keras.backend.is_float_dtype(weight.dtype)}
    if integers:
        yield f"{_sizes(integers)}: quantized, which leaves no place for masks; prune first", Skipped.NO_RULE
    rest = {path: weight for path, weight in others.items() if path not in {**factors, **integers}}
    name = type(layer).__name__
    if rest and is_registered(layer):
        names = f"leaves out {_sizes(rest)}" if offered else "names no weight that it has"
        yield f"the rule for {name} {names}", Skipped.NO_RULE
    elif rest:
        which = f", {_sizes(rest)}" if sublayers(layer) else ""
        yield f"no rule for {name}{which}: tfprune.register_prunable names the weights to prune", Skipped.NO_RULE
    elif not others and not offered:
        yield f"{name} has only biases, scales or statistics", Skipped.NO_KERNEL


def _left_out(left: list[Kernel]) -> dict[str, list[str]]:
    """Return the paths of kernels without masks, by the words that say why."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for kernel in left:
        asked = ": depthwise, and pruned only where `filters` ask for it"
        reasons[" left out by `filters` or by the pattern" if kernel.mixes_inputs else asked].append(kernel.path)
    return reasons


def _sizes(weights: dict[str, keras.Variable]) -> str:
    count = sum(math.prod(weight.shape) for weight in weights.values())
    return f"{', '.join(weights)} of {count:,} parameters"


@dataclass(frozen=True)
class WeightRow(Report):
    """The number of zeros in a weight that can be pruned.

    Attributes:
        layer: The path of the layer in the model, names joined by slashes (`block_1/conv`).
        weight: The name of the weight in its layer (`kernel`).
        shape: The shape of the weight, in Keras' order.
        size: The number of entries.
        nnz: The number of non-zero entries, with the mask applied.
    """

    JSON_NAMES = ("layer", "weight", "shape", "size", "nnz", "sparsity")

    layer: str
    weight: str
    shape: tuple[int, ...]
    size: int
    nnz: int

    @property
    def path(self) -> str:
        """The path of the weight, which `filters` and the keys of `allocation` are matched with."""
        return f"{self.layer}/{self.weight}"

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, in [0, 1]."""
        return 1 - self.nnz / self.size


@dataclass(frozen=True)
class SparsityReport(Report):
    """The zeros per weight and overall. Biases and the weights of normalization are never counted.

    Attributes:
        rows: One row per counted weight: the wrapped ones, or in a plain model every registered kernel.
        skipped: The layers that have weights which are not pruned, each with the reason. It names every weight with
            rows and columns that is not pruned, depthwise kernels and position embeddings too; biases never.
        total_nnz: The number of non-zero entries in all kernels of the model, the skipped ones included.
        total_size: The number of entries in all kernels of the model, the skipped ones included.
        has_masks: Whether the model is wrapped; the default is True.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> report = sparsity_report(model)
        >>> report.rows[0].layer, report.sparsity
        ('hidden', 0.0)
    """

    JSON_NAMES = ("sparsity", "nnz", "size", "total_sparsity", "total_nnz", "total_size", "rows", "skipped")

    rows: tuple[WeightRow, ...]
    skipped: tuple[Skipped, ...]
    total_nnz: int
    total_size: int
    has_masks: bool = True

    @property
    def nnz(self) -> int:
        """The number of non-zero entries in the counted weights."""
        return sum(row.nnz for row in self.rows)

    @property
    def size(self) -> int:
        """The number of entries in the counted weights."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in the counted weights, in [0, 1]; 0 if there are none."""
        return 1 - self.nnz / self.size if self.size else 0.0

    @property
    def total_sparsity(self) -> float:
        """The fraction of zeros in all kernels of the model, in [0, 1]; 0 if there are none."""
        return 1 - self.total_nnz / self.total_size if self.total_size else 0.0

    def __str__(self) -> str:
        lines = [
            [row.path, "x".join(map(str, row.shape)), f"{row.size:,}", f"{row.nnz:,}", f"{row.sparsity:.1%}"]
            for row in self.rows
        ]
        if self.total_size != self.size:
            lines.append(["pruned weights", "", f"{self.size:,}", f"{self.nnz:,}", f"{self.sparsity:.1%}"])
        overall = f"{self.total_sparsity:.1%}"
        lines.append(["all kernels", "", f"{self.total_size:,}", f"{self.total_nnz:,}", overall])
        counts = table(["weight", "shape", "entries", "non-zero", "sparsity"], lines, left=2)
        is_plain = not self.has_masks and 0 < self.nnz == self.size
        advice = "\n\nThe model is not wrapped: tfprune.wrap returns the model to prune." if is_plain else ""
        return counts + skipped_table(self.skipped) + advice


# The plain, flat copy of a model in which channels are followed, and where each of its weights came from.


@dataclass(frozen=True, eq=False)
class Source:
    """Where a weight of a flat copy came from.

    Attributes:
        layer: The layer of the model that was copied, perhaps a wrapper, that holds the weight, perhaps deep inside.
        path: The path of this layer.
        variable: The weight there.
    """

    layer: keras.layers.Layer
    path: str
    variable: keras.Variable


@dataclass(eq=False)
class FlatCopy:
    """A copy of a model without wrappers, without models nested in it, and with layers opened that hold others.

    Attributes:
        model: The copy, a Functional model.
        anatomy: That of the same layers in a model of the kind that was copied, `plain`.
        called: The calls of `plain` as a Functional model, before layers were opened: it runs on data of any size.
        layers: The plain model and its layers, at any depth.
        names: Their names before some were renamed.
        closed: Why the code of a layer could not be traced, by the id of the layer.
        is_open_shaped: Whether the copy takes the shapes that the model takes; otherwise sizes that are open there
            are fixed, and it is for looking at only.
        sources: Where each weight came from, by the id of the weight.
        is_used_up: Whether `plain` or one of its layers was handed out.
    """

    model: keras.Model
    anatomy: Anatomy
    called: keras.Model
    layers: list[keras.layers.Layer]
    names: list[str]
    closed: dict[int, str]
    is_open_shaped: bool
    sources: dict[int, Source]
    is_used_up: bool = False

    @property
    def plain(self) -> keras.Model:
        """A model of the kind that was copied, which takes the shapes that the model takes."""
        return self.anatomy.model

    @property
    def is_opened(self) -> bool:
        """Whether there are layers in it that are inside of others in the model."""
        return {id(layer) for layer in self.model.layers if layer.weights} != {
            id(layer) for _, layer in self.anatomy.leaves if layer.weights
        }

    def hand_out(self) -> keras.Model:
        """Return `plain`, with the names that its layers had; the copy is used up by this."""
        self.is_used_up = True
        self._rename(self.names)
        return self.plain

    def view(self) -> keras.Model:
        """Return a model over the layers of the copy; compiled, it leaves no trace in the copy."""
        whole = self.plain if self.is_opened else self.model
        return whole if whole is self.plain and self.anatomy.kind is Kind.CODE else functional(whole)

    def read_weights(self, model: keras.Model) -> None:
        """Take the weights that the model has now, and leave the names of the layers as they are."""
        flat_names = [layer.name for layer in self.layers]
        self._rename(self.names)  # by which layers are found
        transfer_weights(Anatomy.of(model), self.plain)
        self._rename(flat_names)

    def write_zeros(self, network: Network, keep: np.ndarray) -> None:
        """Write zeros wherever a kernel makes or reads a channel that is not kept."""
        for weight, variable in network.variables(self.model):
            mask = weight.mask(keep)
            if not mask.all():
                variable.assign(as_numpy(variable) * mask)

    def _rename(self, names: Iterable[str]) -> None:
        for layer, name in zip(self.layers, names, strict=True):
            layer.name = name

    @cached_property
    def network(self) -> Network:
        """Its channels."""
        return analyze(self.model, closed=self.closed)


def flat_copy(anatomy: Anatomy) -> FlatCopy:
    """Strip, flatten and open a model; it is left untouched.

    Raises:
        ValueError: If it cannot be followed.
    """
    check_followable(anatomy)
    plain = plain_copy(anatomy)
    plain_anatomy = Anatomy.of(plain)
    layers = [layer for _, layer in plain_anatomy.every]
    names = [layer.name for layer in layers]  # flattening changes some
    called = call_graph(plain_anatomy)
    opened = open_layers(called, is_known=lambda layer: known_rule(layer) is not None)
    _check_opened(anatomy.model, plain, opened)
    return FlatCopy(
        model=opened.model,
        anatomy=plain_anatomy,
        called=called,
        layers=layers,
        names=names,
        closed=opened.closed,
        is_open_shaped=opened.is_open_shaped,
        sources=dict(_sources(anatomy, plain)),
    )


def channeled(
    model: keras.Model, variables: Collection[keras.Variable]
) -> tuple[Network, list[tuple[int, ChanneledWeight]]]:
    """Return the channels of a model, and its weights with channels, each with its index among `variables`.

    Raises:
        ValueError: If the model cannot be followed.
    """
    copy = flat_copy(Anatomy.of(model))
    network = copy.network
    indices = {id(variable): index for index, variable in enumerate(variables)}
    sources = ((weight, copy.sources.get(id(variable))) for weight, variable in network.variables(copy.model))
    return network, [(indices[id(source.variable)], weight) for weight, source in sources if source]


def statistics_owners(model: keras.Model, variables: Collection[keras.Variable]) -> StatisticsOwners:
    """Return the statistics of channels, by index among `variables`; none where the model cannot be followed."""
    untrained = {index for index, variable in enumerate(variables) if not variable.trainable}
    if not untrained:
        return StatisticsOwners()
    try:
        _, weights = channeled(model, variables)
    except ValueError as error:
        _log.info("statistics are taken for those of all channels: %s", error)
        return StatisticsOwners()
    return StatisticsOwners.of(weights, untrained=untrained)


def _sources(anatomy: Anatomy, plain: keras.Model) -> Iterator[tuple[int, Source]]:
    paths = {id(layer): path for path, layer in anatomy.leaves}
    for part, copy in layer_pairs(anatomy, plain):
        layer = part.model
        if part.kind is Kind.CODE:  # its layers come by themselves
            continue
        for variable, counterpart in zip(layer_inside(layer).weights, copy.weights, strict=True):
            yield id(counterpart), Source(layer, paths.get(id(layer), layer.name), variable)


def _check_opened(model: keras.Model, plain: keras.Model, opened: TracedGraph) -> None:
    """Refuse a subclassed model that is still one call."""
    if any(layer is plain for layer in opened.model.layers):
        reason = opened.closed.get(id(plain), "it has weights of its own; move them into a layer")
        raise ValueError(
            f"Expected a model whose calls can be traced. Received: {model.name!r} of class {type(model).__name__}, "
            f"whose layers cannot be followed: {reason}. Build it as keras.Model(inputs, outputs)."
        )


def score_kernels(
    copy: FlatCopy, named: NamedKernels, *, criterion: Criterion, gatherer: Gatherer | None
) -> dict[ChanneledWeight, Callable[[], np.ndarray]]:
    """Return a function for each kernel of a flat copy that computes its scores, once evidence was gathered.

    Args:
        copy: The flat copy.
        named: The kernels, with their paths and layers.
        criterion: The criterion.
        gatherer: What gathers evidence of the plain model of the copy; None without data.
    """
    subjects = {
        weight: Subject(
            path,
            kernel,
            criterion,
            functools.partial(as_numpy, kernel.variable),
            origin=copy.sources[id(kernel.variable)].variable,
        )
        for weight, (path, _, kernel) in named.items()
    }
    facts = gather(copy.model, list(subjects.values()), gatherer=gatherer)

    def scores(subject: Subject) -> np.ndarray:
        evidence = Evidence(subject.latent(), subject.path, subject.kernel.axes, facts[subject.path])
        return finite(criterion(evidence), subject.path)

    return {weight: functools.partial(scores, subject) for weight, subject in subjects.items()}

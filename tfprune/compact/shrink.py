"""Apply plans for channels: `shrink` builds the smaller model, `zero_channels` one of the same size."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import keep_largest, shape_along
from tfprune.base.output import save_figure
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice
from tfprune.compact.linear_map import NotLinear, Site, linear_map
from tfprune.compact.smaller import NoClass, SmallerGraph, resized_by_arguments, smaller_class
from tfprune.masking.strip import FlatCopy, flat_copy, strip
from tfprune.models.anatomy import Anatomy, Kernel, Kind, as_numpy, kind_of, to_matrix, walk
from tfprune.models.graph import Graph, trace_to_run
from tfprune.models.twin import config_of, layer_states, plain_parts
from tfprune.report import Report, Skipped, new_figure, skipped_table, table
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

# The flat copy that a plan was made of, kept so that the plan can be carried out without another one.


class PlannedCopy:
    """A flat copy with what the model was when it was copied; the model itself is not kept alive.

    Args:
        model: The model.
        copy: Its flat copy.
    """

    def __init__(self, model: keras.Model, copy: FlatCopy) -> None:
        self._model = weakref.ref(model)
        self._settings = _settings(model)
        self._copy = replace(copy, sources={})  # which hold the layers of the model

    def of(self, model: keras.Model) -> FlatCopy | None:
        """Return the copy with the weights that a model has now; None for another model, or one that was changed."""
        is_fitting = self._settings is not None and self._model() is model and _settings(model) == self._settings
        if self._copy.is_used_up or not is_fitting:
            return None
        self._copy.read_weights(model)
        return self._copy


def _settings(model: keras.Model) -> dict[str, Any] | None:
    """Return the settings that decide how a model is copied, weights aside; None if they cannot be known."""
    parts = [part for _, part in walk(model)]
    if any(kind_of(part) is Kind.CODE or hasattr(part, "get_vocabulary") for part in parts):
        return None
    try:
        config = config_of(model)
    except ValueError:
        return None
    return {**config, "compile_config": None, "states": layer_states(plain_parts(model))}


# A plan to shrink a model: the remaining channels, the savings, and the skipped layers.

_SHOWN = 3  # members of a group that a table names


@dataclass(frozen=True)
class GroupRow(Report):
    """A group of channels: how many remain, and the savings.

    Attributes:
        group: The name of the group: the first layer that makes its channels, `conv`, or `attention/heads` for the
            heads of an attention layer.
        kind: "channels", or "heads" of attention.
        members: The layers that make, read or pass the channels.
        channels: Their number; tied channels, which can only go together, count as one.
        kept: The number of remaining channels.
        parameters: Entries of all weights that hold any of the channels, now.
        parameters_kept: The same once the model is shrunk.
        flops: Floating-point operations of their layers on one sample, two for each multiplication of kernels and of
            attention, now.
        flops_kept: The same once the model is shrunk.
    """

    group: str
    kind: str
    members: tuple[str, ...]
    channels: int
    kept: int
    parameters: int
    parameters_kept: int
    flops: int
    flops_kept: int


@dataclass(frozen=True, eq=False)
class ShrinkPlan(Report):
    """The remaining channels of a model: print the plan, then call `shrink(model, plan)`.

    Attributes:
        network: The channels of the model.
        keep: For each bundle of tied channels, whether it remains.
        skipped: The groups and layers that keep channels, with the reason.
        planned_copy: A copy of the model, as large as the model, from which `shrink` builds the smaller one with the
            weights that the model has by then. It is not printed, saved or copied with the plan; a plan without it
            does the same and takes longer: `dataclasses.replace(plan, planned_copy=None)`.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> plan = tfprune.plan_shrink(model, 0.5)
        >>> plan.rows[0].group, plan.rows[0].channels, plan.rows[0].kept
        ('hidden', 16, 8)
    """

    JSON_NAMES = ("parameters", "parameters_kept", "flops", "flops_kept", "rows", "skipped")

    network: Network
    keep: np.ndarray
    skipped: tuple[Skipped, ...] = ()
    planned_copy: PlannedCopy | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "planned_copy": None}

    @property
    def rows(self) -> tuple[GroupRow, ...]:
        """One entry per group of channels, in the model's order."""
        return tuple(self._row(group) for group in self.network.groups)

    def _row(self, group: Group) -> GroupRow:
        all_kept = self.network.all_kept()
        layers = [self.network.layers[name] for name in group.members]
        weights = [weight for layer in layers for weight in layer.weights if weight.holding(group.bundles)]
        left = set(self.network.weights_left(self.keep))
        gone = self.network.unread(self.keep) | self.network.branch_ends(self.keep)
        sizes = [
            sum(weight.size(all_kept) for weight in weights),
            sum(weight.size(self.keep) for weight in weights if weight in left),
        ]
        flops = [
            sum(layer.flops(all_kept) for layer in layers),
            sum(layer.flops(self.keep) for layer in layers if layer.name not in gone),
        ]
        remaining = int(np.count_nonzero(self.keep[group.bundles]))
        return GroupRow(group.name, group.kind, group.members, group.bundles.size, remaining, *sizes, *flops)

    @property
    def parameters(self) -> int:
        """Entries of all weights of the model, now."""
        return self.network.parameters(self.network.all_kept())

    @property
    def parameters_kept(self) -> int:
        """Entries of all weights of the model once it is shrunk."""
        return self.network.parameters(self.keep)

    @property
    def flops(self) -> int:
        """Floating-point operations of the model on one sample, now; sizes that are not known count as 1."""
        return self.network.flops(self.network.all_kept())

    @property
    def flops_kept(self) -> int:
        """Floating-point operations of the model on one sample once it is shrunk."""
        return self.network.flops(self.keep)

    def allocation(self) -> dict[str, float]:
        """Return the sparsity of each group by a regular expression, as `allocation` for `PruningCallback`.

        Training then prunes gradually instead of at once. It chooses the channels again.
        """
        rows = [row for row in self.rows if row.kept < row.channels]
        return {f"^{re.escape(row.group)}$": 1 - row.kept / row.channels for row in rows} | {"": 0.0}

    def __str__(self) -> str:
        lines = [
            [
                *(row.group, _shortened(row.members), _part(row.kept, row.channels)),
                *(_part(row.parameters_kept, row.parameters), _part(row.flops_kept, row.flops)),
            ]
            for row in self.rows
        ]
        sums = [_part(self.parameters_kept, self.parameters), _part(self.flops_kept, self.flops)]
        lines.append(["the model", "", "", *sums])
        header = ["group", "members", "channels kept", "parameters kept", "FLOPs kept"]
        return table(header, lines, left=2) + skipped_table(self.skipped)

    def plot(self, path: str | Path) -> None:
        """Draw the channels of each group, and how many remain, into an image file.

        Args:
            path: The file; its suffix determines the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        rows = self.rows
        figure = new_figure(8, 1.2 + 0.22 * len(rows))
        axes = figure.subplots()
        heights = range(len(rows))
        axes.barh(heights, [row.channels for row in rows], color="#d8dee6", label="channels")
        axes.barh(heights, [row.kept for row in rows], color="#1f6f8b", label="kept")
        axes.set_yticks(heights, [row.group for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("channels")
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, path)


def _part(kept: int, total: int) -> str:
    return f"{kept:,} of {total:,}"


def _shortened(members: tuple[str, ...]) -> str:
    more = len(members) - _SHOWN
    return ", ".join(members[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_plan(plan: Any) -> None:
    """Refuse everything but a plan.

    Raises:
        TypeError: If it is not one.
    """
    if not isinstance(plan, ShrinkPlan):
        raise ArgumentTypeError(
            "plan",
            "a plan",
            f"{plan!r} of type {type(plan).__name__}",
            advice="Make one with tfprune.plan_shrink(model, 0.5).",
        )


def flat_copy_for(plan: ShrinkPlan, model: keras.Model) -> FlatCopy:
    """Return a flat copy of the model that a plan was made for, with the weights that the model has now.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.
    """
    check_plan(plan)
    planned = None if plan.planned_copy is None else plan.planned_copy.of(model)
    if planned is not None:
        return planned
    copy = flat_copy(Anatomy.of(model))
    shapes = {
        layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in copy.model.layers if layer.weights
    }
    expected = {
        name: [weight.shape for weight in layer.weights]
        for name, layer in plan.network.layers.items()
        if layer.weights
    }
    differing = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if differing:
        raise ValueError(
            f"Expected the model that the plan was made for. Received: {model.name!r}, where these layers differ: "
            f"{', '.join(differing[:5])}. Make a plan for this model: tfprune.plan_shrink(model, ...)."
        )
    return copy


# Carry out a plan: build the smaller model.


def shrink(model: keras.Model, plan: ShrinkPlan, *, into: str | None = None, uniform: bool = False) -> keras.Model:
    """Build the smaller model, without the channels that a plan removes.

    Use it to carry out a plan. Up to rounding, its outputs are those of `zero_channels(model, plan)`, the model of
    the same size with zeros in place of these channels. It saves, loads and exports without tfprune, with one
    exception: if the arguments of the model's class cannot describe the smaller model, for example because its blocks
    keep different numbers of heads, it has no preset, and you load its `.keras` file after `import keras, tfprune`.

    Args:
        model: The model that the plan was made for, wrapped or not. It is left unchanged.
        plan: The plan of `plan_shrink` for this model.
        into: `"class"` for a model of the same class, such as a backbone or task of KerasHub with `generate`, presets
            and LoRA; `"graph"` for a Functional model of plain layers and operations. None (the default) builds the
            same class if it can, and otherwise a graph.
        uniform: Whether all blocks keep the same number of heads and of units, so that the arguments of the class
            describe the model, and presets and `export_to_transformers` are right. Of the channels of one kind and
            number, each block keeps as many as the block that keeps most; those with the largest weights come back.
            Default False, which keeps what the plan says.

    Returns:
        An uncompiled model of the same class, or a Functional model without nested models and without layers that
        call others, with the paths of the layers as their names.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model, or a model of the same class cannot be built with
            `into="class"`.
        ValueError: If no argument of the model's class counts what is removed, with `uniform=True`.
        ValueError: If a graph cannot be built because the code of the model reads sizes that are not known.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> [weight.shape for weight in shrink(model, plan_shrink(model, 0.5)).get_layer("hidden").weights]
        [TensorShape([8, 3]), TensorShape([3])]
    """
    check_choice(into, "into", choices=(None, "class", "graph"))
    copy = flat_copy_for(plan, model)
    if uniform:
        plan = replace(plan, keep=_equal_counts(copy, plan))
    return build_smaller(copy, plan, into=into, by_arguments=uniform)


def _equal_counts(copy: FlatCopy, plan: ShrinkPlan) -> np.ndarray:
    """Return what is kept where groups that differ by a number in their names keep as many as the one with most."""
    network, rows = plan.network, {row.group: row for row in plan.rows}
    alike: dict[tuple[str, int, str], list[Group]] = {}
    for group in network.groups:
        if group.free.any():
            role = re.sub(r"\d+", "*", group.name)
            alike.setdefault((group.kind, group.bundles.size, role), []).append(group)
    sizes = ((weight, np.abs(as_numpy(variable))) for weight, variable in network.variables(copy.model))
    scores = np.nan_to_num(network.scores(sizes))
    keep = plan.keep.copy()
    for groups in alike.values():
        most = max(rows[group.name].kept for group in groups)
        for group in groups:
            if more := most - rows[group.name].kept:
                removed = group.bundles[~keep[group.bundles]]
                keep[removed[keep_largest(scores[removed], more)]] = True
    return keep


def build_smaller(
    copy: FlatCopy, plan: ShrinkPlan, *, into: str | None = None, by_arguments: bool = False
) -> keras.Model:
    """Build the smaller model from a flat copy, which may be used up by this.

    Args:
        copy: A flat copy of the model that the plan was made for.
        plan: The plan.
        into: As in `shrink`.
        by_arguments: Whether a model of its class has to be one that the arguments of the class describe.

    Raises:
        ValueError: As `shrink` does.
    """
    name, reason = copy.plain.name, f"{type(copy.plain).__name__} is not a Functional subclass with blocks"
    if into != "graph" and copy.anatomy.kind.is_functional_subclass:
        try:
            return resized_by_arguments(copy, plan.network, keep=plan.keep)
        except NoClass as why:
            if by_arguments:
                raise ValueError(
                    f"Expected a plan that the arguments of {type(copy.plain).__name__} can describe, with "
                    f"uniform=True. Received: one for {name!r}; {why}. Remove only what they count, such as units "
                    f"(`filters`), or leave `uniform` out."
                ) from None
        try:
            return smaller_class(copy, plan.network, keep=plan.keep)
        except NoClass as why:
            reason = str(why)
    if into == "class":
        raise ArgumentError(
            "into",
            "a model whose class can have fewer heads and hidden units",
            f"'class' with {name!r}; {reason}",
            advice="Or leave `into` out, for a Functional model.",
        )
    if not copy.is_open_shaped:
        raise ValueError(
            f"Expected a model whose code can be traced with the sizes of its inputs open, or whose class can have "
            f"fewer heads and hidden units. Received: {name!r}, whose code looks at open sizes; "
            f"{'into=' + repr(into) if into else reason}. For a graph fix the sizes, as in "
            f"x = {_fixed_input(copy.plain)} for each input, and shrink keras.Model(x, model(x))."
        )
    smaller = SmallerGraph(copy, plan.network, keep=plan.keep).model
    return keras.Model(smaller.input, smaller.output, name=name)


def _fixed_input(model: keras.Model) -> str:
    """Return code that makes the first input of a model of fixed sizes, 128 where the model leaves them open."""
    tensor = keras.tree.flatten(model.input)[0]
    shape = tuple(size or 128 for size in tensor.shape[1:])
    return f"keras.Input({shape}, batch_size=1, dtype={str(tensor.dtype)!r})"


# Set the channels that a plan removes to zero, in a model of the same size.


def zero_channels(model: keras.Model, plan: ShrinkPlan) -> keras.Model:
    """Copy a model, with zeros in the kernel entries that make or read a channel that a plan removes.

    Use it before `reconstruct`, which solves for the remaining weights, or to evaluate a plan. The copy has the size
    of the model; `shrink` builds the smaller one.

    Args:
        model: The model that the plan was made for, wrapped or not. It is left unchanged.
        plan: The plan of `plan_shrink` for this model.

    Returns:
        An uncompiled Functional model without nested models, or a model of the same kind if layers that call others
        lose channels.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> masked = zero_channels(model, plan_shrink(model, 0.5))
        >>> int(keras.ops.count_nonzero(masked.get_layer("out").kernel))
        6
    """
    copy = flat_copy_for(plan, model)
    copy.write_zeros(plan.network, plan.keep)
    return copy.hand_out() if copy.is_opened else strip(copy.model)


# The linear maps that read channels, found in a model that runs: the layers inside of its blocks are listened to.


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map that reads the channels of a group.

    Attributes:
        site: The map, in the graph that runs.
        weight: Its kernel in the dependency graph.
        indices: The indices of each bundle among its inputs, of shape (bundles, indices).
    """

    site: Site
    weight: ChanneledWeight
    indices: np.ndarray


class RunningModel:
    """A copy of a model that runs on data of any size, with the channels that were found in its flat copy.

    Args:
        copy: The flat copy, whose layers are the ones that run.
    """

    def __init__(self, copy: FlatCopy) -> None:
        self.network: Network = copy.network
        self.graph: Graph = trace_to_run(copy.called)
        self.variables = list(self.network.variables(copy.model))
        self._leaves = {layer.name: layer for layer in copy.model.layers}
        self._inside = [
            {id(part) for _, part in walk(call.layer)} if isinstance(call.layer, keras.layers.Layer) else set()
            for call in self.graph.calls
        ]

    def readers_of(self, group: Group) -> list[Reader]:
        """Return the maps that read bundles of a group.

        Raises:
            NotLinear: If one of them is not a linear map of these inputs, or some bundles have more inputs than
                others.
        """
        readers = []
        for weight in self.network.weights_of(group):
            for axis in weight.reading(group.bundles):
                site = self._site(weight)
                readers.append(Reader(site, weight, _input_indices(site.map.kernel, weight, axis, group.bundles)))
        return readers

    def _site(self, weight: ChanneledWeight) -> Site:
        leaf: Any = self._leaves[weight.layer]
        calls = [call for call, inside in zip(self.graph.calls, self._inside, strict=True) if id(leaf) in inside]
        own_map = linear_map(leaf)
        if own_map.kernel.path != weight.name or own_map.groups > 1 or not calls:
            raise NotLinear(f"{weight.layer} reads them by {weight.name}")
        return Site(weight.layer, own_map, calls, self.graph)


def _input_indices(kernel: Kernel, weight: ChanneledWeight, axis: int, bundles: np.ndarray) -> np.ndarray:
    """Return the indices of each bundle among the inputs of a kernel's matrix, of shape (bundles, indices)."""
    along = weight.bundles_along[axis].reshape(shape_along(len(weight.shape), axis))
    inputs = to_matrix(np.broadcast_to(along, weight.shape), kernel)[0].ravel()
    indices = [np.flatnonzero(inputs == bundle) for bundle in bundles]
    if len({own.size for own in indices}) > 1:
        raise NotLinear("some of these channels have more inputs than others")
    return np.array(indices)

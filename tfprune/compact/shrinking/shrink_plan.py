"""A plan to shrink a model: the remaining channels, the savings, and the skipped layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.compact.shrinking.planned_copy import PlannedCopy
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.flat_copy import FlatCopy, flat_copy
from tfprune.report import Report, Skipped, new_figure, save_figure, skipped_table, table
from tfprune.solving.dependency_graph import Group, Network

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


def flat_copy_for(plan: ShrinkPlan, model: keras.Model) -> FlatCopy:
    """Return a flat copy of the model that a plan was made for, with the weights that the model has now.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.
    """
    if not isinstance(plan, ShrinkPlan):
        raise TypeError(
            f"Expected a plan. Received: plan={plan!r} of type {type(plan).__name__}. Make one with "
            f"tfprune.plan_shrink(model, 0.5)."
        )
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

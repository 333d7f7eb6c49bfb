"""Read rules off a decision tree over activations: the path to each node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune.methods.rule_mining.best_split import UnitSplit, UnitValues
from tfprune.methods.rule_mining.rule import Threshold

ERROR = 0.05  # the chance of a split where no unit has to do with the concept
_Bounds = dict[tuple[int, bool], float]  # thresholds, by unit and side


@dataclass(frozen=True)
class Path:
    """The path to a node of a tree.

    Attributes:
        thresholds: The bounds that hold on its samples, by unit; a unit that is asked several times leaves its
            narrowest bounds.
        is_there: Whether most of its samples have the concept.
        support: The number of its samples; a group counts as one.
        is_leaf: Whether the node is a leaf.
    """

    thresholds: tuple[Threshold, ...]
    is_there: bool
    support: float
    is_leaf: bool


@dataclass(frozen=True)
class TreeLimits:
    """The size of a tree.

    Attributes:
        depth: The most thresholds between the root and a leaf.
        samples: The least number of samples of a leaf; a group counts as one.
    """

    depth: int
    samples: int


def mine_rules(
    values: UnitValues, labels: np.ndarray, *, weights: np.ndarray, units: np.ndarray, limits: TreeLimits
) -> list[Path]:
    """Return the paths to the nodes of a tree below its root, largest first.

    A node is split where that tells most about the concept, as long as it tells significantly more than chance: by
    the G test, corrected for all thresholds of all units. So leaves need not be pure, and noise in the labels is not
    split any further.

    Args:
        values: The activations of a layer.
        labels: Whether the concept is there, (samples,); both cases occur.
        weights: The weight of each sample, (samples,).
        units: The indices of the units that may be asked, rising.
        limits: The size of the tree.

    Reference:
        Gopinath et al., 2023, "Feature-Guided Analysis of Neural Networks", FASE 2023: trees, there with pure leaves.
        Hothorn et al., 2006, "Unbiased Recursive Partitioning": a tree that stops where no split is significant.
    """
    paths: list[Path] = []
    ahead: list[tuple[np.ndarray, _Bounds, int]] = [(np.arange(labels.size), {}, 0)]
    while ahead:
        rows, bounds, depth = ahead.pop()
        weight, there = float(weights[rows].sum()), float(weights[rows[labels[rows]]].sum())
        can_split = depth < limits.depth and weight >= 2 * limits.samples and 0 < there < weight
        split = None
        if can_split:
            least = float(limits.samples)
            split = values.best_split(rows, labels, weights, units=units, least=least, error=ERROR)
        if bounds:
            thresholds = sorted(Threshold(unit, is_above, value) for (unit, is_above), value in bounds.items())
            paths.append(Path(tuple(thresholds), there > weight / 2, weight, split is None))
        if split is not None:
            is_above = values.values_of(split.unit)[rows].astype(np.float64) > split.value
            ahead += [(rows[is_above == side], _narrowed(bounds, split, side), depth + 1) for side in (False, True)]
    return sorted(paths, key=lambda path: (-path.support, path.thresholds))


def _narrowed(bounds: _Bounds, split: UnitSplit, is_above: bool) -> _Bounds:
    """Add the threshold of one side of a split to the bounds of a node."""
    at = (split.unit, is_above)
    narrowest = max if is_above else min
    return bounds | {at: narrowest(split.value, bounds.get(at, split.value))}

"""A rule: thresholds on the activations of one layer that tell whether a concept is there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tfprune.methods.rule_mining.counts import Counts
from tfprune.report import Report


@dataclass(frozen=True, order=True)
class Threshold(Report):
    """A bound on the activation of one unit.

    Attributes:
        unit: The index of the unit in its layer.
        is_above: Whether the activation has to be above the bound; otherwise at or below it.
        value: The bound.

    Example:
        >>> print(Threshold(3, True, 0.5), Threshold(3, False, 1.25))
        [3] > 0.5 [3] <= 1.25
    """

    JSON_NAMES = ("unit", "sign", "value")

    unit: int
    is_above: bool
    value: float

    @property
    def sign(self) -> str:
        """Either `>` or `<=`."""
        return ">" if self.is_above else "<="

    def __str__(self) -> str:
        return f"[{self.unit}] {self.sign} {self.value:.4g}"


@dataclass(frozen=True)
class ConceptRule(Report):
    """Thresholds that all hold mostly where a concept is there: a path of a decision tree.

    Rules are equal if their paths are, whatever they were measured on.

    Attributes:
        concept: The concept.
        layer: The layer.
        thresholds: The bounds, by unit.
        support: The samples that it was mined from on which all hold.
        is_leaf: Whether the path ends at a leaf of its tree; otherwise a longer rule begins with it.
        counts: How often it holds, and is right, on the samples for reporting.

    Example:
        >>> rule = ConceptRule("dark", "hidden", (Threshold(0, True, 0.5), Threshold(2, False, 1.0)), 40)
        >>> print(rule)
        hidden[0] > 0.5 and hidden[2] <= 1
        >>> rule.matches(np.array([[0.6, 9, 1.0], [0.5, 9, 0.0]]))
        array([ True, False])
    """

    JSON_NAMES = ("concept", "layer", "thresholds", "support", "matched", "precision", "recall", "counts")

    concept: str
    layer: str
    thresholds: tuple[Threshold, ...]
    support: int = field(compare=False)
    is_leaf: bool = field(default=True, compare=False)
    counts: Counts = field(default=Counts(), compare=False)

    @property
    def units(self) -> tuple[int, ...]:
        """The units that it reads, in order."""
        return tuple(sorted({threshold.unit for threshold in self.thresholds}))

    @property
    def matched(self) -> int:
        """The samples for reporting on which it holds."""
        return round(self.counts.matched)

    @property
    def hits(self) -> int:
        """Those of them with the concept."""
        return round(self.counts.hits)

    @property
    def precision(self) -> float:
        """The fraction of the samples for reporting on which it holds that have the concept; 0 if there are none."""
        return self.counts.precision

    @property
    def recall(self) -> float:
        """The fraction of the samples for reporting with the concept on which it holds."""
        return self.counts.recall

    def matches(self, activations: np.ndarray) -> np.ndarray:
        """Tell for each sample whether all thresholds hold.

        Args:
            activations: The activations of the layer, (samples, units).
        """
        # Float32 values are compared with thresholds in float64: in float32, a threshold would be rounded.
        seen = np.asarray(activations, dtype=np.float32)[:, [each.unit for each in self.thresholds]]
        bounds = np.array([each.value for each in self.thresholds], dtype=np.float64)
        above = np.array([each.is_above for each in self.thresholds], dtype=bool)
        return ((seen.astype(np.float64) > bounds) == above).all(axis=1)

    def __str__(self) -> str:
        return " and ".join(f"{self.layer}{threshold}" for threshold in self.thresholds)

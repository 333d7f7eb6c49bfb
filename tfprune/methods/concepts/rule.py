"""A rule: thresholds on the activations of one layer that tell whether a concept is there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

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
    """Thresholds that all hold only where a concept is there, as far as the training samples show.

    Attributes:
        concept: The concept.
        layer: The layer.
        thresholds: The bounds, by unit.
        support: The training samples on which all hold; the concept is there on each.
        matched: The held-out samples on which all hold.
        precision: The fraction of these on which the concept is there; 0 if there are none.
        recall: The fraction of the held-out samples with the concept on which all hold.

    Example:
        >>> rule = ConceptRule("dark", "hidden", (Threshold(0, True, 0.5), Threshold(2, False, 1.0)), 40)
        >>> print(rule)
        hidden[0] > 0.5 and hidden[2] <= 1
        >>> rule.matches(np.array([[0.6, 9, 1.0], [0.5, 9, 0.0]]))
        array([ True, False])
    """

    concept: str
    layer: str
    thresholds: tuple[Threshold, ...]
    support: int
    matched: int = 0
    precision: float = 0.0
    recall: float = 0.0

    @property
    def units(self) -> tuple[int, ...]:
        """The units that it reads, in order."""
        return tuple(sorted({threshold.unit for threshold in self.thresholds}))

    @property
    def hits(self) -> int:
        """The held-out samples with the concept on which it holds."""
        return round(self.precision * self.matched)

    def matches(self, activations: np.ndarray) -> np.ndarray:
        """Tell for each sample whether all thresholds hold.

        Args:
            activations: The activations of the layer, (samples, units).
        """
        # scikit-learn compares float32 with thresholds in float64: in float32, a threshold would be rounded.
        seen = np.asarray(activations, dtype=np.float32)[:, [each.unit for each in self.thresholds]]
        bounds = np.array([each.value for each in self.thresholds], dtype=np.float64)
        above = np.array([each.is_above for each in self.thresholds], dtype=bool)
        return ((seen.astype(np.float64) > bounds) == above).all(axis=1)

    def measured(self, activations: np.ndarray, labels: np.ndarray) -> ConceptRule:
        """Return the rule with the precision and recall that it has on other samples.

        Args:
            activations: The activations of the layer, (samples, units).
            labels: Whether the concept is there, (samples,).
        """
        is_matched = self.matches(activations)
        hits, matched, there = (int(np.count_nonzero(each)) for each in (is_matched & labels, is_matched, labels))
        return replace(self, matched=matched, precision=hits / max(matched, 1), recall=hits / max(there, 1))

    def __str__(self) -> str:
        return " and ".join(f"{self.layer}{threshold}" for threshold in self.thresholds)

"""Counts of how often rules hold and are right, and the confidence intervals that such counts allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfprune.report import Report

_MOST_STEPS = 1000  # of the continued fraction, which settles in about the square root of the counts
_HALVINGS = 60


@dataclass(frozen=True)
class Counts(Report):
    """How often rules hold on some samples, and how often they are right.

    A group of samples counts as one: each of its samples adds its share.

    Attributes:
        matched: The samples on which a rule holds.
        hits: Those of them that have the concept.
        positives: All samples that have the concept.

    Example:
        >>> counts = Counts(matched=50, hits=48, positives=60)
        >>> counts.precision, counts.recall
        (0.96, 0.8)
        >>> [round(bound, 3) for bound in counts.precision_interval]
        [0.863, 0.995]
    """

    JSON_NAMES = ("matched", "hits", "positives", "precision_interval", "recall_interval")

    matched: float = 0.0
    hits: float = 0.0
    positives: float = 0.0

    @property
    def precision(self) -> float:
        """The fraction of the matched samples that have the concept; 0 if there are none."""
        return self.hits / self.matched if self.matched else 0.0

    @property
    def recall(self) -> float:
        """The fraction of the samples with the concept that are matched; 0 if there are none."""
        return self.hits / self.positives if self.positives else 0.0

    @property
    def precision_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the precision."""
        return interval(self.hits, self.matched)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the recall."""
        return interval(self.hits, self.positives)

    def __str__(self) -> str:
        return f"precision {percent(self.precision, self.precision_interval)}, recall " + percent(
            self.recall, self.recall_interval
        )


def percent(value: float, bounds: tuple[float, float]) -> str:
    """Write a fraction and its interval in percent.

    Example:
        >>> percent(0.96, (0.8629, 0.9951))
        '96.0% [86.3, 99.5]'
    """
    return f"{value:.1%} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def interval(hits: float, trials: float) -> tuple[float, float]:
    """Return the two-sided 95 % interval of Clopper and Pearson for a fraction; (0, 1) without trials."""
    return lower_bound(hits, trials, error=0.025), 1 - lower_bound(trials - hits, trials, error=0.025)


def lower_bound(hits: float, trials: float, *, error: float) -> float:
    """Return the lower bound of Clopper and Pearson for a fraction.

    Args:
        hits: The successes, at least 0. They need not be whole.
        trials: The number of trials.
        error: The chance, at most, that the true fraction lies below the bound, in (0, 1).

    Example:
        >>> round(lower_bound(59, 59, error=0.05), 4)
        0.9505

    Reference:
        Clopper and Pearson, 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
    """
    if hits <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):  # the chance of so many hits or more rises with the fraction
        middle = (low + high) / 2
        is_below = _beta_probability(middle, hits, max(trials - hits, 0.0) + 1) < error
        low, high = (middle, high) if is_below else (low, middle)
    return low


def _beta_probability(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement settles faster
        return 1 - _beta_probability(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of the incomplete beta function by the method of Lentz."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, _MOST_STEPS):
        half = step // 2
        factor = -(a + half) * (a + b + half) if step % 2 else half * (b - half)
        term = factor * x / ((a + step - 1) * (a + step))
        d = 1 / _not_zero(1 + term * d)
        c = _not_zero(1 + term / c)
        value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return 1 / value


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300

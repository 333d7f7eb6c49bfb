"""Statistics of two models on the same samples, in NumPy: intervals, exact tests and their correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LIKELY = 12  # standard deviations around the mean that hold all of a distribution but 1e-30
BISECTIONS = 200  # halvings of an interval until neighboring floats are reached
LARGEST_QUANTILE = 1e9

_log_factorial = np.frompyfunc(lambda count: math.lgamma(count + 1), 1, 1)


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: whether as many samples were lost as gained.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; exact by
    the binomial distribution.
    """
    flips = lost + gained
    if not flips:
        return 1.0
    fewer = np.arange(min(lost, gained) + 1)
    logs = _log_choose(flips, fewer) - flips * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def benjamini_hochberg(p_values: Sequence[float]) -> np.ndarray:
    """Return adjusted p-values: rejecting those below 0.05 keeps the expected share of false ones below 0.05.

    Source: Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", 1995.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")[::-1]  # the largest first
    ranks = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, values[order] * len(values) / ranks))
    return adjusted


def excess_loss_test(lost: int, gained: int, *, samples: int, overall: tuple[int, int, int]) -> float:
    """Return the p-value of a group that lost more than it would if groups had nothing to do with the flips.

    It is the exact permutation test: of all ways to draw as many samples as the group has, the fraction in which
    lost minus gained is as large or larger.

    Args:
        lost: Samples of the group that only the model before gets right.
        gained: Samples of the group that only the model after gets right.
        samples: The samples of the group.
        overall: The same three counts of all samples.
    """
    all_lost, all_gained, total = overall
    losses = _likely_counts(all_lost, samples, total)
    gains = _likely_counts(all_gained, samples, total)
    others = total - all_lost - all_gained
    flips = np.arange(gains[0] + losses[0], gains[-1] + losses[-1] + 1)
    rest = _log_choose(others, samples - flips)
    joint = (
        _log_choose(all_lost, losses)[:, None]
        + _log_choose(all_gained, gains)[None, :]
        + rest[np.add.outer(losses, gains) - flips[0]]
        - _log_choose(total, np.array([samples]))
    )
    as_much = np.subtract.outer(losses, gains) >= lost - gained
    return min(1.0, float(np.exp(joint[as_much]).sum()))


def excess_error_test(increase: np.ndarray, inside: np.ndarray) -> float:
    """Return the p-value of a group whose errors grew more than those of the other samples.

    It is the one-sided rank-sum test of Mann and Whitney, with corrections for ties and continuity.

    Args:
        increase: How much the error of each sample grew, (samples,).
        inside: Whether each sample belongs to the group, (samples,).
    """
    total, size = len(increase), int(inside.sum())
    rest = total - size
    if not rest or not size:
        return 1.0
    _, place, counts = np.unique(increase, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    wins = float(ranks[inside].sum()) - size * (size + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (total * (total - 1))
    variance = size * rest / 12 * (total + 1 - ties)
    if variance <= 0:
        return 1.0
    return math.erfc((wins - size * rest / 2 - 0.5) / math.sqrt(2 * variance)) / 2


def clustered_interval(values: np.ndarray, *, clusters: np.ndarray, level: float) -> tuple[float, float] | None:
    """Return Student's interval of a mean whose values depend on each other within clusters; None for one cluster.

    It is that of a ratio of totals: with one value in each cluster it is `mean_interval`.

    Args:
        values: The values, (values,).
        clusters: The number of the cluster of each value, (values,).
        level: The coverage.

    Source: W. G. Cochran, "Sampling Techniques", 1977, section 6.3, the variance of a ratio.
    """
    mean, parts = float(values.mean()), _deviations(values, np.ones(len(values), bool), clusters)
    if len(parts) < 2:
        return None
    half = _student_quantile((1 + level) / 2, len(parts) - 1) * _spread(parts)
    return mean - half, mean + half


def clustered_excess_test(values: np.ndarray, inside: np.ndarray, *, clusters: np.ndarray) -> float:
    """Return the p-value of a group whose mean is above that of the other values, of values within clusters.

    It is the one-sided test of Student for the difference of two ratios of totals over the same clusters.

    Args:
        values: The values, (values,).
        inside: Whether each value belongs to the group, (values,).
        clusters: The number of the cluster of each value, (values,).
    """
    if inside.all() or not inside.any():
        return 1.0
    parts = _deviations(values, inside, clusters) - _deviations(values, ~inside, clusters)
    spread = _spread(parts) if len(parts) > 1 else 0.0
    if not spread:
        return 1.0
    t = float(values[inside].mean() - values[~inside].mean()) / spread
    outside = (1 - _student_inside(abs(t), len(parts) - 1)) / 2
    return outside if t > 0 else 1 - outside


def _deviations(values: np.ndarray, inside: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the part of each cluster in the deviation of the group's mean."""
    names, place = np.unique(clusters, return_inverse=True)
    deviations = np.where(inside, values - values[inside].mean(), 0.0)
    return np.bincount(place, weights=deviations, minlength=len(names)) / int(inside.sum())


def _spread(parts: np.ndarray) -> float:
    """Return the standard error of a sum of independent parts with mean 0."""
    return math.sqrt(len(parts) / (len(parts) - 1) * float((parts**2).sum()))


def mean_interval(values: np.ndarray, *, level: float) -> tuple[float, float] | None:
    """Return Student's interval of a mean; None for a single value, which says nothing about the spread."""
    if len(values) < 2:
        return None
    half = _student_quantile((1 + level) / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _student_quantile(probability: float, freedom: int) -> float:
    """Invert Student's distribution by bisection."""
    low, high = 0.0, LARGEST_QUANTILE
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_below = _student_inside(middle, freedom) < 2 * probability - 1
        low, high = (middle, high) if is_below else (low, middle)
    return (low + high) / 2


def _student_inside(t: float, freedom: int) -> float:
    """Return the probability between -t and t of Student's distribution: the finite sum for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    steps = np.arange(1, (freedom - 1 - odd) // 2 + 1 if odd else freedom // 2, dtype=np.float64)
    ratios = 2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)
    angle = math.atan(t / math.sqrt(freedom))
    squares = math.cos(angle) ** 2
    terms = 1 + float(np.cumprod(ratios * squares).sum())
    if not odd:
        return math.sin(angle) * terms
    return 2 / math.pi * (angle + (math.sin(angle) * math.cos(angle) * terms if freedom > 1 else 0.0))


def _likely_counts(marked: int, draws: int, total: int) -> np.ndarray:
    """Return the counts of marked samples among the draws that have a noticeable probability."""
    mean = draws * marked / total
    spread = LIKELY * math.sqrt(mean * (1 - marked / total)) + LIKELY
    least, most = max(0, draws - (total - marked)), min(marked, draws)
    return np.arange(max(least, math.floor(mean - spread)), min(most, math.ceil(mean + spread)) + 1)


def _log_choose(total: int, sizes: np.ndarray) -> np.ndarray:
    """Return the logarithms of binomial coefficients, minus infinity where there is no such choice."""
    possible = (sizes >= 0) & (sizes <= total)
    safe = np.where(possible, sizes, 0)
    parts = [_log_factorial(counts).astype(np.float64) for counts in (safe, total - safe)]
    return np.where(possible, math.lgamma(total + 1) - parts[0] - parts[1], -np.inf)

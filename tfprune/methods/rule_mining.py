"""Rules that recognize a concept from numbers: trees that find them, and the statistics that certify them.

A tree finds rules in everything, coin flips included. So the samples are drawn into three parts: a tree is mined
from the first, sets of its rules are chosen by confidence bounds on the second, and the precision and recall that
are shown come from the third. Start at `mine_rules` and `Limits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number
from tfprune.report import Report

# The best split of some samples by a threshold on one unit: exact, although few of the units are sorted.

_BINS = 128
_FEW = 256  # samples that are sorted for all units: cheaper than bins
_ENTRIES = 2**22  # of an array in memory at once
_ROUNDING_ERROR = 1e-6


@dataclass(frozen=True)
class _UnitSplit:
    """A threshold on a unit.

    Attributes:
        gain: The G statistic of the split: twice its samples times its mutual information with the labels, in nats.
        unit: The index of the unit.
        value: The threshold: samples at or below it are on one side.
    """

    gain: float
    unit: int
    value: float


class UnitValues:
    """The activations of a layer, ready to be split many times.

    Each unit is divided once into bins of about as many samples. The counts of the bins bound the gain of every
    threshold of a unit from above: mutual information is convex in the counts on one side, so inside a bin it is
    largest at a corner, where all samples of one class come first. Only units whose bound exceeds the best gain so
    far are sorted, so no better split is missed.

    Args:
        activations: Finite float32 numbers, (samples, units).
    """

    def __init__(self, activations: np.ndarray) -> None:
        self._values = np.ascontiguousarray(activations.T, dtype=np.float32)
        self.units, self.samples = self._values.shape
        self._bins = np.empty(self._values.shape, np.uint8)
        at = np.linspace(0, self.samples, _BINS + 1)[1:-1].astype(int)  # the last bin has no edge
        for values, bins in zip(self._values, self._bins, strict=True):
            bins[:] = np.searchsorted(np.sort(values)[at], values)  # a bin ends with its edge

    def values_of(self, unit: int) -> np.ndarray:
        """Return the activations of a unit, (samples,)."""
        return self._values[unit]

    def best_split(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        *,
        units: np.ndarray,
        least: float,
        error: float,
    ) -> _UnitSplit | None:
        """Return the split of some samples with the largest gain, of several the one of the first unit.

        Args:
            rows: The indices of the samples.
            labels: Whether the concept is there, for all samples.
            weights: The weights of all samples.
            units: The indices of the units that may be asked, rising.
            least: The least weight of each side.
            error: The chance, at most, that a split is returned if no unit has to do with the labels.

        Returns:
            The split; None if none is significant.
        """
        node = _Node.of(rows, labels, weights, least)
        floor = _critical(error / (units.size * max(rows.size - 1, 1)))
        bounds, step = np.full(units.size, math.inf), max(_ENTRIES // rows.size, 1)
        if rows.size > _FEW:
            lowest, bounds = self._bounds(node, units)
            floor, step = max(floor, lowest), max(step // 16, 1)  # a few at once: each raises the floor
        best, ahead = None, np.argsort(-bounds, kind="stable")
        for start in range(0, ahead.size, step):
            some = ahead[start : start + step]
            some = np.sort(units[some[bounds[some] >= floor * (1 - _ROUNDING_ERROR)]])
            split = self._sorted(node, some) if some.size else None
            if split is not None and split.gain >= floor * (1 - _ROUNDING_ERROR):
                best = split if best is None else min(best, split, key=lambda each: (-each.gain, each.unit))
                floor = max(floor, best.gain)
        return best

    def _bounds(self, node: _Node, units: np.ndarray) -> tuple[float, np.ndarray]:
        """Return a gain that some threshold reaches, and for each unit one that no threshold exceeds."""
        lowest, bounds = 0.0, np.empty(units.size)
        step = max(_ENTRIES // node.rows.size, 1)
        for start in range(0, units.size, step):
            some = units[start : start + step]
            codes = self._bins[np.ix_(some, node.rows)] + np.arange(0, some.size * _BINS, _BINS)[:, None]
            with_it, without = (
                np.cumsum(_sums(codes[:, own], node.weights[own], some.size), axis=1)
                for own in (slice(node.positives), slice(node.positives, None))
            )
            edges = node.gains(with_it, without)
            lowest = max(lowest, float(np.where(node.is_split(with_it + without), edges, 0).max()))
            before = [np.pad(each[:, :-1], ((0, 0), (1, 0))) for each in (with_it, without)]
            corners = np.maximum(node.gains(with_it, before[1]), node.gains(before[0], without))
            bounds[start : start + step] = np.maximum(edges, corners).max(axis=1)
        return lowest, bounds

    def _sorted(self, node: _Node, units: np.ndarray) -> _UnitSplit | None:
        """Return the best split of some units, from their sorted values."""
        values = self._values[np.ix_(units, node.rows)]
        order = np.argsort(values, axis=1)
        values, weights, has_it = (
            np.take_along_axis(values, order, axis=1),
            node.weights[order],
            order < node.positives,
        )
        left, with_it = np.cumsum(weights, axis=1), np.cumsum(weights * has_it, axis=1)
        can_split = (values[:, 1:] > values[:, :-1]) & node.is_split(left[:, :-1])
        gains = np.where(can_split, node.gains(with_it[:, :-1], (left - with_it)[:, :-1]), -1)
        row, at = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[row, at] <= 0:
            return None
        return _UnitSplit(
            float(gains[row, at]), int(units[row]), (float(values[row, at]) + float(values[row, at + 1])) / 2
        )


@dataclass(frozen=True, eq=False)
class _Node:
    """The samples of a node: those with the concept first."""

    rows: np.ndarray
    weights: np.ndarray
    positives: int
    least: float

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, least: float) -> _Node:
        has_it = labels[rows]
        ordered = np.concatenate([rows[has_it], rows[~has_it]])
        return cls(ordered, weights[ordered], int(np.count_nonzero(has_it)), least)

    def is_split(self, left: np.ndarray) -> np.ndarray:
        """Return True if both sides weigh enough."""
        least = self.least * (1 - _ROUNDING_ERROR)
        return (left >= least) & (self.weights.sum() - left >= least)

    def gains(self, with_it: np.ndarray, without: np.ndarray) -> np.ndarray:
        """Return the G statistic, from the weights with the concept and without it on one side."""
        positive, negative = self.weights[: self.positives].sum(), self.weights[self.positives :].sum()
        cells = (with_it, without, positive - with_it, negative - without)
        sides = (with_it + without, positive + negative - with_it - without)
        labels = _x_log_x(positive) + _x_log_x(negative) - _x_log_x(positive + negative)
        return 2 * (sum(map(_x_log_x, cells)) - sum(map(_x_log_x, sides)) - labels)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, 1e-300))


def _sums(codes: np.ndarray, weights: np.ndarray, units: int) -> np.ndarray:
    """Return the weights in each bin of each unit, (units, bins)."""
    spread = np.broadcast_to(weights, codes.shape).ravel()
    return np.bincount(codes.ravel(), spread, units * _BINS).reshape(units, _BINS)


def _critical(chance: float) -> float:
    """Return the value that a chi-squared variable of one degree of freedom exceeds with a chance."""
    return NormalDist().inv_cdf(chance / 2) ** 2


# Concepts as users give them: 0 or 1 for each sample, by name.


def check_concepts(concepts: Any, *, count: int) -> dict[str, np.ndarray]:
    """Return each concept as booleans, (samples,).

    Raises:
        TypeError: If it is not a dict of names.
        ValueError: If it is empty, an array has another shape, is neither 0 nor 1 everywhere, or is the same
            everywhere.
    """
    if not isinstance(concepts, Mapping) or not all(isinstance(name, str) for name in concepts):
        raise ArgumentTypeError(
            "concepts",
            "`concepts` to be a dict from names to arrays of 0 and 1",
            found=f"an object of type {type(concepts).__name__}",
        )
    if not concepts:
        raise ArgumentError("concepts", "`concepts` with at least one concept", found="none")
    return {name: _as_booleans(name, np.asarray(values), count) for name, values in concepts.items()}


def _as_booleans(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape != (count,):
        raise ArgumentError(
            "samples",
            f"one 0 or 1 for each of the {count} `samples` as concepts[{name!r}]",
            found=f"an array of shape {values.shape}",
        )
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        wrong = [value for value in np.unique(values).tolist() if value not in (0, 1)]
        raise ValueError(f"Expected 0 or 1 for each sample as concepts[{name!r}]. Received: {wrong[:3]}.")
    labels = values.astype(bool)
    _check_both(name, labels, where="`samples`")
    return labels


def _check_both(name: str, labels: np.ndarray, *, where: str) -> None:
    """Refuse a concept that all samples have, or none.

    Raises:
        ValueError: Naming the concept and where it is looked for.
    """
    there = int(np.count_nonzero(labels))
    if there in (0, labels.size):
        raise ValueError(
            f"Expected samples with {name!r} and without it among {where}. Received: {there} with it of "
            f"{labels.size}. Pass more samples, or leave the concept out."
        )


def with_negations(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add `not c` for each concept `c`, unless there is a concept of that name already."""
    return dict(labels) | {negation(name): ~values for name, values in labels.items() if negation(name) not in labels}


def negation(concept: str) -> str:
    """Return the name of the samples without a concept."""
    return f"not {concept}"


# Counts of how often rules hold and are right, and the confidence intervals that such counts allow.

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
        return _interval(self.hits, self.matched)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the recall."""
        return _interval(self.hits, self.positives)

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


def _interval(hits: float, trials: float) -> tuple[float, float]:
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


# A rule: thresholds on the activations of one layer that tell whether a concept is there.


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


# Three parts of the samples: rules are mined from one, chosen by another, and reported on the third.

MINING, CHOOSING, REPORTING = "mining", "choosing", "reporting"


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples, and the rules that hold on each.

    Attributes:
        labels: Whether the concept is there, (samples,), for each concept and for its negation.
        weights: The share of each sample in its group, (samples,); 1 without groups.
        holds: Where each rule holds, (samples,).
    """

    labels: Mapping[str, np.ndarray]
    weights: np.ndarray
    holds: dict[ConceptRule, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of samples; a group counts as one."""
        return round(float(self.weights.sum()))

    def add(self, rules: Iterable[ConceptRule], activations: np.ndarray) -> None:
        """Record where rules of a layer hold, from its activations, (samples, units)."""
        self.holds.update({rule: rule.matches(activations) for rule in rules})

    def any_of(self, rules: Iterable[ConceptRule]) -> np.ndarray:
        """Tell for each sample whether any of some rules holds."""
        together = np.zeros(self.weights.size, dtype=bool)
        for rule in rules:
            together |= self.holds[rule]
        return together

    def counts(self, concept: str, rules: Iterable[ConceptRule]) -> Counts:
        """Count how often any of some rules holds, and is right."""
        matched, there = self.any_of(rules), self.labels[concept]
        return Counts(*(self.weigh(each) for each in (matched, matched & there, there)))

    def weigh(self, rows: np.ndarray) -> float:
        """Return the number of chosen samples, a group counting as one."""
        return float(self.weights[rows].sum())


def part_of(labels: Mapping[str, np.ndarray], weights: np.ndarray, *, rows: np.ndarray, name: str) -> Part:
    """Return a part of the samples: those of some rows.

    Raises:
        ValueError: If a concept is there on all of them, or on none.
    """
    own = {concept: values[rows] for concept, values in labels.items()}
    for concept, values in own.items():
        _check_both(concept, values, where=f"the samples for {name}")
    return Part(own, weights[rows])


def draw_parts(
    samples: int, *, validation_split: float, groups: Any = None, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw the samples of each part: booleans by its name, (samples,), and the share of each sample in its group.

    Args:
        samples: The number of samples.
        validation_split: The fraction that is not mined from: half of it chooses, the other half is for reporting.
        groups: The group of each sample, (samples,): a group falls into one part as a whole. None: no groups.
        seed: Draws the parts.

    Raises:
        TypeError: If `validation_split` is not a number, or groups are neither integers nor strings.
        ValueError: If `validation_split` lies outside (0, 1), or there is not one group for each sample.
    """
    meaning = "the fraction of held-out samples"
    share = check_number(validation_split, "validation_split", above=0, below=1, meaning=meaning)
    members = np.arange(samples) if groups is None else _members(np.asarray(groups), samples)
    sizes = np.bincount(members)
    order = np.random.default_rng(seed).permutation(sizes.size)
    middle = np.empty(sizes.size)  # of each group, where all stand in the order drawn, from 0 to 1
    middle[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / samples
    rank = middle[members]
    parts = {MINING: rank > share, CHOOSING: rank <= share / 2, REPORTING: (rank > share / 2) & (rank <= share)}
    return parts, 1 / sizes[members]


def _members(groups: np.ndarray, samples: int) -> np.ndarray:
    if groups.dtype.kind not in "biuSU":
        raise ArgumentTypeError(
            "groups", "`groups` to be an array of integers or strings", found=f"an array of {groups.dtype}"
        )
    if groups.shape != (samples,):
        raise ArgumentError(
            "groups",
            f"one group for each of {samples} samples as `groups`",
            found=f"an array of shape {groups.shape}",
        )
    return np.unique(groups, return_inverse=True)[1].ravel()


# Choose the rules that a requirement relies on: sets that read few units and are certified.

SampleParts = Mapping[str, Part]
_UnitsRead = Callable[[ConceptRule], Iterable[int]]  # numbers that tell units of all layers apart
# How much better than asked for a set has to be where it was mined, as a share of the way to 1: from bold to careful.
_MARGINS = (0.0, 0.25, 0.5)
_ERROR = 0.05  # of bounds where rules were mined, which only propose sets


@dataclass(frozen=True)
class Limits:
    """The precision and recall that rules must have together, and the confidence in them.

    Attributes:
        precision: The least precision of the rules of a layer for a concept, in (0, 1].
        recall: Their least recall, in (0, 1]; rules beyond it are left out. None takes every rule that adds to it, as
            long as the precision is reached.
        confidence: The chance, at least, that the rules for a concept are that good, in (0, 1).
        matches: The least number of samples for choosing on which a rule holds.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is out of range.
    """

    precision: float
    recall: float | None
    confidence: float = 0.95
    matches: int = 10

    def __post_init__(self) -> None:
        check_number(self.precision, "min_precision", above=0, most=1)
        if self.recall is not None:
            check_number(self.recall, "min_recall", above=0, most=1, meaning="or None")
        check_number(self.confidence, "confidence", above=0, below=1)
        check_count(self.matches, "min_matches", least=1)


class ConceptLimits:
    """The rules for one concept, of all layers, under the limits.

    The samples that rules were mined from propose a few sets of each layer, from a bold one to careful ones: the
    first rules, in the order of what they find for each unit, until precision and recall are reached there with a
    margin. The samples for choosing test these sets by the lower bounds of Clopper and Pearson for precision and
    recall. All sets of a concept share the chance to be wrong (Bonferroni). A set has to pass both bounds, so these
    need not share it.

    Args:
        limits: The limits.
        concept: The concept.
        rules: Rules, among them those for the concept.
        parts: The parts of the samples.
        units: The units that a rule reads.
    """

    def __init__(
        self, limits: Limits, concept: str, *, rules: Iterable[ConceptRule], parts: SampleParts, units: _UnitsRead
    ) -> None:
        self._limits, self._concept, self._units = limits, concept, units
        self._mining, self._choosing = parts[MINING], parts[CHOOSING]
        self._rules = [rule for rule in rules if rule.concept == concept]
        self._sets = {layer: self._proposed(layer) for layer in dict.fromkeys(rule.layer for rule in self._rules)}
        self._error = (1 - limits.confidence) / max(sum(map(len, self._sets.values())), 1)

    def _proposed(self, layer: str) -> list[list[ConceptRule]]:
        """Return the different sets that are to be tested."""
        sets: list[list[ConceptRule]] = []
        for margin in _MARGINS:
            some = self._shortest(layer, margin)
            if some and some not in sets:
                sets.append(some)
        return sets

    def _shortest(self, layer: str, margin: float) -> list[ConceptRule]:
        """Return the rules of a layer that reach precision and recall where they were mined; none if none do."""
        precision, recall = _raised(self._limits.precision, margin), self._limits.recall
        rules: list[ConceptRule] = []
        for rule in self._in_order(self._precise(layer, precision)):
            rules.append(rule)
            if recall is not None and self._has_recall(rules, _raised(recall, margin)):
                return rules
        return rules if recall is None else []

    def _precise(self, layer: str, precision: float) -> list[ConceptRule]:
        """Return the rules of a layer that were precise where they were mined, and hold often enough elsewhere."""
        precise = []
        for rule in self._rules:
            counts = self._mining.counts(self._concept, [rule])
            often = self._choosing.counts(self._concept, [rule]).matched >= self._limits.matches
            certain = lower_bound(counts.hits, counts.matched, error=_ERROR) >= precision
            precise += [rule] if rule.layer == layer and often and certain else []
        return precise

    def _has_recall(self, rules: Iterable[ConceptRule], recall: float) -> bool:
        counts = self._mining.counts(self._concept, rules)
        return lower_bound(counts.hits, counts.positives, error=_ERROR) >= recall

    def _in_order(self, rules: list[ConceptRule]) -> Iterator[ConceptRule]:
        """Yield the rule that finds the most missing samples for each unit that it adds, again and again."""
        missing, units = self._mining.labels[self._concept].copy(), set[int]()
        while rules:
            finds = {rule: self._mining.weigh(missing & self._mining.holds[rule]) for rule in rules}
            cost = {rule: len({*self._units(rule)} - units) or 0.5 for rule in rules}  # half a unit, if it adds none
            best = max(rules, key=lambda rule: (finds[rule] / cost[rule], -cost[rule]))
            if not finds[best]:
                return
            yield best
            missing &= ~self._mining.holds[best]
            units |= {*self._units(best)}
            rules.remove(best)

    def choose(self, layer: str, *, kept: Iterable[int] = ()) -> list[ConceptRule]:
        """Choose rules of a layer that read the least units; none if none suffice.

        Args:
            layer: The name of the layer.
            kept: The units that are kept anyway, which cost nothing.
        """
        certified = [some for some in self._sets.get(layer, ()) if self._is_certified(some)]
        if self._limits.recall is None:
            return max(certified, key=lambda some: self._mining.counts(self._concept, some).hits, default=[])
        unit_sets = [{unit for rule in some for unit in self._units(rule)} - {*kept} for some in certified]
        return min(zip(certified, unit_sets, strict=True), key=lambda pair: len(pair[1]), default=([], set()))[0]

    def _is_certified(self, rules: Sequence[ConceptRule]) -> bool:
        precision, recall = self._bounds(rules)
        return precision >= self._limits.precision and recall >= (self._limits.recall or 0)

    def _bounds(self, rules: Iterable[ConceptRule]) -> tuple[float, float]:
        """Return the precision and the recall that the samples for choosing certify of rules together."""
        counts = self._choosing.counts(self._concept, rules)
        precision = lower_bound(counts.hits, counts.matched, error=self._error)
        return precision, lower_bound(counts.hits, counts.positives, error=self._error)

    def shortfall(self, layers: Sequence[str]) -> str:
        """Describe how close the rules of some layers come, for the end of a sentence."""
        rules = [rule for rule in self._rules if rule.layer in layers]
        if not rules:
            return f"no unit tells {self._concept!r} better than chance would"
        sets = [some for layer in layers for some in self._sets.get(layer, ())]
        sets += [some for layer in layers if (some := self._precise(layer, self._limits.precision))]
        best = max(sets or [[rule] for rule in rules], key=self._margin)
        counts, (precision, recall) = self._choosing.counts(self._concept, best), self._bounds(best)
        rule = f": {best[0]}" if len(best) == 1 else ""
        return (
            f"the best rules for {self._concept!r}, {len(best)} of {best[0].layer}, have a precision of "
            f"{counts.precision:.3f} and a recall of {counts.recall:.3f} on the samples for choosing, which certify "
            f"{precision:.3f} and {recall:.3f}{rule}"
        )

    def _margin(self, rules: Sequence[ConceptRule]) -> float:
        """Return by how much the worse of precision and recall exceeds what is asked for."""
        precision, recall = self._bounds(rules)
        return min(precision - self._limits.precision, recall - (self._limits.recall or 0))


def _raised(fraction: float, margin: float) -> float:
    return fraction + margin * (1 - fraction)


# Read rules off a decision tree over activations: the path to each node.

_MINING_ERROR = 0.05  # the chance of a split where no unit has to do with the concept
_Bounds = dict[tuple[int, bool], float]  # thresholds, by unit and side


@dataclass(frozen=True)
class _Path:
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
) -> list[_Path]:
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
    paths: list[_Path] = []
    ahead: list[tuple[np.ndarray, _Bounds, int]] = [(np.arange(labels.size), {}, 0)]
    while ahead:
        rows, bounds, depth = ahead.pop()
        weight, there = float(weights[rows].sum()), float(weights[rows[labels[rows]]].sum())
        can_split = depth < limits.depth and weight >= 2 * limits.samples and 0 < there < weight
        split = None
        if can_split:
            least = float(limits.samples)
            split = values.best_split(rows, labels, weights, units=units, least=least, error=_MINING_ERROR)
        if bounds:
            thresholds = sorted(Threshold(unit, is_above, value) for (unit, is_above), value in bounds.items())
            paths.append(_Path(tuple(thresholds), there > weight / 2, weight, split is None))
        if split is not None:
            is_above = values.values_of(split.unit)[rows].astype(np.float64) > split.value
            ahead += [(rows[is_above == side], _narrowed(bounds, split, side), depth + 1) for side in (False, True)]
    return sorted(paths, key=lambda path: (-path.support, path.thresholds))


def _narrowed(bounds: _Bounds, split: _UnitSplit, is_above: bool) -> _Bounds:
    """Add the threshold of one side of a split to the bounds of a node."""
    at = (split.unit, is_above)
    narrowest = max if is_above else min
    return bounds | {at: narrowest(split.value, bounds.get(at, split.value))}

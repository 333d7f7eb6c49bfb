"""Reports: what a model lost for each class and group, with tests and a page; and whether a file keeps a policy."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tfprune.base.limit import SampleGroup, has_nothing_to_lose, listed_classes
from tfprune.base.output import document, facts, image, name_text, rows_table, save_figure, section, text
from tfprune.export.file.container import write_atomically
from tfprune.export.file.inspect import png_file
from tfprune.report import Report, new_figure, printable, shortened, table

# Statistics of two models on the same samples, in NumPy: intervals, exact tests and their correction.

_LIKELY = 12  # standard deviations around the mean that hold all of a distribution but 1e-30
_BISECTIONS = 200  # halvings of an interval until neighboring floats are reached
_LARGEST_QUANTILE = 1e9

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


def _benjamini_hochberg(p_values: Sequence[float]) -> np.ndarray:
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
    low, high = 0.0, _LARGEST_QUANTILE
    for _ in range(_BISECTIONS):
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
    spread = _LIKELY * math.sqrt(mean * (1 - marked / total)) + _LIKELY
    least, most = max(0, draws - (total - marked)), min(marked, draws)
    return np.arange(max(least, math.floor(mean - spread)), min(most, math.ceil(mean + spread)) + 1)


def _log_choose(total: int, sizes: np.ndarray) -> np.ndarray:
    """Return the logarithms of binomial coefficients, minus infinity where there is no such choice."""
    possible = (sizes >= 0) & (sizes <= total)
    safe = np.where(possible, sizes, 0)
    parts = [_log_factorial(counts).astype(np.float64) for counts in (safe, total - safe)]
    return np.where(possible, math.lgamma(total + 1) - parts[0] - parts[1], -np.inf)


# What a report on damage consists of: scores, flipped samples, and rows of groups, sorted by the certain loss.


@dataclass(frozen=True)
class Quality(Report):
    """How good one side is on all samples.

    Attributes:
        score: The accuracy; for numbers the mean absolute error; without labels the agreement with `before`.
        calibration_error: The expected calibration error, in 15 bins; None for numbers and without labels.
        brier: The Brier score, summed over the classes, 0 to 2; None for numbers and without labels.
        confidence: The mean probability of the predicted class; None for numbers.
    """

    score: float
    calibration_error: float | None = None
    brier: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class DamageRow(Report):
    """One class, or one value of a group.

    Attributes:
        grouping: `"class"`, or the name of the group.
        value: The class, or the value of the group.
        samples: The number of its samples.
        before: Its score with `before`: accuracy, agreement, or mean absolute error.
        after: Its score with `after`.
        drop: How much it lost: accuracy before minus after, or error after minus before.
        low: The lower end of the interval of `drop`; None for a single number.
        high: The upper end; None for a single number.
        lost: Samples that only `before` gets right; of numbers, samples whose error grew.
        gained: Samples that only `after` gets right; of numbers, samples whose error fell.
        p_value: Probability of a difference as large from the other samples if the group had nothing to do with the
            losses, two-sided; 1 for a group that lost less.
        adjusted_p: The same, corrected for the number of groups (Benjamini-Hochberg).
        harmed: Whether it lost more than the other samples: `adjusted_p` below 1 - `level`, and `drop` above 0.
    """

    grouping: str
    value: str
    samples: int
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None
    lost: int
    gained: int
    p_value: float
    adjusted_p: float
    harmed: bool

    @property
    def name(self) -> str:
        """The grouping and the value."""
        return f"{self.grouping} {self.value}"


@dataclass(frozen=True)
class FlippedSample(Report):
    """A sample whose answer became wrong or right.

    Attributes:
        index: Its index in the data.
        lost: Whether it was right before and is wrong after; False for the other way around.
        label: Its class; without labels the class of `before`.
        before: The class that `before` predicts; of numbers, its error before.
        after: The class that `after` predicts; of numbers, its error after.
        confidence_before: The probability of the class that `before` predicts; None for numbers.
        confidence_after: The probability of the class that `after` predicts; None for numbers.
    """

    index: int
    lost: bool
    label: str
    before: str
    after: str
    confidence_before: float | None
    confidence_after: float | None


@dataclass(frozen=True)
class CorruptedScores(Report):
    """How good both sides are on corrupted samples.

    Attributes:
        name: The name of the corruption.
        before: The score of `before` on them.
        after: The score of `after` on them.
        drop: How much was lost: accuracy before minus after, or error after minus before.
        low: The lower end of the interval of `drop`; None for a single number.
        high: The upper end; None for a single number.
    """

    name: str
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None


def damage_row(
    group: SampleGroup,
    *,
    scores: tuple[Any, ...],
    interval: tuple[float | None, float | None],
    changes: tuple[int, int],
    p_value: float,
) -> DamageRow:
    """Return the row of a group, not yet corrected for the number of groups.

    Args:
        group: The group.
        scores: Before, after, and how much was lost.
        interval: The ends of the interval of that.
        changes: How many samples got worse, and how many better.
        p_value: Of the one-sided test whether it lost more than the other samples; the row has twice that, so that a
            group is harmed where a two-sided test would say so, as the intervals are two-sided.
    """
    before, after, drop = map(float, scores)
    samples, (lost, gained) = int(group.inside.sum()), changes
    return DamageRow(
        group.grouping,
        group.value,
        samples,
        before,
        after,
        drop,
        *interval,
        lost,
        gained,
        min(1.0, 2 * p_value),
        1.0,
        False,
    )


def sorted_rows(rows: list[DamageRow], level: float) -> tuple[DamageRow, ...]:
    """Correct p-values for the number of groups, and sort rows by the loss that is certain."""
    adjusted = _benjamini_hochberg([row.p_value for row in rows])
    judged = [
        replace(row, adjusted_p=float(p), harmed=bool(p < 1 - level and row.drop > 0))
        for row, p in zip(rows, adjusted, strict=True)
    ]
    return tuple(sorted(judged, key=lambda row: (row.low is None, -(row.low or 0.0), -row.drop)))


# Report of a comparison: what a model lost for each class and group, and which samples flipped.

FEW_SAMPLES = 30  # below, a group is named in a note
_SHOWN_ROWS = 10
LISTED_ERRORS = 100  # samples whose error grew most
_NAME_WIDTH = 40  # characters of a group in the table


@dataclass(frozen=True)
class DamageReport(Report):
    """Report of `damage`: the loss of a model, in total and for each class and group, the ten worst groups first.

    Attributes:
        task: `"classification"`, `"regression"`, `"language"`, or `"agreement"` for classes without labels.
        samples: The number of samples; of a language model, of tokens.
        before: How good `before` is.
        after: How good `after` is.
        drop: The accuracy lost, or the mean absolute error gained.
        low: The lower end of its interval; None for a single number.
        high: The upper end; None for a single number.
        lost: Samples that only `before` gets right; of numbers, samples whose error grew.
        gained: Samples that only `after` gets right; of numbers, samples whose error fell.
        p_value: McNemar's exact test: whether more samples were lost than gained; None for numbers.
        rows: A row for each class and each value of a group, those that surely lost most first: by `low`.
        flips: The lost samples, the most confident before first, and then the gained ones. Of numbers, the 100
            samples whose error grew most.
        level: The coverage of each interval.
        max_drop: The limit of `drop`; None for none.
        max_drop_per_group: The limit of each row's `drop`; None for none.
        corrupted: The scores on samples with noise, blur and so on, if corruptions were asked for.
        notes: What to know about the figures: groups of few samples, scores that are not probabilities.
        without_samples: The classes that no label names, of which nothing is known.

    Example:
        >>> labels = model.predict(images, verbose=0).argmax(axis=1)
        >>> report = tfprune.export.damage("digits.tflite", "digits_int8.tflite", (images, labels))
        >>> report.samples, report.before.score, report.harmed
        (100, 1.0, ())
    """

    JSON_NAMES = (
        "task", "samples", "before", "after", "drop", "low", "high", "lost", "gained", "p_value", "rows", "flips",
        "level", "max_drop", "max_drop_per_group", "corrupted", "harmed", "broken", "passed", "notes",
        "without_samples",
    )  # fmt: skip

    task: str
    samples: int
    before: Quality
    after: Quality
    drop: float
    low: float | None
    high: float | None
    lost: int
    gained: int
    p_value: float | None
    rows: tuple[DamageRow, ...]
    flips: tuple[FlippedSample, ...]
    level: float
    max_drop: float | None = None
    max_drop_per_group: float | None = None
    corrupted: tuple[CorruptedScores, ...] = ()
    notes: tuple[str, ...] = ()
    without_samples: tuple[str, ...] = ()
    pictured: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def harmed(self) -> tuple[str, ...]:
        """The groups that lost more than the other samples."""
        return tuple(row.name for row in self.rows if row.harmed)

    @property
    def broken(self) -> tuple[str, ...]:
        """The limits that are not kept, in words."""
        losses = []
        if self.max_drop is not None and self.drop > self.max_drop:
            losses.append(f"all samples lost {self.number(self.drop)}, more than {self.number(self.max_drop)}")
        if self.task == "classification" and has_nothing_to_lose(self.before.score, self.max_drop):
            losses.append(f"the accuracy was {self.number(self.before.score)} before, so no model loses more")
        limit = self.max_drop_per_group
        if limit is not None and self.without_samples:
            losses.append(f"no samples of {listed_classes(self.without_samples)}, so nobody knows what they lost")
        for row in self.rows if limit is not None else ():
            if limit is not None and row.drop > limit:
                losses.append(f"{row.name} lost {self.number(row.drop)}, more than {self.number(limit)}")
        return tuple(losses)

    @property
    def passed(self) -> bool:
        """Whether all limits are kept; True without limits."""
        return not self.broken

    @property
    def score_name(self) -> str:
        """The name of the scores."""
        names = {"classification": "accuracy", "agreement": "agreement", "regression": "mean absolute error"}
        return names.get(self.task, "loss per token")

    @property
    def change_name(self) -> str:
        """The name of the difference of the scores."""
        return "increase" if self.is_error else "drop"

    @property
    def is_error(self) -> bool:
        """Whether smaller scores are better."""
        return self.task in ("regression", "language")

    @property
    def counted(self) -> str:
        """The unit of `samples`."""
        return "tokens" if self.task == "language" else "samples"

    def number(self, score: float | None) -> str:
        """Return a score as text: a percentage, or a number for errors."""
        if score is None:
            return "-"
        return f"{score:.4g}" if self.is_error else f"{score:.1%}"

    def interval(self, low: float | None, high: float | None) -> str:
        """Return an interval as text."""
        return "-" if low is None else f"{self.number(low)} to {self.number(high)}"

    def overall(self) -> list[list[str]]:
        """Return the lines of a table of both sides: what is measured, before, after."""
        lines = [[self.score_name, self.number(self.before.score), self.number(self.after.score)]]
        names = {"calibration_error": "calibration error", "brier": "Brier score", "confidence": "confidence"}
        for field_name, name in names.items():
            values = [getattr(side, field_name) for side in (self.before, self.after)]
            if None not in values:
                lines.append([name, *(f"{value:.4f}" for value in values)])
        return lines

    def flips_text(self) -> str:
        """Return how many samples flipped, as a sentence."""
        if self.is_error:
            name = "loss" if self.task == "language" else "error"
            changes = f"grew for {self.lost:,} of {self.samples:,} {self.counted} and fell for {self.gained:,}"
            return f"The {name} {changes}."
        if self.task == "agreement":
            return f"{self.lost:,} of {self.samples:,} samples have another class after than before."
        return (
            f"{self.lost:,} of {self.samples:,} samples were right before and are wrong now, {self.gained:,} the "
            f"other way around (McNemar's exact test: p = {self.p_value:.2g})."
        )

    def plot(self, path: str | Path) -> None:
        """Draw the drop of the ten worst groups with its interval into an image file.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, the file cannot be written, or there are no groups.
        """
        rows = self.rows[:_SHOWN_ROWS][::-1]  # bars are drawn from the bottom up
        if not rows:
            raise ValueError("Expected groups to draw. Received: a report without rows. Pass labels or `groups`.")
        figure = new_figure(8, 1.5 + 0.3 * len(rows))
        axes = figure.subplots()
        drops = [row.drop for row in rows]
        ends = [(row.drop, row.drop) if row.low is None else (row.low, row.high) for row in rows]
        reach = np.abs(np.array(ends).T - drops)
        colors = ["tab:red" if row.harmed else "lightgrey" for row in rows]
        axes.barh(range(len(rows)), drops, xerr=reach, color=colors, ecolor="black", capsize=2)
        axes.axvline(self.drop, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(rows)), [shortened(row.name, _NAME_WIDTH) for row in rows])
        axes.set(xlabel=f"{self.score_name}, {self.change_name} ({self.level:.0%} interval; dotted: all samples)")
        save_figure(figure, path)

    def save_html(self, path: str | Path) -> None:
        """Write a page about the comparison, which loads nothing, with pictures of flipped samples.

        Args:
            path: The file to write.

        Raises:
            ValueError: If it cannot be written.
        """

        write_atomically(path, _damage_page(self).encode())

    def __str__(self) -> str:
        parts = [table([f"{self.samples:,} {self.counted}", "before", "after"], self.overall())]
        interval = f"{self.level:.0%} interval: {self.interval(self.low, self.high)}"
        parts.append(f"{self.change_name.capitalize()}: {self.number(self.drop)} ({interval}). {self.flips_text()}")
        if self.rows:
            header = [
                "group",
                self.counted,
                "before",
                "after",
                self.change_name,
                f"{self.level:.0%} interval",
                "p",
                "harmed",
            ]
            parts.append(table(header, [self._cells(row) for row in self.rows[:_SHOWN_ROWS]]))
        if len(self.rows) > _SHOWN_ROWS:
            parts.append(f"The {_SHOWN_ROWS} worst of {len(self.rows)} groups; `rows` has all.")
        if self.corrupted:
            header = ["corruption", "before", "after", self.change_name, f"{self.level:.0%} interval"]
            parts.append(table(header, [self.corrupted_cells(row) for row in self.corrupted]))
        exceeded = "\n".join(f"Limit exceeded: {reason}." for reason in self.broken)
        parts += [*self.notes, *([exceeded] if exceeded else [])]
        return "\n\n".join(parts)

    def corrupted_cells(self, row: CorruptedScores) -> list[str]:
        """Return the cells of a corruption in a table."""
        scores = [self.number(value) for value in (row.before, row.after, row.drop)]
        return [row.name, *scores, self.interval(row.low, row.high)]

    def _cells(self, row: DamageRow) -> list[str]:
        scores = [self.number(value) for value in (row.before, row.after, row.drop)]
        p_value = "<0.0001" if row.adjusted_p < 1e-4 else f"{row.adjusted_p:.4f}"
        interval = self.interval(row.low, row.high)
        name = shortened(row.name, _NAME_WIDTH)
        return [name, f"{row.samples:,}", *scores, interval, p_value, "yes" if row.harmed else ""]


# Small pictures of samples for a page: images as PNG, series as lines.

_LARGEST_SIDE = 64  # pixels of an image; larger ones are thinned out
_MOST_CHANNELS = 16  # of a series; more columns make it an image
_SHORTEST_SERIES = 16
_COLUMNS = 120  # of a drawn series, each from its lowest to its highest value
_WIDTH, _HEIGHT = 160, 48  # pixels of a drawn series
_SHOWN_SIDE = 84  # pixels at which an image is shown


def _sample_picture(sample: np.ndarray, alt: str) -> str:
    """Return HTML that shows a sample; empty if it has the shape of neither an image nor a series.

    Args:
        sample: Of shape (height, width), (height, width, 1), (height, width, 3), (steps,) or (steps, channels).
        alt: Its description, as HTML.
    """
    if sample.dtype.kind not in "biuf" or not sample.size or not np.isfinite(sample).all():
        return ""
    values = sample.astype(np.float64)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_series = values.ndim == 2 and values.shape[1] <= _MOST_CHANNELS < values.shape[0]
    if values.ndim == 2 and not is_series or values.ndim == 3 and values.shape[2] == 3:
        return _image(values, alt)
    if is_series or (values.ndim == 1 and len(values) >= _SHORTEST_SERIES and sample.dtype.kind == "f"):
        return _series(values.reshape(len(values), -1), alt)
    return ""


def _image(values: np.ndarray, alt: str) -> str:
    step = -(-max(values.shape[:2]) // _LARGEST_SIDE)
    small = _unit(values[::step, ::step])
    pixels = np.round(255 * small).astype(np.uint8)
    height, width = pixels.shape[:2]
    lines = np.insert(pixels.reshape(height, -1), 0, 0, axis=1)  # a line begins with its filter: none
    color = 2 if pixels.ndim == 3 else 0
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    scale = _SHOWN_SIDE / max(height, width)
    return image(png_file(parts), alt, size=(round(height * scale), round(width * scale)))


def _series(values: np.ndarray, alt: str) -> str:
    """Draw each channel over the same axes."""
    unit = _unit(values)
    lines = []
    for channel in unit.T:
        parts = np.array_split(channel, min(_COLUMNS, len(channel)))
        heights = [end for part in parts for end in (part.min(), part.max())]
        across = np.linspace(0, _WIDTH, len(heights))
        points = " ".join(f"{x:.1f},{_HEIGHT * (1 - y):.1f}" for x, y in zip(across, heights, strict=True))
        lines.append(f'<polyline points="{points}" style="fill:none;stroke:var(--values);stroke-width:1"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{alt}">'
        f"{''.join(lines)}</svg>"
    )


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1.0)


# The page about a comparison, for a browser: what was lost, by which groups, and samples that flipped.

_LISTED_FLIPS = 100
_LONGEST_NOTE = 600  # characters
_SCROLLED = '<div style="overflow-x:auto"><div style="min-width:42rem">{}</div></div>'  # wider than a phone
_GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:1.25rem"


def _damage_page(report: DamageReport) -> str:
    """Write the page, which loads nothing and runs no code."""
    notes = [*(f"Limit exceeded: {reason}." for reason in report.broken), *report.notes]
    parts = [
        facts(_facts(report)),
        f"<p>{text(report.flips_text(), _LONGEST_NOTE)}</p>",
        "".join(f"<p>{text(note, _LONGEST_NOTE)}</p>" for note in notes),
        section("Before and after", rows_table(["", "Before", "After"], report.overall())),
        section("Groups, the largest certain damage first", _groups(report)) if report.rows else "",
        section("Corrupted samples", _corrupted(report)) if report.corrupted else "",
        *_pictures(report),
        section(_flips_title(report), _flips(report)) if report.flips else "",
    ]
    return document("What did pruning break?", parts, kicker="tfprune compare", footer="Made by tfprune compare.")


def _facts(report: DamageReport) -> Iterator[tuple[str, str, str]]:
    yield "Before", report.number(report.before.score), report.score_name
    yield "After", report.number(report.after.score), report.score_name
    interval = report.interval(report.low, report.high)
    yield report.change_name.capitalize(), report.number(report.drop), f"{report.level:.0%} interval: {interval}"
    yield "Harmed groups", str(len(report.harmed)), f"of {len(report.rows)}: they lost more than the other samples"


def _groups(report: DamageReport) -> str:
    header = [
        "Group",
        report.counted.capitalize(),
        "Before",
        "After",
        report.change_name.capitalize(),
        f"{report.level:.0%} interval",
        "p, corrected",
        "Harmed",
    ]
    return _SCROLLED.format(rows_table(header, (_group(report, row) for row in report.rows)))


def _group(report: DamageReport, row: DamageRow) -> list[str]:
    scores = [report.number(value) for value in (row.before, row.after, row.drop)]
    p_value = "&lt;0.0001" if row.adjusted_p < 1e-4 else f"{row.adjusted_p:.4f}"
    harmed = '<span class="no">yes</span>' if row.harmed else ""
    interval = report.interval(row.low, row.high)
    return [name_text(row.name), f"{row.samples:,}", *scores, interval, p_value, harmed]


def _corrupted(report: DamageReport) -> str:
    header = ["Corruption", "Before", "After", report.change_name.capitalize(), f"{report.level:.0%} interval"]
    rows = (report.corrupted_cells(row) for row in report.corrupted)
    return _SCROLLED.format(rows_table(header, ([name_text(name), *cells] for name, *cells in rows)))


def _flips_title(report: DamageReport) -> str:
    if report.task == "language":
        return "Texts whose loss grew most"
    return "Samples whose error grew most" if report.is_error else "Samples that flipped"


def _pictures(report: DamageReport) -> Iterator[str]:
    shown = [
        (flip, _sample_picture(report.pictured[flip.index], f"sample {flip.index}"))
        for flip in report.flips
        if flip.index in report.pictured
    ]
    figures = [
        f"<figure>{picture}<figcaption>{_caption(flip)}</figcaption></figure>" for flip, picture in shown if picture
    ]
    if figures:
        title = "The most confident losses" if not report.is_error else "The largest losses"
        yield section(title, f'<div style="{_GRID}">{"".join(figures)}</div>')


def _caption(flip: FlippedSample) -> str:
    sure = ["" if value is None else f" ({value:.0%})" for value in (flip.confidence_before, flip.confidence_after)]
    label = f"Label {text(flip.label)}. " if flip.label else ""
    return f"Sample {flip.index}. {label}Before: {text(flip.before)}{sure[0]}; after: {text(flip.after)}{sure[1]}."


def _flips(report: DamageReport) -> str:
    shown = report.flips[:_LISTED_FLIPS]
    if report.is_error:
        return rows_table(
            ["Text" if report.task == "language" else "Sample", f"{report.score_name.capitalize()} before", "After"],
            ([str(f.index), f.before, f.after] for f in shown),
        )
    header = ["Sample", "Change", "Label", "Before", "Confidence", "After", "Confidence"]
    rows = [
        [
            str(flip.index),
            '<span class="no">lost</span>' if flip.lost else '<span class="yes">gained</span>',
            text(flip.label),
            text(flip.before),
            f"{flip.confidence_before:.1%}",
            text(flip.after),
            f"{flip.confidence_after:.1%}",
        ]
        for flip in shown
    ]
    more = len(report.flips) - len(shown)
    return _SCROLLED.format(rows_table(header, rows)) + (f'<p class="soft">And {more:,} more.</p>' if more else "")


# Report of a check: a row for each rule of the policy.

PASSED, FAILED, NOT_MEASURED = "passes", "fails", "not measured"
VERDICTS = (FAILED, NOT_MEASURED, PASSED)  # the worst first
_EXIT_CODES = {FAILED: 1, NOT_MEASURED: 2, PASSED: 0}


@dataclass(frozen=True)
class CheckFigure(Report):
    """A measured number: of the whole file, or of one class, operator or runtime.

    Attributes:
        part: The class, group, operator or runtime; empty for the whole file.
        value: The number; None if there is none.
        low: The lower end of the interval in which the true number lies: the number itself if it is exact.
        high: The upper end.
        verdict: `"passes"`, `"fails"` or `"not measured"`.
        reason: Why it was not measured, or did not run; empty if there is nothing to say.
    """

    part: str
    value: float | None
    low: float | None
    high: float | None
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True)
class CheckRow(Report):
    """A rule of the policy.

    Attributes:
        rule: The key in the policy.
        limit: The value there.
        line: The line of the policy, counted from 1; None for a policy that is not a file.
        verdict: `"passes"`, `"fails"` or `"not measured"`: the worst of its figures.
        limit_text: The limit in words.
        measured_text: The measured number in words, of the part that is worst.
        reason: Why the rule fails, or could not be measured; empty if it passes.
        figures: The measured numbers, the worst first; empty if nothing could be measured.
    """

    rule: str
    limit: Any
    line: int | None
    verdict: str
    limit_text: str
    measured_text: str
    reason: str
    figures: tuple[CheckFigure, ...] = ()


@dataclass(frozen=True)
class CheckReport(Report):
    """Whether a file keeps a policy; made by `check`.

    Attributes:
        file: The name of the file.
        policy: The name of the policy.
        baseline: The name of the file that it was compared with; empty for none.
        confidence: The coverage of the intervals.
        rows: The rules, in the order of the policy.

    Example:
        >>> report = tfprune.export.check("digits.tflite", {"max_bytes": 61_000, "min_zeros": 0.95})
        >>> report.passed, report.exit_code, [row.verdict for row in report.rows]
        (False, 1, ['passes', 'fails'])
    """

    JSON_NAMES = ("file", "policy", "baseline", "confidence", "verdict", "passed", "exit_code", "rows")

    file: str
    policy: str
    baseline: str
    confidence: float
    rows: tuple[CheckRow, ...]

    @property
    def verdict(self) -> str:
        """`"fails"` if a rule is broken, else `"not measured"` if one could not be measured, else `"passes"`."""
        return worst_verdict(row.verdict for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every rule was measured, and is kept."""
        return self.verdict == PASSED

    @property
    def exit_code(self) -> int:
        """0 if it passes, 1 if a rule is broken, 2 if none is broken and one could not be measured."""
        return _EXIT_CODES[self.verdict]

    def headline(self) -> str:
        """Return the verdict as a sentence."""
        broken, unknown = ([row.rule for row in self.rows if row.verdict == verdict] for verdict in VERDICTS[:2])
        parts = [f"{self.file} {_SAID[self.verdict]} {self.policy}."]
        parts += [f"Broken: {', '.join(broken)}."] if broken else []
        parts += [f"Not measured: {', '.join(unknown)}."] if unknown else []
        return " ".join(parts)

    def __str__(self) -> str:
        cells = [[row.rule, row.limit_text, row.measured_text, row.verdict.upper()] for row in self.rows]
        cells = [[*start, last.lower() if last == PASSED.upper() else last] for *start, last in cells]
        reasons = [f"{row.rule}{_line_text(row.line)}: {row.reason}." for row in self.rows if row.reason]
        parts = [self.headline(), table(["rule", "limit", "measured", "verdict"], cells, left=4)]
        return "\n\n".join([*parts, *(["\n".join(map(printable, reasons))] if reasons else [])])

    def markdown(self) -> str:
        """Return the report in Markdown, for a pull request or the summary of a GitHub job."""
        lines = [f"### {_cell(self.headline())}", "", "| rule | limit | measured | verdict |", "|---|---|---|---|"]
        for row in self.rows:
            verdict = row.verdict if row.verdict == PASSED else f"**{row.verdict}**"
            lines.append(f"| `{row.rule}` | {_cell(row.limit_text)} | {_cell(row.measured_text)} | {verdict} |")
        reasons = [f"- `{row.rule}`{_line_text(row.line)}: {_cell(row.reason)}." for row in self.rows if row.reason]
        against = f" Baseline: {_cell(self.baseline)}." if self.baseline else ""
        note = f"Intervals cover the true number with {self.confidence:.0%} probability.{against}"
        return "\n".join([*lines, "", *reasons, *([""] if reasons else []), note, ""])

    def junit(self) -> str:
        """Return the report as JUnit XML, which CI servers show: a test case for each rule."""
        counts = {verdict: sum(row.verdict == verdict for row in self.rows) for verdict in VERDICTS}
        suite = ElementTree.Element(
            "testsuite",
            name="tfprune check",
            tests=str(len(self.rows)),
            failures=str(counts[FAILED]),
            errors=str(counts[NOT_MEASURED]),
        )
        for row in self.rows:
            case = ElementTree.SubElement(suite, "testcase", classname=printable(self.file), name=row.rule)
            if row.verdict != PASSED:
                kind = "failure" if row.verdict == FAILED else "error"
                problem = ElementTree.SubElement(case, kind, message=printable(row.reason))
                problem.text = printable(f"limit: {row.limit_text}; measured: {row.measured_text}")
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_SAID = {PASSED: "passes", FAILED: "FAILS", NOT_MEASURED: "could not be compared with all of"}


def worst_verdict(verdicts: Iterable[str]) -> str:
    return min(verdicts, key=VERDICTS.index, default=NOT_MEASURED)


def _line_text(line: int | None) -> str:
    return "" if line is None else f" (line {line})"


def _cell(text: str) -> str:
    """Return a text that Markdown and HTML show as it is, in one cell of a table."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", plain)

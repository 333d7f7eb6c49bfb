"""Limit: how much of a metric a smaller model or file may lose, in total and for each class and group of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfprune.base.spec import ArgumentError, ArgumentTypeError, ArgumentWarning, check_choice, check_drop, is_accuracy
from tfprune.report import Report

# Scores of classes, and which class they mean; labels by number or as one-hot rows.

_LISTED = 5  # classes in a message
_ROUNDING = 1e-3  # of a sum of float probabilities
_INTEGER_STEP = 1 / 256  # of probabilities that a file holds in 8 bits: each is rounded by up to half of it


def are_probabilities(scores: np.ndarray) -> bool:
    """Return True if rows are probabilities: not negative, and of sum 1 up to the rounding of 8-bit files.

    Args:
        scores: Outputs of shape (samples, classes), or (samples,) for the probability of class 1.
    """
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1 + _ROUNDING):
        return False
    if scores.ndim == 1:
        return True
    allowed = _ROUNDING + scores.shape[1] * _INTEGER_STEP / 2
    return bool(np.all(np.abs(scores.sum(axis=1) - 1) <= allowed))


def predicted_classes(scores: np.ndarray, *, as_they_are: bool) -> np.ndarray:
    """Return the class of the largest score; of one output per sample, whether it is above 0.5, or above 0."""
    if scores.ndim == 1:
        return (scores > (0.5 if as_they_are else 0.0)).astype(np.int64)
    return scores.argmax(axis=1)


def class_numbers(labels: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
    """Return the number of each sample's class; None if the labels are numbers to be reached."""
    if scores.ndim == 2 and labels.shape == scores.shape:
        is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        return labels.argmax(axis=1) if is_one_hot else None
    if labels.ndim != 1 or scores.ndim > 2 or not np.array_equal(labels, np.round(labels)):
        return None
    is_binary = scores.ndim == 1 and np.isin(labels, (0, 1)).all()
    return labels.astype(np.int64) if scores.ndim == 2 or is_binary else None


def refuse_text(labels: np.ndarray, argument: str) -> None:
    """Refuse the names of classes in place of their numbers.

    Args:
        labels: The labels.
        argument: What the user calls them.

    Raises:
        TypeError: If there are strings.
    """
    if labels.dtype.kind in "USO" and labels.size and isinstance(labels.flat[0], (str, bytes)):
        raise ArgumentTypeError(
            argument,
            f"numbers as labels in `{argument}`",
            found=f"text, such as {str(labels.flat[0])!r}",
            advice="Pass the number of each class, in the order of the outputs, such as names.index(label).",
        )


def why_not_classes(labels: np.ndarray, scores: np.ndarray) -> str:
    """Return what keeps labels and outputs from being classes and their scores, which an accuracy compares.

    Classes are whole numbers from 0, one for each row of scores; 0 or 1 where an output has one entry, the
    probability of class 1; or rows of the outputs' shape: one-hot, with several ones, or probabilities.

    Args:
        labels: The labels, batch first.
        scores: The outputs, batch first.

    Returns:
        What was received instead, for a message; empty for classes. Shapes that do not fit are not looked at.
    """
    if labels.dtype.kind not in "biuf":
        return f"labels of type {labels.dtype}"
    if not labels.size or not scores.size:
        return ""
    is_one = scores.ndim < 2 or scores.shape[-1] == 1
    rows = scores.shape if scores.ndim < 2 else scores.shape[:-1]
    if labels.shape not in (rows, (*rows, 1), scores.shape):
        return ""
    if labels.shape == scores.shape and not is_one:
        is_row = np.isin(labels, (0, 1)).all() or are_probabilities(labels.reshape(-1, labels.shape[-1]))
        return "" if is_row else f"as many targets as outputs, {labels.shape[-1]}, neither 0 and 1 nor probabilities"
    if not np.array_equal(labels, np.round(labels)):
        return "labels that are not whole numbers"
    low, high = labels.min(), labels.max()
    most = 1 if is_one else scores.shape[-1] - 1
    if not 0 <= low <= high <= most:
        return f"labels from {low:g} to {high:g} for an output with the classes 0 to {most}"
    if is_one and not (scores.min() >= -_INTEGER_STEP and scores.max() <= 1 + _INTEGER_STEP):
        return f"one output from {scores.min():.3g} to {scores.max():.3g}, without a sigmoid"
    return ""


def within_classes(classes: np.ndarray | None, scores: np.ndarray) -> np.ndarray | None:
    """Return the numbers of classes.

    Raises:
        ValueError: If one of them is not a class of the scores.
    """
    most = 1 if scores.ndim == 1 else scores.shape[1] - 1
    if classes is not None and not 0 <= classes.min() <= classes.max() <= most:
        raise ValueError(
            f"Expected labels from 0 to {most}, the classes of the outputs. Received: from {classes.min()} to "
            f"{classes.max()}."
        )
    return classes


def classes_without_samples(labels: np.ndarray, classes: int) -> list[int]:
    """Return the classes that no label names, of which nothing is measured."""
    return sorted({*range(classes)} - {*map(int, np.unique(labels))})


def listed_classes(names: Sequence[str]) -> str:
    """Name classes in a message, the first of many."""
    few = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"class {few}" if len(names) == 1 else f"{len(names)} classes ({few})"


# Groups of samples, by class or by another value such as the speaker, and the interval of what one lost.

_NORMAL = NormalDist()


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one class, or of one value of a group.

    Attributes:
        grouping: What the samples are grouped by: `"class"`, or a name of `groups`.
        value: The class or the value, as text.
        inside: Whether each sample belongs to it, (samples,).
    """

    grouping: str
    value: str
    inside: np.ndarray


def class_groups(labels: np.ndarray, names: list[str]) -> list[SampleGroup]:
    """Return a group for each class that occurs."""
    return [SampleGroup("class", names[label], labels == label) for label in np.unique(labels)]


def read_groups(groups: Any, samples: int) -> list[SampleGroup]:
    """Return a group for each value of each grouping.

    Args:
        groups: A dict of arrays (samples,) by name, one such array, or None.
        samples: The number of samples.

    Raises:
        TypeError: If the values are not whole numbers, truth values or strings.
        ValueError: If an array has another length.
    """
    if groups is None:
        return []
    named = groups if isinstance(groups, Mapping) else {"group": groups}
    return [group for name, values in named.items() for group in _of_values(str(name), values, samples)]


def paired_interval(lost: int, gained: int, *, samples: int, level: float) -> tuple[float, float]:
    """Return the interval of Bonett and Price of the accuracy that was lost, from pairs of answers.

    It is the interval of Wald after one more loss and one more gain, so that few samples give a wide interval, even
    if none of them flipped.

    Args:
        lost: Samples that only the model before gets right.
        gained: Samples that only the model after gets right.
        samples: The number of samples.
        level: The coverage, such as 0.95.

    Source: D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", Journal of Educational and Behavioral Statistics 2012.
    """
    down, up = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    half = _NORMAL.inv_cdf((1 + level) / 2) * math.sqrt((down + up - (down - up) ** 2) / (samples + 2))
    return max(-1.0, down - up - half), min(1.0, down - up + half)


def _of_values(name: str, values: Any, samples: int) -> list[SampleGroup]:
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biuSU":
        raise ArgumentTypeError(
            "groups",
            f"whole numbers, truth values or strings in groups[{name!r}]",
            found=f"values of type {array.dtype}",
            advice="Put measured numbers into bins first, for example with numpy.digitize.",
        )
    if array.shape != (samples,):
        raise ArgumentError(
            "groups",
            f"one value for each of the {samples:,} samples in groups[{name!r}]",
            found=f"an array of shape {array.shape}",
        )
    if name == "class":
        raise ArgumentError("groups", "another name than 'class' in `groups`: the classes of the labels have it")
    distinct, place = np.unique(array, return_inverse=True)
    return [SampleGroup(name, _text(value), place == index) for index, value in enumerate(distinct)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# Limit: how much of a metric a smaller model or file may lose, in all and by class and group.

_DROPS = ("max_drop", "max_relative_drop", "max_drop_per_class", "max_drop_per_group")
CHECK_LABELS = "Check that the labels are those of these samples, and numbered as the outputs are."
_LEVEL = 0.95  # the coverage of the intervals of what a group lost


@dataclass(frozen=True)
class Limit:
    """How much worse than the model given a smaller model or file may be.

    Pass it as `max_drop=` where a number is not enough: the number alone bounds the default metric.

    Args:
        max_drop: The largest loss of the metric, in its unit, at least 0: 0.01 of an accuracy is one point. Of an
            error, it is how much the error may grow. None (the default) sets no bound; the metric is then only
            reported. `to_tflite` and `prune_tflite` warn of an accuracy so low that always answering the most
            frequent class would keep the limit: the labels may be those of other samples.
        metric: The name of the metric. `compress` and `to_tflite` also take a metric of Keras, such as
            `keras.metrics.AUC()`, and a function of labels and outputs, which returns a number, or one for each
            sample. None (the default) takes the one that the function names, mostly the accuracy, which refuses
            labels that are numbers to be reached.
        mode: `"max"` if a larger value is better, `"min"` if a smaller one is, as in Keras. None (the default) infers
            it for accuracies and losses, and for metrics of Keras.
        groups: Groups of the samples that the metric is measured on, for `max_drop_per_group`: arrays of shape
            (samples,) by name, such as `{"speaker": speakers}`, with whole numbers or strings. Default None.
        output: The name of the output that is measured, of a model or file with several. None (the default) takes
            the only one; `to_tflite` and `prune_tflite` then measure each.
        data: Labeled data for the metric, a tuple (x, y) or batches of such tuples, for a function without
            `validation_data`. Default None.
        max_relative_drop: The largest loss as a fraction of the metric's value before, at least 0: 0.05 lets an error
            grow by 5 %. With `max_drop`, both hold. None (the default) sets no bound.
        max_drop_per_class: The largest loss of accuracy of each class, from 0 to 1: the average may hide a class that
            lost much. It needs one output of scores of classes, and samples of each. None (the default) sets no
            bound.
        max_drop_per_group: The same for each class and each value of `groups`.

    Raises:
        TypeError: If a number has another type, `metric` is not a metric, or `mode` or `output` is not a string.
        ValueError: If a drop is negative or not finite, that of a class or group is above 1,
            `mode` is another string, or `groups` has no `max_drop_per_group`.

    Example:
        >>> Limit(0.01, metric="accuracy", max_drop_per_class=0.05)
        Limit(max_drop=0.01, metric='accuracy', mode=None, max_drop_per_class=0.05)
    """

    max_drop: float | None = None
    metric: str | Callable[..., Any] | None = None
    mode: str | None = None
    groups: Mapping[str, ArrayLike] | ArrayLike | None = field(default=None, compare=False, kw_only=True)
    output: str | None = field(default=None, kw_only=True)
    data: Any = field(default=None, compare=False, kw_only=True)
    max_relative_drop: float | None = field(default=None, kw_only=True)
    max_drop_per_class: float | None = field(default=None, kw_only=True)
    max_drop_per_group: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, drop in self.drops.items():
            check_drop(drop, name, metric="accuracy" if "_per_" in name else "")
        if isinstance(self.metric, type) or not (isinstance(self.metric, str | None) or callable(self.metric)):
            raise ArgumentTypeError(
                "metric",
                "`metric` to be the name of a metric, such as 'accuracy', a metric of Keras, or a function of "
                "labels and outputs",
                repr(self.metric),
            )
        if not isinstance(self.output, str | None):
            raise ArgumentTypeError("output", "`output` to be the name of an output", repr(self.output))
        if self.mode is not None:
            check_choice(self.mode, "mode", choices=("max", "min"))
        if self.groups is not None and self.max_drop_per_group is None:
            raise ArgumentError(
                "max_drop_per_group",
                "`max_drop_per_group` with `groups`",
                found="`groups` alone",
                advice="Add the largest loss of each group, for example max_drop_per_group=0.05.",
            )

    @property
    def is_bound(self) -> bool:
        """Whether anything is bounded."""
        return self.bounds_metric or self.bounds_groups

    @property
    def bounds_metric(self) -> bool:
        """Whether the loss of the metric on all samples is bounded."""
        return self.max_drop is not None or self.max_relative_drop is not None

    @property
    def bounds_groups(self) -> bool:
        """Whether the loss of each class or group is bounded."""
        return self.max_drop_per_class is not None or self.max_drop_per_group is not None

    @property
    def drops(self) -> dict[str, float]:
        """The largest drops that are set, by the names of the arguments."""
        return {name: getattr(self, name) for name in _DROPS if getattr(self, name) is not None}

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in ("max_drop", "metric", "mode")} | self.drops
        shown |= {} if self.output is None else {"output": self.output}
        hidden = [f"{name}=..." for name in ("data", "groups") if getattr(self, name) is not None]  # too long
        return f"Limit({', '.join([*(f'{name}={value!r}' for name, value in shown.items()), *hidden])})"


@dataclass(frozen=True)
class GroupDrop(Report):
    """The accuracy that a class or a group lost, and how much it may lose.

    Attributes:
        name: `"class"` or the name of the group, and the value.
        samples: The number of its samples.
        drop: The accuracy that it lost; negative if it gained.
        low: The lower end of the 95 % interval of `drop`.
        high: The upper end.
        limit: The largest drop allowed.
    """

    name: str
    samples: int
    drop: float
    low: float
    high: float
    limit: float

    @property
    def excess(self) -> float:
        """How much more it lost than it may; 0 or less within the limit."""
        return self.drop - self.limit

    def __str__(self) -> str:
        return (
            f"{self.name} lost {self.drop:.1%} ({self.samples:,} samples, {_LEVEL:.0%} interval: {self.low:.1%} to "
            f"{self.high:.1%}), at most {self.limit:.1%} allowed"
        )


@dataclass(frozen=True, eq=False)
class GroupLimits:
    """The largest loss of each class and group, against the answers of the first model. All fields are arrays.

    Attributes:
        labels: The class of each sample, (samples,).
        right: Whether the first model gets each sample right, (samples,).
        inside: Whether each sample belongs to each group, (groups, samples).
        names: The names of the groups, (groups,).
        drops: The largest drop of each group, (groups,).
        has_probabilities: Whether the outputs of the first model are probabilities.
    """

    labels: np.ndarray
    right: np.ndarray
    inside: np.ndarray
    names: np.ndarray
    drops: np.ndarray
    has_probabilities: np.ndarray

    @classmethod
    def of(cls, limit: Limit, outputs: Any, y: Any) -> GroupLimits | None:
        """Read the limits of classes and groups; None if there are none.

        Args:
            limit: The limit.
            outputs: The outputs of the first model.
            y: The labels: classes by number, or one-hot rows.

        Raises:
            TypeError: If `limit.groups` holds measured numbers.
            ValueError: If there is not one output of scores of classes, labels are not their classes, or groups have
                another length.
        """
        if not limit.bounds_groups:
            return None
        scores, labels = _column(outputs), _column(y)
        classes = None if scores is None or labels is None else class_numbers(labels, scores)
        if scores is None or classes is None or len(classes) != len(scores):
            raise ArgumentError(
                "max_drop",
                f"one output with scores of classes, and their labels, for {limit!r}",
                found=f"outputs of shape {_shapes(outputs)}, labels of shape {_shapes(y)}",
                advice=(
                    "Without classes there is no accuracy of a class or group: leave `max_drop_per_class` and "
                    "`max_drop_per_group` out."
                ),
            )
        within_classes(classes, scores)
        names = [str(number) for number in range(int(classes.max()) + 1)]
        groups = [*class_groups(classes, names), *read_groups(limit.groups, len(classes))]
        missing = classes_without_samples(classes, 2 if scores.ndim == 1 else scores.shape[1])
        if missing:
            raise ArgumentError(
                "max_drop",
                "samples of each class of the outputs, for a limit of each class",
                found=f"none of {listed_classes([str(each) for each in missing])}",
                advice="Add samples of them: without any, nobody sees that a class is never predicted any more.",
            )
        per_class = [limit.max_drop_per_class, limit.max_drop_per_group]
        bounds = {True: min(drop for drop in per_class if drop is not None), False: limit.max_drop_per_group}
        has_probabilities = are_probabilities(scores)
        right = predicted_classes(scores, as_they_are=has_probabilities) == classes
        if not right.any():
            raise ArgumentError(
                "max_drop",
                "a model that gets some samples right, for a limit of each class",
                found="one that gets none right before anything is changed",
                advice=CHECK_LABELS,
            )
        return cls(
            labels=classes,
            right=right,
            inside=np.stack([group.inside for group in groups]),
            names=np.array([f"{group.grouping} {group.value}" for group in groups]),
            drops=np.array([bounds[group.grouping == "class"] for group in groups], np.float64),
            has_probabilities=np.array(has_probabilities),
        )

    def worst(self, outputs: Any) -> GroupDrop:
        """Return the group that exceeds its limit most, or that is nearest to it.

        Args:
            outputs: The outputs of another model or file, for the same samples.
        """
        scores = _column(outputs)
        if scores is None or len(scores) != len(self.labels):
            raise ValueError(
                f"Expected outputs for the {len(self.labels):,} samples. Received: outputs of shape "
                f"{_shapes(outputs)}."
            )
        right = predicted_classes(scores, as_they_are=bool(self.has_probabilities)) == self.labels
        lost, gained = ((self.inside & flips).sum(axis=1) for flips in (self.right & ~right, ~self.right & right))
        samples = self.inside.sum(axis=1)
        drops = (lost - gained) / samples
        index = max(range(len(drops)), key=lambda row: (drops[row] - self.drops[row], drops[row]))
        low, high = paired_interval(int(lost[index]), int(gained[index]), samples=int(samples[index]), level=_LEVEL)
        limit = float(self.drops[index])
        return GroupDrop(str(self.names[index]), int(samples[index]), float(drops[index]), low, high, limit)


def _column(arrays: Any) -> np.ndarray | None:
    """Return the only array, without a last dimension of 1; None if there are several, or it has other dimensions."""
    several = [*arrays.values()] if isinstance(arrays, Mapping) else arrays
    if isinstance(several, (list, tuple)) and all(isinstance(each, np.ndarray) for each in several):
        several = several[0] if len(several) == 1 else None
    values = None if several is None else np.asarray(several)
    if values is None or values.ndim not in (1, 2):
        return None
    return values[:, 0] if values.shape[1:] == (1,) else values


def _shapes(arrays: Any) -> Any:
    if isinstance(arrays, Mapping):
        return {name: np.shape(array) for name, array in arrays.items()}
    return getattr(arrays, "shape", None) or [np.shape(array) for array in arrays]


def as_limit(max_drop: float | Limit | None) -> Limit:
    """Return a limit for a number or None."""
    return max_drop if isinstance(max_drop, Limit) else Limit(max_drop)


def has_nothing_to_lose(accuracy: float, most: float | None) -> bool:
    """Return True if an accuracy can lose no more than the limit, whatever happens to the model; 1 sets no limit."""
    return most is not None and accuracy <= most < 1


def check_can_lose(limit: Limit, before: Mapping[str, float]) -> None:
    """Refuse a limit that any model keeps, as with wrong labels: it promises nothing.

    Args:
        limit: The limit.
        before: The metrics of the first model, by name.

    Raises:
        ValueError: If one is an accuracy that can lose no more than is allowed, or the limit is relative to 0.
    """
    for name, value in before.items():
        most = largest_drop(limit, value)
        if is_accuracy(name) and has_nothing_to_lose(value, most):
            raise ArgumentError(
                "max_drop",
                f"a model with more of {name!r} than the {most:g} that it may lose",
                found=f"{value:.4f} before anything is changed",
                advice=CHECK_LABELS,
            )


def one_class_warning(limit: Limit, before: Mapping[str, float], *, labels: Any) -> ArgumentWarning | None:
    """Return a warning if a model that always answers the most frequent class keeps a limit, as with shuffled labels.

    Args:
        limit: The limit.
        before: The metrics of the first model, by name.
        labels: The labels: an array of class numbers, of one-hot rows, or of rows of zeros and ones.

    Returns:
        The warning; None for labels of several outputs, and for metrics other than an accuracy.
    """
    share = 0.0 if isinstance(labels, Mapping | list | tuple) else _largest_share(np.asarray(labels))
    for name, value in before.items():
        most = largest_drop(limit, value)
        if share and is_accuracy(name) and most is not None and value - share <= most < 1:
            return ArgumentWarning(
                "max_drop",
                f"a model whose {name!r} is more than {most:g} above {share:.4f}, which the most frequent class as "
                "the answer to everything gives",
                found=f"{value:.4f} before anything is changed, so that even this answer keeps the limit",
                advice=CHECK_LABELS,
            )
    return None


def _largest_share(labels: np.ndarray) -> float:
    """Return how often the most frequent class occurs; 0 for labels that are not classes."""
    if labels.dtype.kind not in "biuf" or not labels.size:
        return 0.0
    is_one_hot = labels.ndim > 1 and labels.shape[-1] > 1 and (labels.sum(axis=-1) == 1).all()
    counts = np.unique(labels.argmax(axis=-1) if is_one_hot else labels, return_counts=True)[1]
    return float(counts.max() / counts.sum())


def largest_drop(limit: Limit, before: float) -> float | None:
    """Return the largest loss of the metric in its unit; None without a bound.

    Args:
        limit: The limit.
        before: The metric of the first model.

    Raises:
        ValueError: If the loss is relative to 0, or to a number that is not finite.
    """
    if limit.max_relative_drop is None:
        return limit.max_drop
    if not before or not math.isfinite(before):
        raise ValueError(
            f"Expected a metric other than 0 of the model given, for {limit!r}: a fraction of it is allowed. "
            f"Received: {before:g}. Pass `max_drop`, in the unit of the metric."
        )
    relative = limit.max_relative_drop * abs(before)
    return relative if limit.max_drop is None else min(limit.max_drop, relative)

"""Compare classes, numbers or texts of two models: accuracy, calibration and flips, in total and for each group."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfprune.base.limit import (
    SampleGroup,
    are_probabilities,
    class_groups,
    class_numbers,
    classes_without_samples,
    listed_classes,
    paired_interval,
    predicted_classes,
    read_groups,
    refuse_text,
    within_classes,
)
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_drop, check_number
from tfprune.export.comparing.damage_report import (
    FEW_SAMPLES,
    LISTED_ERRORS,
    CorruptedScores,
    DamageReport,
    DamageRow,
    FlippedSample,
    Quality,
    clustered_excess_test,
    clustered_interval,
    damage_row,
    excess_error_test,
    excess_loss_test,
    mcnemar,
    mean_interval,
    sorted_rows,
)
from tfprune.export.device.verify import EVALUATE_TIMEOUT, run_in_child, samples_and_answers
from tfprune.export.file.container import source_name

# Corruptions of samples, such as noise and blur: a pruned model may have less margin for them than before.
#
# Reference: Hendrycks & Dietterich, 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
# Perturbations", arXiv:1903.12261.

_Corruption = Callable[[np.ndarray], np.ndarray]
_KERNEL = np.array([0.25, 0.5, 0.25])  # one pass of the blur along one axis


def _noise(x: np.ndarray, amount: float) -> np.ndarray:
    """Add normal noise with `amount` times the standard deviation of the samples."""
    return x + amount * x.std() * np.random.default_rng(0).standard_normal(x.shape)


def _blur(x: np.ndarray, amount: float) -> np.ndarray:
    """Average neighbors along height and width, or time, in `amount` passes."""
    for axis in _places(x):
        for _ in range(max(round(amount), 1)):
            padded = np.pad(x, [(int(dim == axis),) * 2 for dim in range(x.ndim)], mode="edge")
            parts = [np.take(padded, range(start, start + x.shape[axis]), axis=axis) for start in range(3)]
            x = sum(weight * part for weight, part in zip(_KERNEL, parts, strict=True))
    return x


def _gain(x: np.ndarray, amount: float) -> np.ndarray:
    """Multiply by `amount`."""
    return amount * x


def _shift(x: np.ndarray, amount: float) -> np.ndarray:
    """Move the samples along their width or time by `amount` of its length, and repeat the first values."""
    axis = _places(x)[-1]
    source = np.maximum(np.arange(x.shape[axis]) - max(round(amount * x.shape[axis]), 1), 0)
    return np.take(x, source, axis=axis)


CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], float]] = {
    "noise": (_noise, 0.2),
    "blur": (_blur, 1),
    "gain": (_gain, 0.5),
    "shift": (_shift, 0.1),
}


def _corruptions_of(
    corruptions: str | Sequence[str] | Mapping[str, float | _Corruption] | None,
) -> dict[str, _Corruption]:
    """Return a function from samples to corrupted samples for each name.

    Args:
        corruptions: Names of `CORRUPTIONS`, or a dict from names to amounts, or to functions of the user.

    Raises:
        TypeError: If a value is neither a number nor a function.
        ValueError: If a name is not known and has no function.
    """
    names = (corruptions,) if isinstance(corruptions, str) else corruptions or ()
    amounts = names if isinstance(names, Mapping) else dict.fromkeys(names)
    functions: dict[str, _Corruption] = {}
    for name, amount in amounts.items():
        if callable(amount):
            functions[name] = amount
        elif name in CORRUPTIONS:
            function, default = CORRUPTIONS[name]
            value = default if amount is None else check_number(amount, f"corruptions[{name!r}]", least=0)
            functions[name] = _known(function, value)
        else:
            raise ArgumentError(
                "corruptions",
                f"`corruptions` to be names out of {', '.join(map(repr, CORRUPTIONS))}, or a dict with a function "
                f"from samples to samples for any other name",
                found=repr(name),
            )
    return functions


def _corrupted(x: Any, corruption: _Corruption, *, name: str) -> np.ndarray:
    """Return corrupted samples of the same shape and type.

    Raises:
        TypeError: If the samples are not one array of measured numbers.
        ValueError: If the function returns another shape.
    """
    is_measured = isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype in (np.uint8, np.int8, np.int16))
    if not is_measured:
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ArgumentTypeError(
            "corruptions",
            "one array of measured numbers as samples for `corruptions`: floats, or integers of 8 or 16 bits",
            found=kind,
        )
    values = np.asarray(corruption(x))
    if values.shape != x.shape:
        raise ValueError(
            f"Expected corruption {name!r} to return samples of shape {x.shape}. Received: {values.shape}."
        )
    return values.astype(x.dtype)


def _known(function: Callable[[np.ndarray, float], np.ndarray], amount: float) -> _Corruption:
    """Return a corruption that stays within the range of the samples, and between integers rounds."""

    def corruption(x: np.ndarray) -> np.ndarray:
        values = np.clip(function(x.astype(np.float32), amount), x.min(), x.max())
        return values if x.dtype.kind == "f" else np.rint(values)

    return corruption


def _places(x: np.ndarray) -> list[int]:
    """Return the axes of places: all between samples and channels."""
    if x.ndim < 3:
        raise ValueError(
            "Expected samples of shape (samples, ..., channels) with a height and width, or a time, for 'blur' and "
            f"'shift'. Received: {x.shape}."
        )
    return [*range(1, x.ndim - 1)]


# What the outputs mean: classes by number, truth values, or numbers; and the labels that belong to them.

_TASKS = ("classification", "regression", "language")


@dataclass(frozen=True)
class _Comparable:
    """Outputs of both sides in one form, and the labels.

    Attributes:
        task: `"classification"`, `"regression"` or `"language"`.
        before: Scores of shape (samples, classes), or (samples,) for class 1 of two; of a regression any shape; of a
            language model scores of shape (texts, time, vocabulary), or losses of shape (texts, time).
        after: The same of the other side.
        labels: Classes by number, (samples,), numbers of the outputs' shape, or targets, (texts, time); None if there
            are none.
    """

    task: str
    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray | None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return 2 if self.before.ndim == 1 else self.before.shape[1]


def _comparable(before: np.ndarray, after: np.ndarray, *, y: Any, task: str | None) -> _Comparable:
    """Bring outputs and labels into one form.

    Args:
        before: Outputs, batch first.
        after: Outputs of the other side.
        y: The labels, or None.
        task: What the outputs mean; None infers it: with labels that are whole numbers or one-hot rows, or without
            labels and with probabilities, they are scores of classes; with whole numbers of shape (texts, time), they
            are scores of tokens; else numbers.

    Raises:
        ValueError: If the shapes do not fit, or a label is not one of the classes.
    """
    if task is not None:
        check_choice(task, "task", choices=_TASKS)
    before, after = (side[:, 0] if side.ndim == 2 and side.shape[1] == 1 else side for side in (before, after))
    if before.shape != after.shape:
        raise ValueError(
            f"Expected outputs of one shape, for the same samples. Received: {before.shape} from `before` and "
            f"{after.shape} from `after`."
        )
    labels = None if y is None else _as_array(y, len(before))
    if task == "language" or (task is None and before.ndim == 3 and _are_tokens(labels, before)):
        return _Comparable("language", before, after, _targets(labels, before))
    classes = None if labels is None else class_numbers(labels, before)
    if task is None:
        _refuse_class_numbers(before, after, labels, classes)
        is_scores = classes is not None or (labels is None and before.ndim == 2 and are_probabilities(before))
        task = "classification" if is_scores else "regression"
    if task == "classification":
        if before.ndim > 2 or (labels is not None and classes is None):
            raise ValueError(_misfit(before, labels))
        return _Comparable(task, before, after, within_classes(classes, before))
    if labels is not None and labels.shape != before.shape:
        raise ValueError(_misfit(before, labels))
    return _Comparable(task, before, after, None if labels is None else labels.astype(np.float64))


def _class_texts(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """Return the name of each class, its number if it has none.

    Raises:
        ValueError: If there is another number of names.
    """
    if class_names is None:
        return [str(number) for number in range(classes)]
    if isinstance(class_names, str) or len(class_names) != classes:
        raise ArgumentError(
            "class_names", f"a name for each of the {classes} classes in `class_names`", found=repr(class_names)
        )
    return [str(name) for name in class_names]


def _as_array(y: Any, samples: int) -> np.ndarray:
    labels = np.asarray(y)
    refuse_text(labels, "data")
    if labels.dtype.kind not in "biuf" or not labels.ndim or len(labels) != samples:
        raise ValueError(
            f"Expected a label for each of the {samples:,} samples. Received: an array of shape {labels.shape} and "
            f"type {labels.dtype}."
        )
    if not np.isfinite(labels).all():
        raise ValueError("Expected finite labels. Received: NaN or infinity among them.")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _are_tokens(labels: np.ndarray | None, scores: np.ndarray) -> bool:
    """Return True if there is one whole number for each token."""
    size = math.prod(scores.shape[:2])
    return labels is not None and labels.dtype.kind in "iu" and scores.ndim in (2, 3) and labels.size == size


def _targets(labels: np.ndarray | None, outputs: np.ndarray) -> np.ndarray:
    """Return the number of each token, (texts, time).

    Raises:
        ValueError: If they are others than whole numbers for each token, or there is no such token.
    """
    if labels is None or not _are_tokens(labels, outputs):
        raise ValueError(_misfit(outputs, labels))
    targets = labels.reshape(outputs.shape[:2])
    if outputs.ndim == 3 and targets.max() >= outputs.shape[2]:
        raise ValueError(
            f"Expected targets below {outputs.shape[2]:,}, the size of the vocabulary, or negative ones to ignore. "
            f"Received: {targets.max()}."
        )
    return targets


def _refuse_two_meanings(before: np.ndarray, after: np.ndarray, *, are_shares: list[bool]) -> None:
    """Refuse logits on one side and probabilities on the other.

    Args:
        before: Outputs of one side.
        after: Outputs of the other side.
        are_shares: Whether each of them is probabilities.

    Raises:
        ValueError: If only one of them is.
    """
    if are_shares[0] == are_shares[1]:
        return
    texts = [
        f"{'probabilities' if is_known else 'logits'} from `{name}` (from {side.min():.3g} to {side.max():.3g})"
        for name, side, is_known in zip(("before", "after"), (before, after), are_shares, strict=True)
    ]
    raise ValueError(
        f"Expected outputs of one meaning. Received: {texts[0]} and {texts[1]}. Apply softmax or sigmoid to the "
        "logits first."
    )


def _refuse_class_numbers(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray | None, classes: np.ndarray | None
) -> None:
    if labels is None or classes is not None or labels.shape != before.shape:
        return
    if all(np.array_equal(values, np.round(values)) for values in (before, after, labels)):
        raise ValueError(
            "Expected the scores of the classes as outputs. Received: whole numbers, as are the labels. Pass the "
            "outputs before argmax, or task='regression' if they are numbers to be reached."
        )


def _misfit(outputs: np.ndarray, labels: np.ndarray | None) -> str:
    shape = "none" if labels is None else f"labels of shape {labels.shape} and type {labels.dtype}"
    return (
        "Expected labels that are numbers of classes for outputs of shape (samples, classes), numbers of tokens for "
        "outputs of shape (texts, time, vocabulary), or numbers of the outputs' shape. Received: outputs of shape "
        f"{outputs.shape}, {shape}. If the outputs are class numbers, pass the scores instead."
    )


# Probabilities of classes, and whether they are right: expected calibration error and Brier score.

_BINS = 15


def _class_probabilities(scores: np.ndarray, *, as_they_are: bool) -> np.ndarray:
    """Return the probability of each class, (samples, classes).

    Args:
        scores: Outputs of shape (samples, classes), or (samples,) for class 1 of two.
        as_they_are: Whether they are probabilities; others go through a softmax or, for two classes, a sigmoid.
    """
    if scores.ndim == 1:
        positive = scores if as_they_are else 0.5 * (1 + np.tanh(scores / 2))  # the sigmoid, without overflow
        return np.stack([1 - positive, positive], axis=1)
    if as_they_are:
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy in 15 bins of confidence.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 5.
    """
    edges = np.linspace(0.0, 1.0, _BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence)  # a bin holds its upper edge
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum()) / len(confidence)


def _brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the samples of the sum over the classes of (probability - truth)^2, from 0 to 2.

    Source: G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    truth = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return float(np.mean((probabilities**2).sum(axis=1) - 2 * truth + 1))


# Compare two classifiers: accuracy, calibration and flips, of all samples and of each group.


def _compare_classes(
    compared: _Comparable, groups: list[SampleGroup], *, level: float, names: list[str]
) -> DamageReport:
    """Return what was lost of the accuracy, or of the agreement if there are no labels.

    Args:
        compared: Scores of both sides, and the labels.
        groups: Groups of samples, besides the classes.
        level: The coverage of the intervals.
        names: The name of each class.

    Raises:
        ValueError: If only one side has probabilities.
    """
    are_shares = [are_probabilities(side) for side in (compared.before, compared.after)]
    _refuse_two_meanings(compared.before, compared.after, are_shares=are_shares)
    pair = [compared.before, compared.after]
    probabilities = [_class_probabilities(side, as_they_are=are_shares[0]) for side in pair]
    predicted = [predicted_classes(side, as_they_are=are_shares[0]) for side in pair]
    has_labels = compared.labels is not None
    labels = predicted[0] if compared.labels is None else compared.labels
    right = [classes == labels for classes in predicted]
    confidences = [
        np.take_along_axis(side, classes[:, None], axis=1)[:, 0]
        for side, classes in zip(probabilities, predicted, strict=True)
    ]
    qualities = [
        Quality(
            score=float(hits.mean()),
            calibration_error=_calibration_error(sure, hits) if has_labels else None,
            brier=_brier_score(chances, labels) if has_labels else None,
            confidence=float(sure.mean()),
        )
        for hits, sure, chances in zip(right, confidences, probabilities, strict=True)
    ]
    everything = _counts(right[0], right[1])
    low, high = paired_interval(everything[1], everything[2], samples=len(labels), level=level)
    notes = [] if are_shares[0] else ["The outputs are logits: confidences are those of a softmax or sigmoid."]
    missing = [names[each] for each in classes_without_samples(labels, compared.classes)] if has_labels else []
    notes += [f"Not measured, for want of samples: {listed_classes(missing)}."] if missing else []
    return DamageReport(
        task="classification" if has_labels else "agreement",
        samples=len(labels),
        before=qualities[0],
        after=qualities[1],
        drop=qualities[0].score - qualities[1].score,
        low=low,
        high=high,
        lost=everything[1],
        gained=everything[2],
        p_value=mcnemar(everything[1], everything[2]),
        rows=_class_rows([*class_groups(labels, names), *groups], right, level),
        flips=_flips(right, labels, predicted, confidences, names),
        level=float(level),
        notes=tuple(notes),
        without_samples=tuple(missing),
    )


def _counts(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Return how many samples both get right, only the first, only the second, and neither."""
    both, lost, gained = before & after, before & ~after, ~before & after
    counts = [int(each.sum()) for each in (both, lost, gained)]
    return counts[0], counts[1], counts[2], len(before) - sum(counts)


def _class_rows(groups: list[SampleGroup], right: list[np.ndarray], level: float) -> tuple[DamageRow, ...]:
    _, all_lost, all_gained, _ = _counts(right[0], right[1])
    rows = []
    for group in groups:
        before, after = (side[group.inside] for side in right)
        counts, samples = _counts(before, after), len(before)
        low, high = paired_interval(counts[1], counts[2], samples=samples, level=level)
        p_value = excess_loss_test(
            counts[1], counts[2], samples=samples, overall=(all_lost, all_gained, len(right[0]))
        )
        drop = (counts[1] - counts[2]) / samples
        rows.append(
            damage_row(
                group,
                scores=(before.mean(), after.mean(), drop),
                interval=(low, high),
                changes=counts[1:3],
                p_value=p_value,
            )
        )
    return sorted_rows(rows, level)


def _flips(
    right: list[np.ndarray],
    labels: np.ndarray,
    predicted: list[np.ndarray],
    confidences: list[np.ndarray],
    names: list[str],
) -> tuple[FlippedSample, ...]:
    lost, gained = np.flatnonzero(right[0] & ~right[1]), np.flatnonzero(~right[0] & right[1])
    by_confidence = [
        *lost[np.argsort(-confidences[0][lost], kind="stable")],
        *gained[np.argsort(-confidences[1][gained], kind="stable")],
    ]
    return tuple(
        FlippedSample(
            index=int(index),
            lost=bool(right[0][index]),
            label=names[labels[index]],
            before=names[predicted[0][index]],
            after=names[predicted[1][index]],
            confidence_before=float(confidences[0][index]),
            confidence_after=float(confidences[1][index]),
        )
        for index in by_confidence
    )


# Compare two models whose outputs are numbers: absolute errors, of all samples and of each group.


def _compare_numbers(compared: _Comparable, groups: list[SampleGroup], *, level: float) -> DamageReport:
    """Return how much absolute errors grew; without labels, how far the outputs lie apart.

    Args:
        compared: Numbers of both sides, and the labels.
        groups: Groups of samples.
        level: The coverage of the intervals.
    """
    truth = compared.before if compared.labels is None else compared.labels
    before, after = (
        np.abs(side.astype(np.float64) - truth).reshape(len(side), -1).mean(axis=1)
        for side in (compared.before, compared.after)
    )
    grown = after - before
    rows = [
        damage_row(
            group,
            scores=tuple(values[group.inside].mean() for values in (before, after, grown)),
            interval=mean_interval(grown[group.inside], level=level) or (None, None),
            changes=(int((grown[group.inside] > 0).sum()), int((grown[group.inside] < 0).sum())),
            p_value=excess_error_test(grown, group.inside),
        )
        for group in groups
    ]
    worst = [index for index in np.argsort(-grown, kind="stable")[:LISTED_ERRORS] if grown[index] > 0]
    notes = [] if compared.labels is not None else ["Without labels the errors are differences from `before`."]
    if notes and compared.before.ndim == 2:
        notes.append(
            'If the outputs are scores of classes, such as logits, compare the classes: `task="classification"` '
            "(`tfprune compare --task classification`)."
        )
    return _of_errors(
        "regression",
        before,
        after,
        interval=mean_interval(grown, level=level),
        rows=sorted_rows(rows, level),
        flips=tuple(
            FlippedSample(int(index), True, "", f"{before[index]:.4g}", f"{after[index]:.4g}", None, None)
            for index in worst
        ),
        level=level,
        notes=tuple(notes),
    )


def _of_errors(
    task: str,
    before: np.ndarray,
    after: np.ndarray,
    *,
    interval: tuple[float, float] | None,
    level: float,
    **parts: Any,
) -> DamageReport:
    """Return the report of errors or losses.

    Args:
        task: Its name.
        before: The error of each sample or token before.
        after: That after.
        interval: The interval of the mean growth; None if there is none.
        level: Its coverage.
        parts: The rows, the flips and the notes of the report.
    """
    grown = after - before
    low, high = interval or (None, None)
    return DamageReport(
        task=task,
        samples=len(grown),
        before=Quality(float(before.mean())),
        after=Quality(float(after.mean())),
        drop=float(grown.mean()),
        low=low,
        high=high,
        lost=int((grown > 0).sum()),
        gained=int((grown < 0).sum()),
        p_value=None,
        level=float(level),
        **parts,
    )


# Compare two language models: the loss of each token, by kind of token and by text.

_FREQUENT_SHARE, _RARE_SHARE = 0.5, 0.1  # of all tokens, the most frequent ones and the least frequent ones
_SMALLEST_PROBABILITY = 1e-7  # as in Keras, so that a probability of 0 has a finite loss


def _compare_tokens(compared: _Comparable, groups: Any, *, level: float) -> DamageReport:
    """Return how much the loss of tokens grew.

    Tokens of a text are not independent, so that intervals and tests count texts.

    Args:
        compared: Scores of shape (texts, time, vocabulary) or losses of shape (texts, time) of both sides, and the
            targets, which are negative where there are none.
        groups: Arrays of shape (texts,) or (texts, time) by name, one such array, or None.
        level: The coverage of the intervals.

    Raises:
        ValueError: If there are no targets, or only one side has probabilities.
    """
    assert compared.labels is not None
    counted = compared.labels >= 0
    if not counted.any():
        raise ArgumentError("y", "targets of at least 0 in `y`", found="negative ones only, which are ignored")
    texts = np.nonzero(counted)[0]
    before, after = (losses[counted] for losses in _losses(compared, compared.labels))
    grown = after - before
    named = {"frequency": _frequency_classes(compared.labels[counted]), **_of_tokens(groups, counted)}
    rows = [_row(group, before, after, texts=texts, level=level) for group in read_groups(named, len(grown))]
    return _of_errors(
        "language",
        before,
        after,
        interval=clustered_interval(grown, clusters=texts, level=level),
        rows=sorted_rows(rows, level),
        flips=_worst_texts(before, after, texts),
        level=level,
        notes=("Intervals and tests count texts, because tokens of a text are not independent.",),
    )


def _frequency_classes(targets: np.ndarray) -> np.ndarray:
    """Return `"frequent"`, `"medium"` or `"rare"` for each token, by how often its kind occurs among them.

    The most frequent kinds that make up half of the tokens are frequent, and the least frequent that make up a tenth
    are rare.
    """
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = np.empty(len(counts))
    shares[order] = (np.cumsum(counts[order]) - counts[order]) / len(targets)  # of the tokens of more frequent kinds
    classes = np.where(shares < _FREQUENT_SHARE, "frequent", np.where(shares < 1 - _RARE_SHARE, "medium", "rare"))
    return classes[place]


def _losses(compared: _Comparable, targets: np.ndarray) -> list[np.ndarray]:
    """Return the negative log-likelihood of each target, (texts, time)."""
    pair = [compared.before, compared.after]
    if compared.before.ndim == 2:
        return pair
    are_shares = [are_probabilities(side.reshape(-1, side.shape[-1])) for side in pair]
    _refuse_two_meanings(compared.before, compared.after, are_shares=are_shares)
    return [_loss_of(side, np.maximum(targets, 0), as_they_are=are_shares[0]) for side in pair]


def _loss_of(outputs: np.ndarray, targets: np.ndarray, *, as_they_are: bool) -> np.ndarray:
    losses = np.empty(targets.shape)
    for row, (text, target) in enumerate(zip(outputs, targets, strict=True)):  # one after the other, to save memory
        scores = text.astype(np.float64)
        right = np.take_along_axis(scores, target[:, None], axis=1)[:, 0]
        if as_they_are:
            losses[row] = -np.log(np.maximum(right, _SMALLEST_PROBABILITY))
        else:
            most = scores.max(axis=1)
            losses[row] = most + np.log(np.exp(scores - most[:, None]).sum(axis=1)) - right
    return losses


def _of_tokens(groups: Any, counted: np.ndarray) -> dict[str, np.ndarray]:
    """Return each group's value of each counted token; a text gives its value to its tokens."""
    if groups is None:
        return {}
    named = groups if isinstance(groups, Mapping) else {"group": groups}
    values = {}
    for name, each in named.items():
        array = np.asarray(each)
        if array.shape not in (counted.shape, counted.shape[:1]):
            raise ArgumentError(
                "groups",
                f"one value for each of the {len(counted):,} texts, or for each token of shape {counted.shape}, in "
                f"groups[{name!r}]",
                found=f"an array of shape {array.shape}",
            )
        values[str(name)] = np.broadcast_to(array.reshape(len(array), -1), counted.shape)[counted]
    return values


def _row(group: SampleGroup, before: np.ndarray, after: np.ndarray, *, texts: np.ndarray, level: float) -> DamageRow:
    inside, grown = group.inside, after - before
    return damage_row(
        group,
        scores=(before[inside].mean(), after[inside].mean(), grown[inside].mean()),
        interval=clustered_interval(grown[inside], clusters=texts[inside], level=level) or (None, None),
        changes=(int((grown[inside] > 0).sum()), int((grown[inside] < 0).sum())),
        p_value=clustered_excess_test(grown, inside, clusters=texts),
    )


def _worst_texts(before: np.ndarray, after: np.ndarray, texts: np.ndarray) -> tuple[FlippedSample, ...]:
    """Return the texts whose loss per token grew most."""
    counts = np.bincount(texts)
    sides = [np.bincount(texts, weights=side) / np.maximum(counts, 1) for side in (before, after)]
    grown = sides[1] - sides[0]
    worst = [index for index in np.argsort(-grown, kind="stable")[:LISTED_ERRORS] if grown[index] > 0]
    old, new = ([f"{loss:.4g}" for loss in side[worst]] for side in sides)
    return tuple(
        FlippedSample(int(index), True, "", loss, later, None, None)
        for index, loss, later in zip(worst, old, new, strict=True)
    )


# Outputs of one side of a comparison: of a file, of a model, or recorded ones.


def _outputs_of(side: Any, x: Any, *, argument: str, output: str | int | None, timeout: float) -> np.ndarray:
    """Return one output of a side for all samples, batch first.

    Args:
        side: A file (a path or its bytes), an object with `predict` such as a Keras model or a `Runner`, or the
            outputs themselves.
        x: The samples; None if the outputs are recorded.
        argument: The name of the argument, for errors.
        output: The name or the index of the output, if there are several.
        timeout: Seconds after which a file is stopped.

    Raises:
        TypeError: If `side` is something else.
        ValueError: If there are no samples to run it on, it does not run, or its outputs are not finite numbers.
    """
    if _can_run(side) and x is None:
        raise ArgumentError(
            "data",
            f"samples for `{argument}` to run on",
            "(None, y)",
            advice="Pass (x, y), or the recorded outputs of both.",
        )
    if _is_file(side):
        outputs: Any = _run(side, x, argument=argument, timeout=timeout)
    else:
        outputs = _predict(side, x) if hasattr(side, "predict") else side
    return _checked(_select(outputs, argument, output), argument)


def _can_run(side: Any) -> bool:
    """Return True if a side runs on samples, as a file and a model do, and is not recorded outputs."""
    return _is_file(side) or hasattr(side, "predict")


def _is_file(side: Any) -> bool:
    return isinstance(side, (str, os.PathLike, bytes, bytearray, memoryview))


def _run(source: Any, x: Any, *, argument: str, timeout: float) -> dict[str, np.ndarray]:
    run = run_in_child(source, x, timeout=timeout)
    if run.reason:
        raise ArgumentError(
            argument,
            f"a file in `{argument}` that runs on the samples",
            found=f"{source_name(source)}: {run.reason}",
            advice="Check it with `tfprune verify`.",
        )
    return run.outputs


def _predict(model: Any, x: Any) -> Any:
    """Call a model without the progress bar that Keras has."""
    if "verbose" in inspect.signature(model.predict).parameters:
        return model.predict(x, verbose=0)
    return model.predict(x)


def _select(outputs: Any, argument: str, output: str | int | None) -> Any:
    """Return the output of that name or index, or the only one.

    Raises:
        ValueError: If there are several and none was chosen, or the chosen one does not exist.
    """
    named = isinstance(outputs, Mapping)
    if not named and not _is_list_of_outputs(outputs):
        return outputs
    names = [*outputs] if named else [*range(len(outputs))]
    if output is None and len(names) == 1:
        return outputs[names[0]]
    if output in names:
        return outputs[output]
    if named and isinstance(output, int) and 0 <= output < len(names):
        return outputs[names[output]]
    raise ArgumentError(
        "output",
        f"`output` to choose one of the outputs {names} of `{argument}`",
        repr(output),
        advice="Compare several outputs one after the other.",
    )


def _is_list_of_outputs(outputs: Any) -> bool:
    """Tell a list of outputs from a list of rows: the outputs are arrays with samples along the first axis."""
    return isinstance(outputs, (list, tuple)) and all(
        isinstance(each, np.ndarray) and each.ndim > 1 for each in outputs
    )


def _checked(outputs: Any, argument: str) -> np.ndarray:
    array = np.asarray(outputs)
    if array.dtype.kind not in "biuf" or not array.ndim or not len(array):
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a .tflite file, a Keras model, or recorded outputs with samples along the first "
            f"axis",
            found=f"{type(outputs).__name__} of shape {array.shape} and type {array.dtype}",
        )
    real = array if array.ndim > 2 else array.astype(np.float64)  # scores of tokens are many
    broken = np.flatnonzero(~np.isfinite(real.reshape(len(real), -1)).all(axis=1))
    if len(broken):
        raise ArgumentError(
            argument,
            f"finite outputs of `{argument}`",
            found=(
                f"NaN or infinity in {len(broken):,} of {len(real):,} samples, the first of them sample {broken[0]}"
            ),
            advice="Repair the model before you compare it.",
        )
    return real


# Compare a model before and after pruning: for each class, group and sample.

_PICTURED_SAMPLES = 24  # kept for the page


def damage(
    before: Any,
    after: Any,
    data: Any,
    *,
    groups: Mapping[str, ArrayLike] | ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
    output: str | int | None = None,
    confidence: float = 0.95,
    max_drop: float | None = None,
    max_drop_per_group: float | None = None,
    corruptions: str | Sequence[str] | Mapping[str, float | _Corruption] | None = None,
    timeout: float = EVALUATE_TIMEOUT,
) -> DamageReport:
    """Compare two models on the same samples: what each class and each group lost, and which samples flipped.

    Use it before you ship a pruned or quantized model. An average hides a class or a speaker that lost everything.
    Files and recorded outputs need neither Keras nor TensorFlow.

    Args:
        before: A .tflite file (a path or its bytes), a Keras model or another object with `predict`, or the recorded
            outputs as an array, batch first.
        after: The same of the smaller model.
        data: A tuple (x, y), or batches of such tuples; x alone, or (x, None), to compare without labels. x may be
            None if both outputs are recorded. y holds classes by number, one-hot rows, or numbers; for a language
            model with outputs of shape (texts, time, vocabulary) the number of each next token, (texts, time), and
            a negative number where there is none, as in padding.
        groups: Arrays of shape (samples,) by name, such as `{"speaker": speakers}`: whole numbers or strings. For a
            language model also (texts, time), such as the kind of each next token. Default None: the classes only,
            or frequent and rare tokens.
        class_names: The name of each class, for the report. Default None: the numbers.
        task: `"classification"`, `"regression"` or `"language"`. Default None: inferred from labels and outputs. With
            `"language"`, the outputs may also be the loss of each token, (texts, time).
        output: The name or index of the output to compare, for models that have several. Default None.
        confidence: The coverage of the intervals, between 0 and 1. Default 0.95. A group counts as harmed if its
            adjusted p-value is below 1 - `confidence`.
        max_drop: The accuracy that may be lost in total, 0.01 for one point, or the error that may be gained. Default
            None: no limit.
        max_drop_per_group: The same for each class and each group. Default None: no limit.
        corruptions: Names of corruptions: `"noise"` (0.2 of the standard deviation of the samples), `"blur"` (1 pass
            over neighbors), `"gain"` (times 0.5), `"shift"` (by 0.1 of the width or time). A dict changes these
            amounts, as `{"noise": 0.5}`, or adds functions from samples to samples. Both sides run on each. Default
            None.
        timeout: Seconds after which a file is stopped. Default 3600.

    Returns:
        A report that prints the worst groups first. Intervals of drops are those of Bonett and Price for paired
        answers (Student's for errors). Whether a group lost more than the other samples is decided by an exact
        permutation test (rank sums for errors), corrected for the number of groups by Benjamini and Hochberg.

    Raises:
        TypeError: If a side is not a file, model or array, or `groups` holds measured numbers.
        ValueError: If outputs are not finite, differ in shape or in meaning (logits and probabilities), labels or
            groups have another length, a file does not run, or a corruption is not known or has no samples.

    Example:
        >>> scores = np.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> report = damage(scores, scores[[0, 1, 4, 2, 4, 5]], (None, [0, 0, 1, 1, 2, 2]))
        >>> report.lost, report.rows[0].name, report.rows[0].drop
        (1, 'class 1', 0.5)
    """
    check_number(confidence, "confidence", above=0, below=1)
    limits = {"max_drop": max_drop, "max_drop_per_group": max_drop_per_group}
    for name, limit in limits.items():
        check_drop(limit, name, metric="")
    check_number(timeout, "timeout", above=0)
    functions = _corruptions_of(corruptions)
    x, y = _samples_and_labels(data)

    def compare(samples: Any, groups: Any) -> DamageReport:
        sides = [
            _outputs_of(side, samples, argument=name, output=output, timeout=timeout)
            for name, side in (("before", before), ("after", after))
        ]
        compared = _comparable(sides[0], sides[1], y=y, task=task)
        if compared.task == "language":
            return _compare_tokens(compared, groups, level=confidence)
        by_sample = read_groups(groups, len(compared.before))
        if compared.task == "regression":
            return _compare_numbers(compared, by_sample, level=confidence)
        names = _class_texts(class_names, compared.classes)
        return _compare_classes(compared, by_sample, level=confidence, names=names)

    report = compare(x, groups)
    for name, limit in limits.items():
        check_drop(limit, name, metric="accuracy" if report.task == "classification" else "")
    scores = []
    for name, function in functions.items():
        _refuse_recorded(before, after)
        other = compare(_corrupted(x, function, name=name), None)
        scores.append(CorruptedScores(name, other.before.score, other.after.score, other.drop, other.low, other.high))
    few = [f"{row.name} ({row.samples})" for row in report.rows if row.samples < FEW_SAMPLES]
    note = f"Too few samples for a firm answer (fewer than {FEW_SAMPLES}): {', '.join(few)}."
    return replace(
        report,
        max_drop=max_drop,
        max_drop_per_group=max_drop_per_group,
        corrupted=tuple(scores),
        notes=(*report.notes, *([note] if few else [])),
        pictured=_pictured(x, report.flips),
    )


def _refuse_recorded(before: Any, after: Any) -> None:
    """Refuse recorded outputs, which corruptions of the samples do not change."""
    for name, side in (("before", before), ("after", after)):
        if not _can_run(side):
            raise ArgumentError(
                name,
                f"a file or a model in `{name}` to run on corrupted samples",
                found="recorded outputs",
                advice="Leave `corruptions` out.",
            )


def _samples_and_labels(data: Any) -> tuple[Any, Any]:
    """Return x and y; None for y where there are no labels."""
    is_pair = isinstance(data, tuple) and len(data) == 2
    if is_pair or (isinstance(data, Iterable) and not isinstance(data, (np.ndarray, Mapping, list, str, bytes))):
        return samples_and_answers(data, argument="data")
    if isinstance(data, list) and data and all(isinstance(batch, tuple) for batch in data):
        return samples_and_answers(data, argument="data")
    if not isinstance(data, (np.ndarray, Mapping, list)):
        raise ArgumentTypeError(
            "data",
            "a tuple (x, y), batches of such tuples, or samples without labels in `data`",
            found=f"a value of type {type(data).__name__}",
        )
    return data, None


def _pictured(x: Any, flips: tuple[FlippedSample, ...]) -> dict[int, np.ndarray]:
    """Return the samples that the page may show, if each is one array."""
    if x is None or isinstance(x, (Mapping, list, tuple)) or not hasattr(x, "__getitem__"):
        return {}
    return {flip.index: np.asarray(x[flip.index]) for flip in flips[:_PICTURED_SAMPLES]}

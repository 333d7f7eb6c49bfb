"""Compare two classifiers: accuracy, calibration and flips, of all samples and of each group."""

from __future__ import annotations

import numpy as np

from tfprune.base.classes import are_probabilities, predicted_classes
from tfprune.base.groups import SampleGroup, class_groups, paired_interval
from tfprune.export.comparing.calibration import brier_score, calibration_error, class_probabilities
from tfprune.export.comparing.damage_report import DamageReport
from tfprune.export.comparing.damage_rows import DamageRow, FlippedSample, Quality, damage_row, sorted_rows
from tfprune.export.comparing.labels import Comparable, refuse_two_meanings
from tfprune.export.comparing.paired_tests import excess_loss_test, mcnemar


def compare_classes(
    compared: Comparable, groups: list[SampleGroup], *, level: float, names: list[str]
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
    refuse_two_meanings(compared.before, compared.after, are_shares=are_shares)
    pair = [compared.before, compared.after]
    probabilities = [class_probabilities(side, as_they_are=are_shares[0]) for side in pair]
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
            calibration_error=calibration_error(sure, hits) if has_labels else None,
            brier=brier_score(chances, labels) if has_labels else None,
            confidence=float(sure.mean()),
        )
        for hits, sure, chances in zip(right, confidences, probabilities, strict=True)
    ]
    everything = _counts(right[0], right[1])
    low, high = paired_interval(everything[1], everything[2], samples=len(labels), level=level)
    notes = () if are_shares[0] else ("The outputs are logits: confidences are those of a softmax or sigmoid.",)
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
        notes=notes,
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

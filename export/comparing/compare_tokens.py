"""Compare two language models: the loss of each token, by kind of token and by text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.base.classes import are_probabilities
from tfprune.base.groups import SampleGroup, read_groups
from tfprune.export.comparing.damage_report import LISTED_ERRORS, DamageReport
from tfprune.export.comparing.damage_rows import DamageRow, FlippedSample, Quality, damage_row, sorted_rows
from tfprune.export.comparing.labels import Comparable, refuse_two_meanings
from tfprune.export.comparing.paired_tests import clustered_excess_test, clustered_interval

FREQUENT_SHARE, RARE_SHARE = 0.5, 0.1  # of all tokens, the most frequent ones and the least frequent ones
SMALLEST_PROBABILITY = 1e-7  # as in Keras, so that a probability of 0 has a finite loss


def compare_tokens(compared: Comparable, groups: Any, *, level: float) -> DamageReport:
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
        raise ValueError("Expected targets of at least 0 in `y`. Received: negative ones only, which are ignored.")
    texts = np.nonzero(counted)[0]
    before, after = (losses[counted] for losses in _losses(compared, compared.labels))
    grown = after - before
    named = {"frequency": frequency_classes(compared.labels[counted]), **_of_tokens(groups, counted)}
    rows = [_row(group, before, after, texts=texts, level=level) for group in read_groups(named, len(grown))]
    low, high = clustered_interval(grown, clusters=texts, level=level) or (None, None)
    return DamageReport(
        task="language",
        samples=len(grown),
        before=Quality(float(before.mean())),
        after=Quality(float(after.mean())),
        drop=float(grown.mean()),
        low=low,
        high=high,
        lost=int((grown > 0).sum()),
        gained=int((grown < 0).sum()),
        p_value=None,
        rows=sorted_rows(rows, level),
        flips=_worst_texts(before, after, texts),
        level=float(level),
        notes=("Intervals and tests count texts, because tokens of a text are not independent.",),
    )


def frequency_classes(targets: np.ndarray) -> np.ndarray:
    """Return `"frequent"`, `"medium"` or `"rare"` for each token, by how often its kind occurs among them.

    The most frequent kinds that make up half of the tokens are frequent, and the least frequent that make up a tenth
    are rare.
    """
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = np.empty(len(counts))
    shares[order] = (np.cumsum(counts[order]) - counts[order]) / len(targets)  # of the tokens of more frequent kinds
    classes = np.where(shares < FREQUENT_SHARE, "frequent", np.where(shares < 1 - RARE_SHARE, "medium", "rare"))
    return classes[place]


def _losses(compared: Comparable, targets: np.ndarray) -> list[np.ndarray]:
    """Return the negative log-likelihood of each target, (texts, time)."""
    pair = [compared.before, compared.after]
    if compared.before.ndim == 2:
        return pair
    are_shares = [are_probabilities(side.reshape(-1, side.shape[-1])) for side in pair]
    refuse_two_meanings(compared.before, compared.after, are_shares=are_shares)
    return [_loss_of(side, np.maximum(targets, 0), as_they_are=are_shares[0]) for side in pair]


def _loss_of(outputs: np.ndarray, targets: np.ndarray, *, as_they_are: bool) -> np.ndarray:
    losses = np.empty(targets.shape)
    for row, (text, target) in enumerate(zip(outputs, targets, strict=True)):  # one after the other, to save memory
        scores = text.astype(np.float64)
        right = np.take_along_axis(scores, target[:, None], axis=1)[:, 0]
        if as_they_are:
            losses[row] = -np.log(np.maximum(right, SMALLEST_PROBABILITY))
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
            raise ValueError(
                f"Expected one value for each of the {len(counted):,} texts, or for each token of shape "
                f"{counted.shape}, in groups[{name!r}]. Received: an array of shape {array.shape}."
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

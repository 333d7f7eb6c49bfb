"""What the outputs mean: classes by number, truth values, or numbers; and the labels that belong to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.classes import are_probabilities, class_numbers, within_classes
from tfprune.base.spec import check_choice

TASKS = ("classification", "regression", "language")


@dataclass(frozen=True)
class Comparable:
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


def comparable(before: np.ndarray, after: np.ndarray, *, y: Any, task: str | None) -> Comparable:
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
        check_choice(task, "task", choices=TASKS)
    before, after = (side[:, 0] if side.ndim == 2 and side.shape[1] == 1 else side for side in (before, after))
    if before.shape != after.shape:
        raise ValueError(
            f"Expected outputs of one shape, for the same samples. Received: {before.shape} from `before` and "
            f"{after.shape} from `after`."
        )
    labels = None if y is None else _as_array(y, len(before))
    if task == "language" or (task is None and before.ndim == 3 and _are_tokens(labels, before)):
        return Comparable("language", before, after, _targets(labels, before))
    classes = None if labels is None else class_numbers(labels, before)
    if task is None:
        _refuse_class_numbers(before, after, labels, classes)
        is_scores = classes is not None or (labels is None and before.ndim == 2 and are_probabilities(before))
        task = "classification" if is_scores else "regression"
    if task == "classification":
        if before.ndim > 2 or (labels is not None and classes is None):
            raise ValueError(_misfit(before, labels))
        return Comparable(task, before, after, within_classes(classes, before))
    if labels is not None and labels.shape != before.shape:
        raise ValueError(_misfit(before, labels))
    return Comparable(task, before, after, None if labels is None else labels.astype(np.float64))


def class_texts(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """Return the name of each class, its number if it has none.

    Raises:
        ValueError: If there is another number of names.
    """
    if class_names is None:
        return [str(number) for number in range(classes)]
    if isinstance(class_names, str) or len(class_names) != classes:
        raise ValueError(
            f"Expected a name for each of the {classes} classes in `class_names`. Received: {class_names!r}."
        )
    return [str(name) for name in class_names]


def _as_array(y: Any, samples: int) -> np.ndarray:
    labels = np.asarray(y)
    if labels.dtype.kind not in "biuf" or not labels.ndim or len(labels) != samples:
        raise ValueError(
            f"Expected a label for each of the {samples:,} samples. Received: an array of shape {labels.shape} and "
            f"type {labels.dtype}."
        )
    if not np.isfinite(labels).all():
        raise ValueError("Expected finite labels. Received: NaN or infinity among them.")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _are_tokens(labels: np.ndarray | None, scores: np.ndarray) -> bool:
    """Tell whether there is one whole number for each token."""
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


def refuse_two_meanings(before: np.ndarray, after: np.ndarray, *, are_shares: list[bool]) -> None:
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

"""What the outputs mean: classes by number, truth values, or numbers; and the labels that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.classes import are_probabilities, class_numbers, within_classes
from tfprune.base.spec import check_choice

TASKS = ("classification", "regression")


@dataclass(frozen=True)
class Comparable:
    """Outputs of both sides in one form, and the labels.

    Attributes:
        task: `"classification"` or `"regression"`.
        before: Scores of shape (samples, classes), or (samples,) for class 1 of two; of a regression any shape.
        after: The same of the other side.
        labels: Classes by number, (samples,), or numbers of the outputs' shape; None if there are none.
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
            labels and with probabilities, they are scores of classes, else numbers.

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
        "Expected labels that are numbers of classes for outputs of shape (samples, classes), or numbers of the "
        f"outputs' shape. Received: outputs of shape {outputs.shape}, {shape}. If the outputs are class numbers, "
        "pass the scores instead."
    )

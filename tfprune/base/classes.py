"""Scores of classes, and which class they mean; labels by number or as one-hot rows."""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-3  # of a sum of float probabilities
INTEGER_STEP = 1 / 256  # of probabilities that a file holds in 8 bits: each is rounded by up to half of it


def are_probabilities(scores: np.ndarray) -> bool:
    """Tell whether rows are probabilities: not negative, and of sum 1 up to the rounding of 8-bit files.

    Args:
        scores: Outputs of shape (samples, classes), or (samples,) for the probability of class 1.
    """
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1 + ROUNDING):
        return False
    if scores.ndim == 1:
        return True
    allowed = ROUNDING + scores.shape[1] * INTEGER_STEP / 2
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

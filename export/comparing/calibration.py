"""Probabilities of classes, and whether they are right: expected calibration error, Brier score, confidence."""

from __future__ import annotations

import numpy as np

BINS = 15
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


def class_probabilities(scores: np.ndarray, *, as_they_are: bool) -> np.ndarray:
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


def predicted_classes(scores: np.ndarray, *, as_they_are: bool) -> np.ndarray:
    """Return the class of the largest score; of one output per sample, whether it is above 0.5, or above 0."""
    if scores.ndim == 1:
        return (scores > (0.5 if as_they_are else 0.0)).astype(np.int64)
    return scores.argmax(axis=1)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy in 15 bins of confidence.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 5.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence)  # a bin holds its upper edge
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum()) / len(confidence)


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the samples of the sum over the classes of (probability - truth)^2, from 0 to 2.

    Source: G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    truth = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return float(np.mean((probabilities**2).sum(axis=1) - 2 * truth + 1))

"""Probabilities of classes, and whether they are right: expected calibration error and Brier score."""

from __future__ import annotations

import numpy as np

BINS = 15


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

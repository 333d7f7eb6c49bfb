"""Calibration, against scikit-learn."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from tfprune.base.limit import are_probabilities, predicted_classes
from tfprune.export.comparing.damage import _brier_score, _calibration_error, _class_probabilities

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2000, 7)) * 2
LABELS = (LOGITS + RNG.normal(size=LOGITS.shape) * 2).argmax(axis=1)


def test_the_calibration_error_is_the_weighted_gap_of_scikit_learn():
    chances = softmax(LOGITS, axis=1)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == LABELS
    confidence[:15] = np.arange(1, 16) / 15  # on the edges of the bins
    rates, means = calibration_curve(right, confidence, n_bins=15)
    sizes = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence), minlength=15)
    expected = np.sum(np.abs(rates - means) * sizes[sizes > 0]) / len(right)
    assert _calibration_error(confidence, right) == pytest.approx(expected, abs=1e-9)


def test_the_brier_score_is_that_of_scikit_learn():
    chances = softmax(LOGITS, axis=1)
    assert _brier_score(chances, LABELS) == pytest.approx(brier_score_loss(LABELS, chances), abs=1e-9)


def test_logits_go_through_softmax_or_sigmoid():
    np.testing.assert_allclose(_class_probabilities(LOGITS, as_they_are=False), softmax(LOGITS, axis=1), atol=1e-12)
    two = _class_probabilities(100 * LOGITS[:, 0], as_they_are=False)
    np.testing.assert_allclose(two[:, 1], expit(100 * LOGITS[:, 0]), atol=1e-12)
    np.testing.assert_array_equal(predicted_classes(LOGITS[:, 0], as_they_are=False), LOGITS[:, 0] > 0)
    np.testing.assert_array_equal(predicted_classes(two[:, 1], as_they_are=True), two[:, 1] > 0.5)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_are_told_from_logits(classes):
    chances = softmax(RNG.normal(size=(50, classes)), axis=1)
    assert are_probabilities(chances)
    assert are_probabilities(np.round(chances * 256) / 256)  # as an int8 file holds them
    assert not are_probabilities(np.log(chances))
    assert not are_probabilities(chances * 10)

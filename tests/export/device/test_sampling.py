"""How tokens are drawn, compared with probabilities computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune.export.device.generator import _Sampling

SCORES = np.log(np.float32([0.1, 0.5, 0.05, 0.35]))


def shares(**settings):
    sampling = _Sampling(seed=0, **settings)
    tokens = [sampling.choose(SCORES) for _ in range(4000)]
    return np.bincount(tokens, minlength=4) / len(tokens)


def test_the_highest_score_without_a_temperature():
    assert _Sampling().choose(SCORES) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, [0.1, 0.5, 0.05, 0.35]),
        ({"temperature": 0.5}, np.float64([0.01, 0.25, 0.0025, 0.1225]) / 0.385),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.5 / 0.85, 0, 0.35 / 0.85]),
        ({"temperature": 1.0, "top_p": 0.45}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.8}, [0, 0.5 / 0.85, 0, 0.35 / 0.85]),
        ({"temperature": 1.0, "top_p": 1.0}, [0.1, 0.5, 0.05, 0.35]),
    ],
)
def test_drawn_as_often_as_likely(settings, expected):
    np.testing.assert_allclose(shares(**settings), expected, atol=0.03)  # four standard deviations of 4,000 draws


def test_the_same_seed_draws_the_same():
    tokens = [[_Sampling(1.0, seed=seed).choose(np.zeros(1000)) for _ in range(2)] for seed in (0, 0, 1)]
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1.0, "top_k": 0}, "top_k"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p"),
        ({"top_k": 3}, "temperature above 0"),
        ({"seed": 3}, "temperature above 0"),
    ],
)
def test_refusals(settings, error):
    with pytest.raises(ValueError, match=error):
        _Sampling(**settings)

"""Corrupted samples, against figures worked out by hand, and the scores on them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tfprune.export import damage
from tfprune.export.comparing.damage import CORRUPTIONS, _corrupted, _corruptions_of

RAMP = np.arange(20, dtype=np.float32).reshape(1, 20, 1).repeat(2, axis=0)
IMAGES = np.random.default_rng(1).random((8, 16, 16, 3)).astype(np.float32)


class Mean:
    """A model of two classes, dark and bright, with a margin."""

    def __init__(self, margin):
        self.margin = margin

    def predict(self, x):
        bright = x.reshape(len(x), -1).mean(axis=1) - self.margin
        return np.stack([-bright, bright], axis=1)


def apply(name, x, amount=None):
    functions = _corruptions_of(name if amount is None else {name: amount})
    return _corrupted(x, functions[name], name=name)


def test_a_shift_repeats_the_first_values():
    np.testing.assert_array_equal(apply("shift", RAMP)[0, :, 0], [0, 0, *range(18)])
    np.testing.assert_array_equal(apply("shift", IMAGES, 0.25)[:, :, 4:], IMAGES[:, :, :12])


def test_a_gain_multiplies():
    np.testing.assert_allclose(apply("gain", RAMP, 0.5), np.minimum(RAMP / 2, 19))


def test_noise_has_the_spread_that_was_asked_for():
    x = np.concatenate([np.full((1, 1), -1e3), np.zeros((20_000, 1)), np.full((1, 1), 1e3)]).astype(np.float32)
    added = apply("noise", x, 0.5) - x
    assert added[1:-1].std() == pytest.approx(0.5 * x.std(), rel=0.05)


def test_many_passes_of_the_blur_are_a_gaussian():
    blurred = apply("blur", IMAGES, 8)  # variance 1/2 in each pass
    expected = gaussian_filter(IMAGES, sigma=(0, 2, 2, 0), mode="nearest")
    np.testing.assert_allclose(blurred[:, 5:-5, 5:-5], expected[:, 5:-5, 5:-5], atol=0.01)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_integers_stay_integers_within_their_range(name):
    x = np.round(IMAGES * 200 + 20).astype(np.uint8)
    values = apply(name, x)
    assert values.dtype == np.uint8
    assert values.shape == x.shape
    assert (values >= x.min()).all() and (values <= x.max()).all()
    assert not np.array_equal(values, x)


def test_both_sides_are_scored_on_corrupted_samples():
    labels = (IMAGES.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    functions = {"gain": 1.0, "dark": lambda x: 0 * x}
    report = damage(Mean(0.5), Mean(-1), (IMAGES, labels), corruptions=functions)
    gain, dark = report.corrupted
    assert (gain.before, gain.after) == (1.0, labels.mean())
    assert (dark.before, dark.after) == ((labels == 0).mean(), labels.mean())
    assert dark.drop == pytest.approx(dark.before - dark.after)
    assert "corruption" in str(report)
    assert report.as_dict()["corrupted"][1]["name"] == "dark"


@pytest.mark.parametrize(
    ("corruptions", "x", "error", "message"),
    [
        ("fog", IMAGES, ValueError, "'noise', 'blur', 'gain', 'shift', or a dict .* Received: 'fog'"),
        ("blur", IMAGES.reshape(8, -1), ValueError, "'blur' and 'shift'. Received: .8, 768."),
        ("noise", IMAGES.astype(np.int32), TypeError, "Received: an array of int32"),
        ({"cut": lambda x: x[:, :4]}, IMAGES, ValueError, "'cut' to return samples of shape"),
        ({"noise": "much"}, IMAGES, TypeError, "corruptions"),
    ],
)
def test_mistakes(corruptions, x, error, message):
    with pytest.raises(error, match=message):
        damage(Mean(0.5), Mean(0.6), (x, np.arange(8) % 2), corruptions=corruptions)


def test_recorded_outputs_cannot_be_corrupted():
    scores = np.eye(2)[np.arange(8) % 2]
    with pytest.raises(ValueError, match="a file or a model in `before`"):
        damage(scores, scores, (IMAGES, np.arange(8) % 2), corruptions="noise")

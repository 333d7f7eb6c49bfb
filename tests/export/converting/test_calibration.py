"""Calibration batches: checked, named and split before anything is converted."""

import numpy as np
import pytest

from tfprune.export.converting.calibration import MOST_SAMPLES, read_batches, split
from tfprune.export.converting.signature import ModelInput, Signature

ONE = Signature((ModelInput("x", (None, 4), "float32"),), "array")
TWO = Signature((ModelInput("b", (None, 2), "float32"), ModelInput("a", (None, None), "int32")), "list")
NAMED = Signature(TWO.inputs, "dict")
X = np.arange(12).reshape(3, 4)


def test_calibration_is_split_into_single_samples_in_order():
    samples = split(read_batches([X[:2], X[2:]], ONE))
    assert [sample["x"].shape for sample in samples] == [(1, 4)] * 3
    np.testing.assert_array_equal(np.concatenate([sample["x"] for sample in samples]), X)
    both = split(read_batches(iter([{"a": X, "b": X[:, :2]}]), NAMED))
    assert [sorted(sample) for sample in both] == [["a", "b"]] * 3


def test_calibration_is_read_no_further_than_needed():
    def endless():
        while True:
            yield np.zeros((300, 4))

    assert len(split(read_batches(endless(), ONE))) == MOST_SAMPLES


@pytest.mark.parametrize(
    ("wanted", "calibration", "message"),
    [
        (ONE, X, r"such as \[x\[:32\], x\[32:64\]\]\. Received: one ndarray of shape \(3, 4\)\. Cut it into batches"),
        (ONE, 3, "Received: one int"),
        (NAMED, {"a": X}, r"such as \[\{'b': x_b\[:32\], 'a': x_a\[:32\]\}, \.\.\.\]\. Received: one dict"),
        (ONE, [], "at least one batch.*Received: none.*A generator that was read before is empty"),
        (ONE, [X, X[:, :2]], r"calibration batch 1\. Received: shape \(3, 2\)"),
        (ONE, [X, X + np.inf], "Expected finite numbers for input 'x' in calibration batch 1"),
        (TWO, [X], r"a list of 2 arrays or a dict by name in calibration batch 0"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(wanted, calibration, message):
    with pytest.raises(ValueError, match=message):
        read_batches(calibration, wanted)

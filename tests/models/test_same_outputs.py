"""When two structures of outputs count as the same, by cases worked out by hand."""

import keras
import numpy as np
import pytest

from tfprune.models.tracing import EXACT, LargestDifference, Tolerance, same_outputs


@pytest.mark.parametrize(
    ("tolerance", "difference", "is_same"),
    [
        (EXACT, 0.0, True),
        (EXACT, 1e-6, False),
        (Tolerance(absolute=0.5), 0.4, True),
        (Tolerance(absolute=0.5), 0.6, False),
        (Tolerance(relative=0.1), 0.09, True),  # of 1, the entry itself
        (Tolerance(relative=0.1), 0.2, False),
        (Tolerance(of_largest=0.1), 0.9, True),  # of 10, the largest entry
        (Tolerance(of_largest=0.1), 1.1, False),
    ],
)
def test_each_part_of_a_tolerance(tolerance, difference, is_same):
    expected = {"a": np.array([1.0, 10.0], "float32"), "b": np.zeros((2, 2), "float32")}
    outputs = {**expected, "a": expected["a"] + np.array([difference, 0], "float32")}
    assert same_outputs(outputs, expected, tolerance=tolerance) is is_same


def test_other_shapes_and_numbers_of_outputs_are_not_the_same():
    ones = keras.ops.ones((1, 2))
    assert not same_outputs([ones], [ones, ones])
    assert not same_outputs(ones, keras.ops.ones((2, 2)))  # which NumPy would broadcast


def test_nan_is_the_same_only_where_it_is_said_to_be():
    nan = np.array([np.nan, 1.0], "float32")
    assert not same_outputs(nan, nan)
    assert same_outputs(nan, nan, tolerance=Tolerance(of_largest=0.1, nan_is_same=True))
    assert not same_outputs(nan, nan + [0, 1], tolerance=Tolerance(of_largest=0.1, nan_is_same=True))


def test_the_largest_difference_is_a_fraction_over_all_batches():
    difference = LargestDifference()
    assert difference.fraction == 0
    difference.add([np.array([1.0, 2.0])], [np.array([1.0, 4.0])])
    difference.add([np.array([3.0])], [np.array([8.0])])
    assert difference.fraction == 5 / 8


def test_halves_are_compared_as_numbers():
    assert same_outputs(keras.ops.ones(3, "bfloat16"), keras.ops.ones(3, "float16"), tolerance=EXACT)

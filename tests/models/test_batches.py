"""Batches: what they hold is what slices of the arrays hold."""

import keras
import numpy as np
import pytest

from tfprune.models.training import Batches, batches

X, Y = np.arange(80).reshape(40, 2), np.arange(40)
OTHER = np.arange(120).reshape(40, 3)


def sizes(data, **arguments):
    return [keras.tree.map_structure(len, batch.x) for batch in batches(data, **arguments)]


def test_arrays_are_cut_and_batches_are_not():
    assert sizes(X) == sizes((X, Y)) == [32, 8]
    assert sizes(X, rows=15) == [15, 15, 10]
    assert sizes(X, rows=None) == [40]
    assert sizes([X, X[:3]], rows=15) == [40, 3]
    assert sizes({"a": X}, rows=25) == [{"a": 25}, {"a": 15}]


def test_labels_and_weights_are_cut_as_x_is():
    first, second = batches((X, Y, 2 * Y), rows=30)
    for batch, part in ((first, slice(30)), (second, slice(30, 40))):
        for array, whole in zip(batch[:3], (X, Y, 2 * Y), strict=True):
            np.testing.assert_array_equal(array, whole[part])


@pytest.mark.parametrize("data", [[X, OTHER], (X, OTHER), ([X, OTHER], Y), [([X, OTHER], Y)], [(X, OTHER)]])
def test_a_list_or_tuple_of_arrays_is_x_where_the_model_has_several_inputs(data):
    (batch,) = batches(data, rows=None, inputs=2)
    for array, wanted in zip(batch.x, (X, OTHER), strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_a_list_in_a_batch_is_x_and_y_where_the_model_has_one_input():
    (batch,) = batches([[X, Y]], inputs=1)
    np.testing.assert_array_equal(batch.x, X)
    np.testing.assert_array_equal(batch.y, Y)
    (batch,) = batches([[X, Y]])  # of a model with code of its own, whose inputs nobody knows
    assert batch.y is None and len(batch.x) == 2


def test_a_graph_with_two_inputs_takes_a_list_of_arrays():
    inputs = [keras.Input((2,), name="b"), keras.Input((3,), name="a")]
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    for data in ([X, OTHER], {"a": OTHER, "b": X}, ([X, OTHER], Y)):
        ((left, right), _), *rest = Batches(data, model, batch_size=30)
        assert len(rest) == 1
        np.testing.assert_array_equal(left, X[:30])
        np.testing.assert_array_equal(right, OTHER[:30])


@pytest.mark.parametrize("inputs", [None, 1, 2])
@pytest.mark.parametrize("data", [X.tolist(), X[:, 0].tolist(), (X.tolist(), Y.tolist()), (X, Y.tolist()), [(X, 3)]])
def test_numbers_in_lists_are_refused_by_that_name(data, inputs):
    with pytest.raises(TypeError, match=r"arrays in `check_on`\. Received: numbers in a list .* as one NumPy array"):
        list(batches(data, inputs=inputs, argument="check_on"))


def test_messages_name_the_argument():
    with pytest.raises(ValueError, match="Expected `calibration` with at least one sample"):
        list(batches([], argument="calibration"))
    with pytest.raises(ValueError, match=r"the arrays of `check_on` to have .* Received: \[40, 41\]"):
        list(batches((X, np.arange(41)), argument="check_on"))

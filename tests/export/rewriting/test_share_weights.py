"""Weight sharing. The truth is scikit-learn's k-means, a search through all groupings, and the runtime's outputs."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

import tfprune
from tfprune.export import Runner, pack, sparsify
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.share_weights import _share, share_weights

WEIGHT = np.random.default_rng(8).laplace(0, 25, 5000).round().clip(-127, 127).astype(np.int8)


def error(values, replaced):
    return float(np.square(values.astype(float) - replaced).sum())


@given(values=st.lists(st.integers(-128, 127), max_size=60), levels=st.integers(2, 256))
def test_zeros_stay_and_no_more_values_are_left_than_allowed(values, levels):
    values = np.array(values, np.int8)
    replaced = _share(values, levels)
    assert replaced.dtype == np.int8
    assert not replaced[values == 0].any()
    assert len({0, *replaced.tolist()}) <= levels
    order = np.argsort(values, kind="stable")
    nonzero = order[values[order] != 0]
    assert (np.diff(replaced[nonzero].astype(int)) >= 0).all(), "what was larger stays at least as large"


def test_few_values_stay_as_they_are():
    values = np.array([[0, 3], [-7, 3]], np.int8)
    assert np.array_equal(_share(values, 3), values)
    assert _share(WEIGHT.reshape(50, 100), 4).shape == (50, 100)


@given(values=st.lists(st.integers(1, 127), min_size=4, max_size=9, unique=True), groups=st.integers(2, 3))
def test_no_other_grouping_has_a_smaller_error(values, groups):
    values = np.sort(np.array(values, np.int8))
    groupings = [np.split(values, cuts) for cuts in itertools.combinations(range(1, len(values)), groups - 1)]
    least = min(sum(error(group, np.rint(group.mean())) for group in each) for each in groupings)
    # Middles are rounded after the groups are made: half a step away for each value at most.
    assert error(values, _share(values, groups + 1)) <= least + len(values) / 4


@pytest.mark.parametrize("levels", [9, 17, 33, 65])
def test_the_error_is_no_larger_than_that_of_scikit_learn(levels):
    values = WEIGHT[WEIGHT != 0].astype(float)[:, None]
    groups = KMeans(levels - 1, n_init=3, random_state=0).fit(values)
    theirs = error(WEIGHT[WEIGHT != 0], groups.cluster_centers_[groups.labels_, 0].round())
    assert error(WEIGHT, _share(WEIGHT, levels)) <= 1.02 * theirs


def test_weights_that_are_stored_sparse_share_as_dense_ones_do():
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.Sequential([keras.Input((96,)), keras.layers.Dense(128)]))
    tfprune.update_masks(model, 0.9)
    samples = np.random.default_rng(0).random((20, 96), np.float32)
    dense = convert(tfprune.strip(model), quantize="int8", calibration=samples)
    data = share_weights(sparsify(dense).data, levels=6)
    assert read(data).weights[0].sparse
    expected = Runner(share_weights(dense, levels=6)).predict(samples)
    np.testing.assert_array_equal(Runner(data).predict(samples), expected)


def test_a_shared_file_runs_nearly_as_before_and_packs_smaller(cases):
    case = cases["int8_float_io"]
    data = share_weights(case.data, levels=12)
    outputs, before = Runner(data).predict(case.inputs), Runner(case.data).predict(case.inputs)
    assert np.abs(outputs - before).max() < 0.2 * np.abs(before).max()
    assert not np.array_equal(outputs, before)
    assert len(pack(data)) <= len(pack(case.data))
    assert data == share_weights(case.data, levels=12), "the same bytes give the same bytes"
    assert [weight.nnz for weight in read(data).weights] <= [weight.nnz for weight in read(case.data).weights]
    with_all = share_weights(case.data, levels=256)
    assert np.array_equal(Runner(with_all).predict(case.inputs), before)


def test_what_cannot_be_shared_is_refused(cases):
    with pytest.raises(ValueError, match="8-bit weights. Received: one without. Export it with quantize='int8'"):
        share_weights(cases["dense"].data)
    for levels, error in ((1, ValueError), (257, ValueError), (2.0, TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(error, match="`levels` to be an integer from 2 to 256"):
            share_weights(cases["int8"].data, levels=levels)
    with pytest.raises(ValueError, match="Expected a TFLite file"):
        share_weights(b"PK\x03\x04")

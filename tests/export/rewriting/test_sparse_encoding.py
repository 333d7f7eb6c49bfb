"""Sparse forms of one array. The truth is SciPy's, and a decoder that walks them entry by entry."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.export.rewriting.sparsify import _encode_blocks, _encode_rows

TYPES = [np.float32, np.float16, np.int8]


def decode(encoded, shape, dtype):
    """Put every stored entry where the format says it belongs."""
    array = np.zeros(shape, dtype)
    outer = [range(shape[dimension]) for dimension in encoded.order[:-1]]
    stored = iter(encoded.values.tolist())
    for row, places in enumerate(itertools.product(*outer)):
        for index in encoded.indices[int(encoded.segments[row]) : int(encoded.segments[row + 1])]:
            for step in range(encoded.block):
                place = [0] * len(shape)
                for dimension, where in zip(encoded.order, (*places, int(index) * encoded.block + step), strict=True):
                    place[dimension] = where
                array[tuple(place)] = next(stored)
    assert next(stored, None) is None
    return array


def arrays(shape=None):
    """Arrays with zeros, negative zeros, whole rows of zeros and rows without any."""
    shape = hnp.array_shapes(min_dims=2, max_dims=4, max_side=9) if shape is None else shape
    entries = st.sampled_from([0, 0, 0, 1, -3, 7])
    return st.sampled_from(TYPES).flatmap(lambda kind: hnp.arrays(kind, shape, elements=entries.map(kind), fill=None))


@settings(max_examples=150, deadline=None)
@given(array=arrays())
def test_every_array_comes_back(array):
    np.testing.assert_array_equal(decode(_encode_rows(array), array.shape, array.dtype), array)


@settings(max_examples=100, deadline=None)
@given(array=arrays(st.tuples(st.integers(1, 7), st.integers(1, 5).map(lambda count: 4 * count))))
def test_every_array_comes_back_from_blocks(array):
    encoded = _encode_blocks(array)
    np.testing.assert_array_equal(decode(encoded, array.shape, array.dtype), array)
    assert np.abs(encoded.values.reshape(-1, 4)).max(axis=1, initial=0).all()  # no block of zeros is stored


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_rows_are_those_of_scipy(dtype, rows):
    random = np.random.default_rng(rows)
    array = (random.integers(1, 100, (rows, 50)) * (random.random((rows, 50)) > 0.8)).astype(dtype)
    truth = scipy.sparse.csr_matrix(array.astype(np.float64))  # SciPy has no half precision
    encoded = _encode_rows(array)
    assert encoded.order == (0, 1)
    np.testing.assert_array_equal(encoded.indices, truth.indices)
    np.testing.assert_array_equal(encoded.segments, truth.indptr)
    np.testing.assert_array_equal(encoded.values, truth.data.astype(dtype))
    assert encoded.values.dtype == dtype


@pytest.mark.parametrize(("length", "width"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_places_take_the_smallest_type_that_holds_them(length, width):
    array = np.zeros((1, length), np.int8)
    array[0, [0, -1]] = 1
    encoded = _encode_rows(array)
    assert encoded.indices.itemsize == width
    assert encoded.indices.tolist() == [0, length - 1]
    np.testing.assert_array_equal(decode(encoded, array.shape, array.dtype), array)


@pytest.mark.parametrize(("stored", "width"), [(255, 1), (256, 2), (65535, 2), (65536, 4)])
def test_segments_take_the_smallest_type_that_holds_them(stored, width):
    array = np.zeros(70_000, np.int8).reshape(1, 1, 280, 250)
    array.ravel()[:stored] = 3
    encoded = _encode_rows(array)
    assert encoded.segments.itemsize == width
    assert int(encoded.segments[-1]) == stored


def test_a_short_dimension_is_walked_last_where_places_then_take_one_byte():
    random = np.random.default_rng(0)
    array = (random.random((200, 1, 1, 1000)) > 0.9).astype(np.int8)
    encoded = _encode_rows(array)
    assert encoded.order == (1, 2, 3, 0)
    assert encoded.indices.itemsize == 1
    np.testing.assert_array_equal(decode(encoded, array.shape, array.dtype), array)


def test_negative_zero_is_zero_and_what_is_no_number_is_not():
    encoded = _encode_rows(np.array([[0.0, -0.0, np.nan, 1e-45]], np.float32))
    assert encoded.indices.tolist() == [2, 3]


def test_bytes_are_those_of_the_parts():
    array = np.diag(np.arange(1, 301)).astype(np.float32)
    assert _encode_rows(array).bytes == 300 * 4 + 300 * 2 + 301 * 2
    assert _encode_blocks(array).bytes == 300 * 16 + 300 + 301 * 2

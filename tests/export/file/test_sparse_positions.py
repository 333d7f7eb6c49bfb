"""Positions of sparse entries. The truth is SciPy's CSR, and a walk by plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tfprune.export.file.sparse_tensors import SparseDimension, TensorValues, arrange, positions


def compressed(segments, indices, dtype=np.int32):
    return SparseDimension(0, 0, np.array(segments, dtype), np.array(indices, dtype))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), columns=st.integers(1, 9), density=st.floats(0, 1))
def test_rows_are_those_of_scipy(seed, rows, columns, density):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, columns)) * (generator.random((rows, columns)) < density)
    sparse = csr_array(matrix)
    stored = [SparseDimension(rows), compressed(sparse.indptr, sparse.indices, np.uint8)]
    dimensions = arrange((rows, columns), (0, 1), blocks=(), stored=stored)
    places = positions(dimensions, sparse.nnz)
    assert np.array_equal(places, np.flatnonzero(matrix))
    raw = sparse.data.astype("<f8").view(np.uint8)
    pieces = list(TensorValues(raw, "float64", (rows, columns), dimensions=dimensions).pieces())
    assert np.array_equal(np.concatenate([values for _, values in pieces] or [[]]), matrix[matrix != 0])


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_blocks_lie_where_a_walk_by_loops_finds_them(order):
    """A 4 x 6 matrix in blocks of 2 x 3; the blocks are walked by rows or by columns."""
    matrix = np.arange(1, 25).reshape(4, 6)
    blocks = [(0, 1), (1, 0)]  # of the 2 x 2 blocks
    walked = sorted(blocks, key=lambda block: tuple(block[dimension] for dimension in order))
    values = [matrix[2 * i + a, 3 * j + b] for i, j in walked for a in range(2) for b in range(3)]
    inner = compressed([0, 1, 2], [block[order[1]] for block in walked], np.uint16)
    stored = [SparseDimension(2), inner, SparseDimension(2), SparseDimension(3)]
    dimensions = arrange((4, 6), (*order, 2, 3), blocks=(0, 1), stored=stored)
    places = positions(dimensions, 12)
    assert [matrix.ravel()[place] for place in places] == values


def test_values_come_in_the_order_of_the_dense_tensor():
    stored = [SparseDimension(3), compressed([0, 1, 2, 3], [1, 0, 1])]
    dimensions = arrange((2, 3), (1, 0), blocks=(), stored=stored)  # column by column
    entries = TensorValues(np.array([5, 6, 7], np.int8).view(np.uint8), "int8", (2, 3), dimensions=dimensions)
    ((places, values),) = entries.pieces()
    assert (places.tolist(), values.tolist()) == ([1, 3, 5], [6, 5, 7])
    assert entries.index_bytes == 4 * (4 + 3)


@pytest.mark.parametrize(
    ("segments", "indices", "count"),
    [
        ([0, 1], [0], 1),  # too few segments
        ([0, 2, 1], [0], 1),  # falling
        ([0, 1, 2], [0], 1),  # beyond the indices
        ([1, 1, 1], [0], 1),  # beginning late
        ([0, 1, 1], [3], 1),  # no such column
        ([0, 1, 1], [-1], 1),
        ([0, 2, 2], [1, 1], 2),  # one place twice
        ([0, 1, 2], [0, 0], 3),  # more values than places
    ],
)
def test_nonsense_is_refused(segments, indices, count):
    dimensions = arrange((2, 3), (0, 1), blocks=(), stored=[SparseDimension(2), compressed(segments, indices)])
    with pytest.raises(ValueError, match="sparse tensor"):
        positions(dimensions, count)


@pytest.mark.parametrize(
    ("shape", "order", "blocks", "stored"),
    [
        ((2, 3), (0,), (), [SparseDimension(2)]),
        ((2, 3), (0, 0), (), [SparseDimension(2), SparseDimension(3)]),
        ((2, 3), (0, 1), (), [SparseDimension(2)]),
        ((2, 3), (0, 1), (), [SparseDimension(2), SparseDimension(4)]),
        ((2, 3), (0, 1, 2), (2,), [SparseDimension(2), SparseDimension(3), SparseDimension(1)]),
        ((2, 3), (0, 1, 2), (1,), [SparseDimension(2), SparseDimension(1), SparseDimension(2)]),
        ((2, 3), (0, 1, 2), (1,), [SparseDimension(2), SparseDimension(3), SparseDimension(0)]),
        (
            (2, 4),
            (0, 1, 2, 3),
            (1, 1),
            [SparseDimension(2), SparseDimension(1), SparseDimension(2), SparseDimension(2)],
        ),
        ((2**31, 2**31), (0, 1), (), [SparseDimension(2**31), SparseDimension(2**31)]),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(shape, order, blocks, stored):
    with pytest.raises(ValueError, match="sparse tensor"):
        arrange(shape, order, blocks=blocks, stored=stored)


def test_a_dimension_that_claims_to_be_huge_takes_no_memory():
    stored = [SparseDimension(2**20), SparseDimension(2**20), compressed([0, 1], [0])]
    dimensions = arrange((2**20, 2**20, 4), (0, 1, 2), blocks=(), stored=stored)
    with pytest.raises(ValueError, match="more positions than"):
        positions(dimensions, 1)

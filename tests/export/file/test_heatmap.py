"""Pictures of zeros. The truth is a count by plain loops, and Pillow's reading of the PNG."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file.inspect import _INK, _density, _png
from tfprune.export.file.sparse_tensors import SparseDimension, TensorValues, arrange


def entries(array, **fields):
    array = np.ascontiguousarray(array)
    return TensorValues(array.reshape(-1).view(np.uint8), array.dtype.name, array.shape, **fields)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(1, 40), cells=st.integers(1, 12), seed=st.integers(0, 99))
def test_each_cell_holds_its_part_of_non_zeros(rows, columns, cells, seed):
    matrix = (np.random.default_rng(seed).random((rows, columns)) < 0.3).astype(np.int8)
    height, width = min(cells, rows), min(cells, columns)
    nonzero, all_entries = np.zeros((height, width)), np.zeros((height, width))
    for row in range(rows):
        for column in range(columns):
            cell = row * height // rows, column * width // columns
            nonzero[cell] += matrix[row, column]
            all_entries[cell] += 1
    assert np.allclose(_density(entries(matrix), cells), nonzero / all_entries)


def test_small_weights_are_drawn_entry_by_entry():
    matrix = np.array([[0, 2, 0], [3, 0, 0]], np.float32)
    assert _density(entries(matrix)).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_depthwise_kernels_get_a_line_for_each_position():
    kernel = np.zeros((1, 3, 3, 5), np.int8)
    kernel[0, 1, 1] = 1
    grid = _density(entries(kernel))
    assert grid.shape == (9, 5)
    assert np.flatnonzero(grid.any(axis=1)).tolist() == [4]


def test_a_sparse_tensor_that_claims_to_be_huge_has_a_small_picture():
    compressed = SparseDimension(0, 0, np.array([0, 1], np.uint8), np.array([2**20], np.int32))
    dimensions = arrange((1, 2**40), (0, 1), blocks=(), stored=[SparseDimension(1), compressed])
    raw = np.ones(1, np.int8).view(np.uint8)
    grid = _density(TensorValues(raw, "int8", (1, 2**40), dimensions=dimensions))
    assert grid.shape == (1, 64)
    assert grid[0, 0] == 2**-34


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_the_png_shows_the_grid(width):
    Image = pytest.importorskip("PIL.Image", reason="Pillow reads the picture back")  # noqa: N806
    values = np.random.default_rng(width).random((5, width)) ** 2
    values[0, 0], values[-1, -1] = 0, 1
    values[1, 0] = 1e-9
    read = np.asarray(Image.open(io.BytesIO(_png(values))).convert("RGBA"))
    assert read.shape == (5, width, 4)
    assert (read[..., :3] == _INK).all()
    assert np.allclose(read[..., 3] / 255, np.ceil(15 * np.sqrt(values)) / 15, atol=0.005)
    assert read[0, 0, 3] == 0
    assert read[1, 0, 3] > 0
    assert read[-1, -1, 3] == 255

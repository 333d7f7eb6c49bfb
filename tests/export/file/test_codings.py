"""Sizes of weights. The truth is formulas worked out by hand, streams written by plain loops, and SciPy's entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import entropy

from tfprune.export.file.inspect import _OFFSET_BITS, _codings, _count, _Counts, _indices, _offsets, _total
from tfprune.export.file.sparse_tensors import _CHUNK_ENTRIES, TensorValues

MOBILENET = 4_210_000  # weights, in 11,000 rows


def entries(array, **fields):
    array = np.ascontiguousarray(array)
    return TensorValues(array.reshape(-1).view(np.uint8), array.dtype.name, array.shape, **fields)


def sizes(array):
    return {coding.name: coding for coding in _codings(entries(array))}


def random_weights(sparsity, size, dtype=np.float32):
    """One row with exactly so many zeros at random places."""
    generator = np.random.default_rng(3)
    array = np.zeros((1, size), dtype)
    positions = generator.choice(size, round(size * (1 - sparsity)), replace=False)
    array[0, positions] = generator.integers(1, 100, len(positions))
    return array


def binary_entropy(sparsity):
    return entropy([sparsity, 1 - sparsity], base=2)


@pytest.mark.parametrize(
    ("sparsity", "mask", "csr", "four_bits", "bound", "mask_int8"),
    [
        (0.50, 8.95, 12.67, 9.52, 8.95, 2.63),
        (0.75, 4.74, 6.36, 4.78, 4.64, 1.58),
        (0.90, 2.21, 2.57, 1.94, 1.93, 0.95),
        (0.95, 1.37, 1.31, 0.99, 0.99, 0.74),
    ],
)
def test_megabytes_of_mobilenet(sparsity, mask, csr, four_bits, bound, mask_int8):
    nnz = round(MOBILENET * (1 - sparsity))
    padding = dict.fromkeys(_OFFSET_BITS, 0)
    counts = _Counts(MOBILENET, nnz, 11_000, 32, padding, MOBILENET * binary_entropy(sparsity), 32.0 * nnz)
    megabytes = {
        "csr": _indices(counts, 2**16).bytes / 1e6,
        "four_bits": _offsets(counts, 4).bytes / 1e6,
        "mask": (MOBILENET / 8 + 4 * nnz) / 1e6,
        "bound": (counts.run_bits + counts.value_bits) / 8e6,
        "mask_int8": (MOBILENET / 8 + nnz) / 1e6,
    }
    expected = {"csr": csr, "four_bits": four_bits, "mask": mask, "bound": bound, "mask_int8": mask_int8}
    assert megabytes == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_a_million_random_weights_take_what_their_entropy_says(sparsity):
    size = 10**6
    bytes_of = sizes(random_weights(sparsity, size))
    nnz = round(size * (1 - sparsity))
    assert bytes_of["dense"].bytes == 4 * size
    assert (bytes_of["mask"].value_bytes, bytes_of["mask"].index_bytes) == (4 * nnz, size // 8)
    assert bytes_of["entropy"].value_bytes == 4 * nnz
    assert bytes_of["entropy"].index_bytes == pytest.approx(size * binary_entropy(sparsity) / 8, rel=0.01)


@pytest.mark.parametrize(
    ("value_bits", "sparsity", "mask", "by_width"),
    [
        (32, 0.8, 7.40, {4: 7.41, 5: 7.41}),
        (32, 0.9, 4.20, {4: 4.42, 5: 3.83, 6: 3.80}),
        (32, 0.95, 2.60, {4: 3.22, 5: 2.29, 6: 1.97, 8: 2.00}),
        (32, 0.975, 1.80, {8: 1.00}),
        (8, 0.8, 2.60, {4: 2.47}),
        (8, 0.9, 1.80, {5: 1.35}),
        (8, 0.95, 1.40, {6: 0.73}),
        (8, 0.975, 1.20, {8: 0.40}),
    ],
)
def test_bits_of_a_random_weight(value_bits, sparsity, mask, by_width):
    size = 2 * 10**6
    array = random_weights(sparsity, size, np.float32 if value_bits == 32 else np.int8)
    counts = _count(entries(array))
    assert 8 * sizes(array)["mask"].bytes / size == pytest.approx(mask, abs=0.0051)
    for bits, expected in by_width.items():
        formula = (1 - sparsity) / (1 - sparsity ** (2**bits)) * (value_bits + bits)
        assert formula == pytest.approx(expected, abs=0.0051)
        assert 8 * _offsets(counts, bits).bytes / size == pytest.approx(formula, rel=0.01)


def test_offsets_of_four_bits_store_1_79_times_the_values_at_95_percent():
    counts = _count(entries(random_weights(0.95, 10**6)))
    assert (counts.nnz + counts.padding[4]) / counts.nnz == pytest.approx(1.79, rel=0.02)


def encode_offsets(matrix, bits):
    """Write (zeros before, value) pairs row by row, and return them with where each row begins."""
    pairs, starts = [], [0]
    for row in matrix:
        zeros = 0
        for value in row:
            if value == 0:
                zeros += 1
                continue
            while zeros >= 2**bits:
                pairs.append((2**bits - 1, 0))
                zeros -= 2**bits
            pairs.append((zeros, value))
            zeros = 0
        starts.append(len(pairs))
    return pairs, starts


def decode_offsets(pairs, starts, shape):
    matrix = np.zeros(shape)
    for row in range(shape[0]):
        place = 0
        for zeros, value in pairs[starts[row] : starts[row + 1]]:
            place += zeros
            matrix[row, place] = value
            place += 1
    return matrix


def runs_of(array):
    runs, zeros = [], 0
    for value in array.reshape(-1):
        if value:
            runs.append(zeros)
        zeros = 0 if value else zeros + 1
    return runs


def entropy_bytes(symbols):
    times = np.unique(symbols, return_counts=True)[1]
    return len(symbols) * entropy(times, base=2) / 8 if len(symbols) else 0.0


MATRICES = arrays.arrays(
    np.int8,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=12),
    elements=st.sampled_from([0] * 30 + [1, -3, 7]),
)


@settings(max_examples=200, deadline=None)
@given(array=MATRICES)
def test_sizes_are_those_of_streams_written_by_loops(array):
    matrix = array.reshape(-1, array.shape[-1])
    nnz, bytes_of, counts = np.count_nonzero(array), sizes(array), _count(entries(array))
    assert bytes_of["mask"].bytes == nnz + len(np.packbits(array != 0))
    assert bytes_of["csr"].bytes == nnz + nnz + (len(matrix) + 1) * (1 if nnz < 256 else 2)
    for bits in _OFFSET_BITS:
        pairs, starts = encode_offsets(matrix, bits)
        assert np.array_equal(decode_offsets(pairs, starts, matrix.shape), matrix)
        assert counts.padding[bits] == len(pairs) - nnz
        width = 1 if len(pairs) < 256 else 2
        assert _offsets(counts, bits).bytes == len(pairs) + -(-len(pairs) * bits // 8) + width * len(starts)
    assert bytes_of["offsets"].bytes == min(_offsets(counts, bits).bytes for bits in _OFFSET_BITS)
    assert bytes_of["entropy"].index_bytes == pytest.approx(entropy_bytes(runs_of(array)), abs=1)
    assert bytes_of["entropy"].value_bytes == pytest.approx(entropy_bytes(array[array != 0]), abs=1)


def test_indices_have_the_width_that_the_row_and_the_count_need():
    def csr(columns, nnz):
        array = np.zeros((2, columns), np.int8)
        array[0, :nnz] = 1
        return sizes(array)["csr"]

    assert (csr(256, 9).bits, csr(256, 9).index_bytes) == (8, 9 + 3)
    assert (csr(257, 9).bits, csr(257, 9).index_bytes) == (16, 18 + 3)
    assert csr(2**16, 256).index_bytes == 512 + 6
    assert (csr(2**16 + 1, 1).bits, csr(2**16 + 1, 1).index_bytes) == (32, 4 + 3)
    assert csr(2**16, 2**16).index_bytes == 2 * 2**16 + 12


def test_chunks_do_not_change_the_counts():
    size = 2 * _CHUNK_ENTRIES + 17
    array = np.zeros((1, size), np.int8)
    array[0, [5, _CHUNK_ENTRIES - 1, _CHUNK_ENTRIES + 40, size - 1]] = 1, 2, 3, 4
    counts = _count(entries(array))
    zeros = [5, _CHUNK_ENTRIES - 7, 40, _CHUNK_ENTRIES - 25]
    assert counts.padding == {bits: sum(run // 2**bits for run in zeros) for bits in _OFFSET_BITS}
    assert (counts.run_bits, counts.value_bits) == (8, 8)  # four different symbols each


def test_zero_points_are_zeros_and_shared_bytes_are_halves():
    values = np.array([[3, 0, 3, 3], [3, 3, 3, 9]], np.int8)
    shifted = TensorValues(values.reshape(-1).view(np.uint8), "int8", (2, 4), (3,))
    assert _count(shifted).nnz == 2
    each = TensorValues(values.reshape(-1).view(np.uint8), "int8", (2, 4), (3, 9))
    assert _count(each).nnz == 1 + 3
    halves = TensorValues(np.array([0xF0, 0x07], np.uint8), "int4", (2, 2))
    by_name = {coding.name: coding for coding in _codings(halves)}
    assert (by_name["dense"].bytes, by_name["mask"].bytes, _count(halves).nnz) == (2, 2, 2)


def test_empty_and_all_zero_weights_have_sizes():
    assert [coding.bytes for coding in _codings(entries(np.zeros((0, 3), np.float32)))] == [0, 0, 1, 1, 0, 0]
    assert [coding.bytes for coding in _codings(entries(np.zeros((2, 8), np.float32)))] == [64, 2, 3, 3, 0, 64]


def test_sums_add_every_part():
    one, two = _codings(entries(np.eye(20, dtype=np.int8))), _codings(entries(random_weights(0.99, 5000, np.int8)))
    sums = _total([one, two])
    for first, second, both in zip(one, two, sums[:-1], strict=True):
        assert both.bytes == first.bytes + second.bytes
        assert both.padding == first.padding + second.padding
    assert {coding.name: coding.bits for coding in sums}["offsets"] is None
    assert sums[-1].name == "best"
    assert sums[-1].bytes == sum(min(coding.bytes for coding in sizes[:4]) for sizes in (one, two))
    assert _total([]) == ()

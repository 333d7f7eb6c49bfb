"""Patterns: exact counts, ties, ragged ends and nothing across kernel positions, by hand and by brute force."""

from __future__ import annotations

import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scores import SPARSITIES, by_sorting, scores_of

from tfprune.base.arrays import keep_largest, kept_count
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.patterns import NM, PATTERNS, Block, Channel, Head, Pattern, Unstructured, as_pattern, as_weight_pattern


def digits(mask: np.ndarray) -> str:
    """Write a mask's rows as `0110 1100`."""
    return " ".join("".join(str(int(entry)) for entry in row) for row in mask.reshape(-1, mask.shape[-1]))


@pytest.mark.parametrize(
    ("scores", "sparsity", "mask"),
    [
        ([[4, 1], [2, 3]], 0.5, "10 01"),
        ([[0.1, 0.1, 0.1, 0.1, 0.2, 0.3]], 0.5, "100011"),
        ([[1, 1], [1, 1]], 0.25, "11 10"),
        ([[1, 1], [1, 1]], 0.75, "10 00"),
        ([[0, 0, 0, 0]], 0.5, "1100"),
        ([[-3, -1, -2, -4]], 0.5, "0110"),
        ([[5]], 0.9, "1"),
        ([[1, 2, 3]], 0.0, "111"),
        ([[1, 9, 2], [8, 3, 7]], 0.99, "010 000"),
    ],
)
def test_unstructured_by_hand(scores, sparsity, mask):
    assert digits(Unstructured()(np.array(scores, dtype=np.float32), sparsity)) == mask


@pytest.mark.parametrize(
    ("identifier", "pattern"),
    [("2:4", NM(2, 4)), ("1x4", Block(1, 4)), ("channel", Channel()), (NM(1, 16), NM(1, 16))],
)
def test_an_identifier_means_a_pattern(identifier, pattern):
    assert as_pattern(identifier) == pattern


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("4:2", "N:M with N below M and at least 1, .* Received: pattern='4:2'. N counts the weights that stay."),
        ("0x4", "ROWSxCOLS of at least 1 each. Received: pattern='0x4'."),
        ("2:4:8", r"or an instance of Pattern, such as patterns.NM\(2, 4\), in short '2:4', or patterns.Block\(1, 4"),
        ("2 : 4", "Received: pattern='2 : 4'."),
        ("chanel", "Did you mean 'channel'"),
    ],
)
def test_an_identifier_of_no_pattern_is_refused(identifier, message):
    with pytest.raises(ArgumentError, match=message):
        as_pattern(identifier)


def test_weights_by_themselves_have_no_pattern_of_channels():
    assert as_weight_pattern("2:4", advice="") == NM(2, 4)
    with pytest.raises(ArgumentError, match=re.escape("Received: pattern='head'. Use prune_units.")):
        as_weight_pattern("head", advice="Use prune_units.")


def test_a_constant_weight_is_pruned():
    mask = Unstructured()(np.full((10, 10), 0.1, dtype=np.float32), 0.9)
    assert digits(mask).startswith("1111111111 0000000000")
    assert mask.sum() == 10


@given(scores_of(), SPARSITIES)
def test_unstructured_equals_a_full_sort(scores, sparsity):
    mask = Unstructured()(scores, sparsity)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, by_sorting(scores, kept_count(scores.size, sparsity)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 3), NM(2, 4)], ids=repr)
def test_types_of_scores(pattern, dtype):
    scores = np.random.default_rng(3).permutation(96).reshape(8, 12)
    typed = scores.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(pattern(typed, 0.5), pattern(scores.astype(np.float64), 0.5))


def test_large_half_precision_blocks_do_not_overflow():
    scores = np.full((300, 300), 60000, dtype=np.float16)
    scores[:150, :150] = 1000
    mask = Block(150, 150)(scores, 0.25)
    assert not mask[:150, :150].any()
    assert mask.sum() == 3 * 150 * 150


@pytest.mark.parametrize(
    ("pattern", "scores", "sparsity", "mask"),
    [
        (Block(1, 2), [[1, 9, 4, 5]], 0.5, "1100"),
        (Block(2, 1), [[1, 9], [4, 5]], 0.5, "01 01"),
        # Block means 3, 1 / 7, 5 with a short last row and column: (3 3 | 1), (7 7 | 5).
        (Block(2, 2), [[3, 3, 1], [3, 3, 1], [7, 7, 5]], 0.5, "000 000 111"),
        # The short block wins on its mean, 4, though its sum is smaller than 6 = 3 + 3.
        (Block(1, 2), [[3, 3, 4]], 0.5, "001"),
        (Block(1, 2), [[3, 3, 2]], 0.5, "110"),
        (Block(1, 4), [[1, 1, 1, 1, 1, 1]], 0.5, "111100"),
        # Wider and higher than the matrix: a block is the whole dimension.
        (Block(1, 9), [[1, 2], [5, 0], [1, 1]], 0.67, "00 11 00"),
        (Block(9, 1), [[1, 2, 0], [5, 0, 0]], 0.67, "100 100"),
        (Block(9, 9), [[1, 2], [3, 4]], 0.9, "11 11"),
        (Block(2, 2), [[1, 2], [3, 4]], 0.9, "11 11"),
        # Dense(1): one output.
        (Block(2, 2), [[1, 2, 9, 9, 4]], 0.34, "00111"),
        (Block(1, 1), [[4, 1], [2, 3]], 0.5, "10 01"),
        (Block(1, 2), [[1, 1, 1, 1], [1, 1, 1, 1]], 0.5, "1111 0000"),
    ],
    ids=str,
)
def test_block_by_hand(pattern, scores, sparsity, mask):
    assert digits(pattern(np.array(scores, dtype=np.float32), sparsity)) == mask


def blocks_of(shape: tuple[int, ...], pattern: Block) -> list[tuple[slice, ...]]:
    """List the blocks in row-major order of the grid of blocks."""
    rows = [slice(start, start + pattern.rows) for start in range(0, shape[0], pattern.rows)]
    cols = [slice(start, start + pattern.cols) for start in range(0, shape[-1], pattern.cols)]
    middles = [(position,) for position in range(shape[1])] if len(shape) == 3 else [()]
    return [(row, *middle, col) for row in rows for middle in middles for col in cols]


@given(scores_of(), st.integers(1, 10), st.integers(1, 10), SPARSITIES)
def test_block_equals_brute_force(scores, rows, cols, sparsity):
    pattern = Block(rows, cols)
    parts = blocks_of(scores.shape, pattern)
    means = np.array([scores[part].mean(dtype=np.float64) for part in parts])
    expected = np.zeros(scores.shape, dtype=bool)
    for part, kept in zip(parts, by_sorting(means, kept_count(len(parts), sparsity)), strict=True):
        expected[part] = kept
    np.testing.assert_array_equal(pattern(scores, sparsity), expected)


def test_block_keeps_all_of_the_norm_that_can_be_kept():
    """Blocks start at 0, also where the size does not divide: what is large in one block stays."""
    scores = np.zeros((10, 10), dtype=np.float32)
    scores[4:8, 8:10] = 1
    mask = Block(4, 4)(scores, 8 / 9)
    assert scores[mask].sum() == scores.sum()
    assert mask.sum() == 8


@pytest.mark.parametrize(
    ("pattern", "shape", "reason"),
    [
        (
            Block(1, 4),
            (8, 9, 1),
            "Block(rows=1, cols=4) runs along the inputs, and each kernel position has only one",
        ),
        (NM(2, 4), (8, 2), "NM(n=2, m=4) runs along the inputs, and 2 of them make no group with a zero"),
        (NM(2, 4), (8, 9, 1), "NM(n=2, m=4) runs along the inputs, and 1 of them make no group with a zero"),
    ],
    ids=str,
)
def test_refusal(pattern, shape, reason):
    assert pattern.refusal(shape) == reason


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (Unstructured(), (1, 1)),
        (Block(4, 1), (8, 9, 1)),
        (Block(1, 4), (8, 1)),
        (Block(1, 4), (8, 9, 2)),
        (NM(2, 4), (1, 3)),
    ],
    ids=str,
)
def test_no_refusal(pattern, shape):
    assert pattern.refusal(shape) is None


@pytest.mark.parametrize(
    ("pattern", "scores", "sparsity", "mask"),
    [
        # Groups (.1 .9 .3 .2), (.5 .5 .5 .5), (0 0 0 1): of equal scores the earlier stay.
        (NM(2, 4), [[0.1, 0.9, 0.3, 0.2, 0.5, 0.5, 0.5, 0.5, 0, 0, 0, 1]], 0.5, "011011001001"),
        (NM(1, 4), [[1, 2, 3, 4]], 0.75, "0001"),
        (NM(1, 2), [[1, 2], [4, 3]], 0.5, "01 10"),
        # A tail of t keeps min(n, t): 1 input keeps it, 3 inputs keep 2, and groups do not wrap into the next row.
        (NM(2, 4), [[1, 2, 3, 4, 0], [9, 9, 9, 9, 9]], 0.5, "00111 11001"),
        (NM(2, 4), [[1, 2, 3, 4, 7, 5, 6]], 0.5, "0011101"),
        (NM(2, 8), [[1, 2, 3]], 0.75, "011"),
        (NM(2, 4), [[-1, -2, -3, -4]], 0.5, "1100"),
        (NM(2, 4), [[0, 0, 0, 0, 0, 0]], 0.5, "110011"),
        (NM(2, 4), [[1, 2, 3, 4]], 0.0, "1111"),
        # Half of the sparsity: half of the groups, those that lose least: 3 = 1 + 2 and 1 = 0 + 1, not 5 and 4.
        (NM(2, 4), [[1, 2, 9, 9, 2, 3, 9, 9, 0, 1, 9, 9, 2, 2, 9, 9]], 0.25, "0011111100111111"),
        # All lose alike: the earlier groups stay whole.
        (NM(1, 2), [[1, 1, 1, 1, 1, 1, 1, 1]], 0.25, "11111010"),
        # A group that is a tail of n or fewer has nothing to lose, and is not among those counted.
        (NM(2, 4), [[1, 2, 9, 9, 0], [3, 4, 9, 9, 0]], 0.25, "00111 11111"),
    ],
    ids=str,
)
def test_nm_by_hand(pattern, scores, sparsity, mask):
    assert digits(pattern(np.array(scores, dtype=np.float32), sparsity)) == mask


def test_nm_golden():
    scores = np.abs(np.array([0.1, -0.9, 0.3, 0.2, 0.5, 0.5, 0.5, 0.5, 0, 0, 0, 1], dtype=np.float32))
    assert digits(NM(2, 4)(scores.reshape(3, 4), 0.5)) == "0110 1100 1001"


def groups_of(shape: tuple[int, ...], m: int) -> list[tuple]:
    """List the groups in row-major order."""
    return [
        (*index, slice(start, min(start + m, shape[-1])))
        for index in np.ndindex(shape[:-1])
        for start in range(0, shape[-1], m)
    ]


@given(scores_of(), st.integers(1, 4), st.integers(1, 5), st.floats(0, 1))
def test_nm_equals_brute_force(scores, n, above, progress):
    pattern = NM(n, n + above)
    most = 1 - n / pattern.m
    expected = np.ones(scores.shape, dtype=bool)
    parts = [part for part in groups_of(scores.shape, pattern.m) if scores[part].size > n]
    masks = [by_sorting(scores[part], n) for part in parts]
    lost = [scores[part][~mask].sum() for part, mask in zip(parts, masks, strict=True)]
    fraction = min(progress * most / most, 1.0)
    # Those that lose least have zeros; of equal ones the later.
    zeroed = sorted(range(len(parts)), key=lambda group: (lost[group], -group))[: round(fraction * len(parts))]
    for group in zeroed:
        expected[parts[group]] = masks[group]
    np.testing.assert_array_equal(pattern(scores, progress * most), expected)


@pytest.mark.parametrize("pattern", [NM(1, 2), NM(2, 4), NM(1, 3), NM(3, 7), NM(1, 4)], ids=repr)
def test_nm_reaches_its_sparsity_exactly(pattern):
    scores = np.random.default_rng(0).random((5, 4 * pattern.m), dtype=np.float32)
    mask = pattern(scores, 1 - pattern.n / pattern.m)
    assert (mask.reshape(-1, pattern.m).sum(axis=1) == pattern.n).all()


def test_nm_refuses_more_than_it_has():
    message = (
        "Expected a sparsity of at most 1 - n/m = 0.5 for NM(n=2, m=4). Received: 0.6. Lower the schedule's final "
        "sparsity, or choose a smaller n/m"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        NM(2, 4)(np.ones((4, 4)), 0.6)


@pytest.mark.parametrize(
    ("kind", "argument", "make"),
    [
        (ArgumentError, "n", lambda: NM(4, 4)),
        (ArgumentError, "n", lambda: NM(0, 4)),
        (ArgumentError, "m", lambda: NM(1, 1)),
        (ArgumentTypeError, "n", lambda: NM(2.0, 4)),
        (ArgumentError, "rows", lambda: Block(0, 4)),
        (ArgumentError, "cols", lambda: Block(1, -1)),
        (ArgumentTypeError, "rows", lambda: Block("1", 4)),
    ],
)
def test_sizes_are_checked(kind, argument, make):
    with refused(kind, argument):
        make()


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2), Block(1, 3), NM(2, 4), NM(1, 2)], ids=repr)
def test_nothing_straddles_kernel_positions(pattern):
    """Of blocks and groups along the inputs, those of one position are what they are if it stands alone."""
    scores = np.random.default_rng(5).random((6, 4, 5), dtype=np.float32)
    sparsity = 0.5
    mask = pattern(scores, sparsity)
    if isinstance(pattern, Block):
        # Each block is kept or dropped as a whole within its position.
        for part in blocks_of(scores.shape, pattern):
            assert mask[part].all() or not mask[part].any()
    elif isinstance(pattern, NM):
        alone = np.stack([pattern(scores[:, position], sparsity) for position in range(4)], axis=1)
        np.testing.assert_array_equal(mask, alone)
    else:
        np.testing.assert_array_equal(mask, by_sorting(scores, 60))


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 3), NM(2, 4)], ids=repr)
@given(scores=scores_of(), sparsities=st.tuples(SPARSITIES, SPARSITIES))
@settings(max_examples=50)
def test_masks_are_nested_and_scores_untouched(pattern, scores, sparsities):
    """For the same scores, what a lower sparsity drops a higher one drops too; no row of masks is ever all zero."""
    before = scores.copy()
    low, high = sorted(sparsities)
    if isinstance(pattern, NM):
        low, high = low / 2, high / 2
    less, more = pattern(scores, low), pattern(scores, high)
    assert less.shape == more.shape == scores.shape
    assert not (more & ~less).any()
    assert more.any()
    np.testing.assert_array_equal(scores, before)


def test_patterns_by_name():
    assert {"unstructured": Unstructured, "channel": Channel, "head": Head} == PATTERNS


@dataclass(frozen=True)
class Rows(Pattern):
    """A pattern from outside the library: whole outputs."""

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        sums = scores.reshape(scores.shape[0], -1).sum(axis=1)
        keep = keep_largest(sums, kept_count(sums.size, sparsity))
        return np.broadcast_to(keep.reshape(-1, *[1] * (scores.ndim - 1)), scores.shape)


def test_a_pattern_from_outside():
    pattern = Rows()
    assert digits(pattern(np.array([[1.0, 2.0], [0.0, 9.0], [1.0, 1.0]]), 0.34)) == "11 11 00"
    assert pattern.refusal((1, 1)) is None
    assert Rows.from_config(pattern.get_config()) == pattern


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError):
        Pattern()(np.ones((2, 2)), 0.5)

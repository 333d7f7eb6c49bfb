"""Convolutions between maps in phases: the same numbers as TensorFlow's convolutions and pools."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.rewriting.phases import (
    Chain,
    Window,
    _chains,
    cheapest,
    cost,
    maximum,
    runs_in_blocks,
    stride_between,
)

SIZE = 16


def in_phases(image: np.ndarray, phases: int) -> np.ndarray:
    """Return the map that tf.nn.depth_to_space turns back into the image."""
    return image if phases == 1 else tf.nn.space_to_depth(image[None], phases)[0].numpy()


def followed(chain: Chain, source: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Take the steps; a bias is given for as many phases as the product has that adds it."""
    maps = [source]
    for number, step in enumerate(chain.steps, 1):
        taken = [maps[number] for number in step.sources]
        if step.amounts is not None:
            made = shifted(taken[0], step.amounts) - (taken[0] if step.differs else 0)
        elif step.matrix is not None:
            made = taken[0] @ step.matrix.T + np.float32(step.constant)
            if bias is not None and number == chain.bias:
                made += np.tile(bias, len(step.matrix) // len(bias))
        else:
            made = taken[0] + taken[1]
        maps.append((np.maximum(made, 0) if step.clips else made)[:: step.stride, :: step.stride])
    return maps[-1]


def shifted(image: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Return what each channel holds so many rows below and columns to the right."""
    (height, width, channels), padded = image.shape, np.pad(image, ((2, 2), (2, 2), (0, 0)))
    parts = [padded[2 + down : 2 + down + height, 2 + right : 2 + right + width] for down, right in amounts]
    return np.stack([part[..., channel] for channel, part in zip(range(channels), parts, strict=True)], axis=-1)


def window(size: int, stride: int, dilation: int) -> Window:
    reach = (size - 1) * dilation + 1
    before = max((SIZE // stride - 1) * stride + reach - SIZE, 0) // 2
    return Window((size, size), stride, (before, before), (dilation, dilation))


@given(
    size=st.sampled_from([1, 2, 3, 5, 7]),
    moves=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    phases=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2])),
    zeros=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 9),
)
def test_every_form_of_a_convolution_is_the_convolution(size, moves, phases, zeros, seed):
    data, (stride, dilation) = np.random.default_rng(seed), moves
    if not stride_between(stride, phases):
        return
    kernel = (data.normal(size=(4, size, size, 3)) * (data.random((4, size, size, 3)) >= zeros)).astype(np.float32)
    image = data.normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    bias = data.normal(size=4).astype(np.float32)
    made = tf.nn.conv2d(image[None], kernel.transpose(1, 2, 3, 0), stride, "SAME", dilations=dilation) + bias
    expected = made[0].numpy()
    chains = _chains(kernel, window(size, stride, dilation), phases)
    assert len(chains) >= 2
    for chain in chains:
        found = followed(chain, in_phases(image, phases[0]), bias)
        np.testing.assert_allclose(found, in_phases(expected, phases[1]), atol=2e-5)


@pytest.mark.parametrize("phases", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (2, 1), (3, 1), (5, 1), (4, 2), (7, 2)])
def test_the_largest_of_a_window_is_that_of_a_pool(size, stride, phases):
    if not stride_between(stride, phases):
        return
    image = np.random.default_rng(0).normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    moved = window(size, stride, 1)
    before = moved.padding[0]
    padded = np.pad(image, ((before, size), (before, size), (0, 0)))[None]
    with_zeros = tf.nn.max_pool2d(padded, size, stride, "VALID")[0, : SIZE // stride, : SIZE // stride].numpy()
    expected = {0.0: with_zeros, 2.0**100: tf.nn.max_pool2d(image[None], size, stride, "SAME")[0].numpy()}
    for border, largest in expected.items():
        for is_even in (False, True):  # of the forms, one needs an even size
            chain = maximum(moved, channels=3, phases=phases, border=border, is_even=is_even)
            found = followed(chain, in_phases(image, phases[0]))
            np.testing.assert_allclose(found, in_phases(largest, phases[1]), atol=1e-6)


def counts(chain: Chain) -> tuple[int, int, int]:
    shifts = sum(step.amounts is not None for step in chain.steps)
    products = sum(step.matrix is not None for step in chain.steps)
    return shifts, products, len(chain.steps) - shifts - products


@pytest.mark.parametrize(
    ("inputs", "size", "stride", "phases", "expected"),
    [
        (32, 3, 1, (2, 2), (2, 4, 3)),
        (32, 3, 1, (1, 1), (4, 9, 8)),
        (32, 3, 2, (2, 1), (2, 4, 3)),
        (32, 3, 2, (2, 2), (6, 8, 6)),
        (32, 1, 1, (2, 2), (0, 1, 0)),
        (1, 3, 1, (2, 2), (1, 2, 0)),  # the few inputs are copied
    ],
)
def test_how_many_shifts_products_and_sums_a_convolution_takes(inputs, size, stride, phases, expected):
    kernel = np.ones((32, size, size, inputs), np.float32)
    assert counts(cheapest(kernel, window(size, stride, 1), phases=phases, pixels=256)) == expected


def test_products_of_whole_rows_are_told_from_those_of_every_second_row():
    whole, sparse = np.ones((8, 5)), np.random.default_rng(0).random((64, 64)) < 0.3
    second = whole * (np.arange(8) % 2)[:, None]
    assert [runs_in_blocks(matrix) for matrix in (whole, whole[:2], second, whole[:1], sparse, 0 * whole)] == [
        *(True, True, False, False, False, False)
    ]


def test_the_non_zero_entries_stay_as_many_for_each_pixel():
    data = np.random.default_rng(0)
    kernel = (data.normal(size=(6, 3, 3, 5)) * (data.random((6, 3, 3, 5)) < 0.2)).astype(np.float32)
    for phases in ((1, 1), (2, 2)):
        chain = cheapest(kernel, window(3, 1, 1), phases=phases, pixels=64)
        products = (step.matrix for step in chain.steps if step.matrix is not None and not step.copies)
        entries = sum(map(np.count_nonzero, products))
        assert entries == phases[1] ** 2 * np.count_nonzero(kernel)


def test_kernels_of_more_than_nine_rows_have_no_form():
    for size, has_form in ((9, True), (11, False)):
        price = cost(window(size, 1, 1), sizes=(2, 2), entries=4 * size * size, phases=(1, 1))
        assert np.isfinite(price) == has_form

"""Masks of clients: packed, compared and merged, against NumPy and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfprune.federated import mask_iou, merge_masks, pack_masks, unpack_masks

MASKS = st.lists(st.none() | arrays.arrays(bool, arrays.array_shapes(min_dims=0, max_dims=4, max_side=9)), max_size=5)


@given(MASKS)
def test_masks_come_back_bit_for_bit(masks):
    packed = pack_masks(masks)
    back = unpack_masks(packed)
    assert len(back) == len(masks) and pack_masks(back) == packed
    for one, other in zip(masks, back, strict=True):
        assert (one is None) == (other is None)
        assert one is None or one.shape == other.shape and (one == other).all()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
def test_a_mask_takes_at_most_a_bit_for_each_entry(size):
    mask = np.random.default_rng(size).random(size) < 0.5
    assert len(pack_masks([mask])) <= 14 + 5 + 5 + -(-size // 8)  # header, shape, stream
    (back,) = unpack_masks(pack_masks([mask]))
    np.testing.assert_array_equal(back, mask)


def test_masks_with_few_ones_take_less_than_a_bit_for_each_entry():
    mask = np.random.default_rng(0).random(80_000) < 0.2
    entropy = 80_000 / 8 * -(0.2 * np.log2(0.2) + 0.8 * np.log2(0.8))
    assert entropy < len(pack_masks([mask])) < 1.03 * entropy


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_masks_are_refused(noise, at):
    packed = pack_masks([np.random.default_rng(0).random((5, 7)) < 0.5, None])
    for data in (noise, packed[:at] + noise, packed[: at % len(packed)], packed[:14] + noise):
        if data != packed:
            with pytest.raises(ValueError, match="Expected .*packed masks"):
                unpack_masks(data)


def test_masks_of_another_model_are_refused_before_memory_is_taken_for_them(monkeypatch):
    packed = pack_masks([np.zeros((300, 300)), None])
    (mask, rest) = unpack_masks(packed, like=[np.ones((300, 300)), np.ones(2)])
    assert mask.shape == (300, 300) and rest is None
    monkeypatch.setattr("tfprune.methods.federated.update.expand", None)
    for like in ([np.ones((300, 300))], [np.ones(300), np.ones(2)], [np.ones(()), np.ones(2)]):
        with pytest.raises(ValueError, match="shapes are those of another model"):
            unpack_masks(packed, like=like)


def test_masks_of_another_version_are_told():
    packed = pack_masks([None])
    with pytest.raises(ValueError, match="version 1. Received: 2"):
        unpack_masks(packed[:3] + b"\2" + packed[4:])
    with pytest.raises(TypeError, match="to be bytes. Received: str"):
        unpack_masks("TFM")


def test_agreement_by_hand():
    one, other = [np.array([1, 1, 0, 0]), None, np.array([1])], [np.array([0, 1, 1, 0]), None, None]
    assert mask_iou(one, other) == 2 / 4
    assert mask_iou(one, one) == 1 and mask_iou([None], [None]) == 1
    assert mask_iou([np.zeros(3)], [np.zeros(3)]) == 1 and mask_iou([np.zeros(3)], [np.ones(3)]) == 0


def test_random_masks_agree_as_expected():
    one, other = np.random.default_rng(0).random((2, 100_000)) < 0.2
    assert mask_iou([one], [other]) == pytest.approx(0.2 / 1.8, abs=0.005)


def test_votes():
    clients = [[np.array([1, 1, 0, 0]), None], [np.array([0, 1, 1, 0]), None], [None, None]]
    votes = np.array([2, 3, 2, 1])
    for needed in (1, 2, 3):
        merged, rest = merge_masks(clients, votes=needed)
        np.testing.assert_array_equal(merged, votes >= needed)
        assert rest is None


@pytest.mark.parametrize(
    ("masks", "votes", "error", "message"),
    [
        ([], 1, ValueError, "Received: 0"),
        ([[None]], 2, ValueError, "`votes` to be an integer"),
        ([[None]], True, TypeError, "`votes` to be an integer"),
        ([[None], [None, None]], 1, ValueError, "masks of one model. Received: lists of 1, 2 masks"),
        ([[np.ones(2)], [np.ones(3)]], 1, ValueError, r"masks of one shape. Received: \[\(2,\), \(3,\)\]"),
        ([[np.array([0.5])]], 1, ValueError, "zeros and ones"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, votes, error, message):
    with pytest.raises(error, match=message):
        merge_masks(masks, votes=votes)

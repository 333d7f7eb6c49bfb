"""What travels, against the arrays that went in."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.federated import Traffic, Update
from tfprune.methods.federated.update import RoundTraffic

DTYPES = ["float32", "float16", "float64", "int32", "uint8"]


def model(seed=0, dtypes=("float32", "float32", "float32")):
    random = np.random.default_rng(seed)
    shapes = [(9, 7), (7,), (7, 3, 2), (1,), (0, 4)]
    arrays = [(100 * random.normal(size=shape)).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=False)]
    return arrays, [None if array.ndim < 2 else random.random(array.shape) < 0.3 for array in arrays]


@given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5), st.integers(0, 99), st.booleans())
def test_entries_under_masks_come_back_bit_for_bit(dtypes, seed, is_known):
    weights, masks = model(seed, dtypes)
    data = Update(weights, masks, round=seed).encode(known_masks=masks if is_known else None)
    back = Update.decode(
        data, like=[np.empty_like(array) for array in weights], known_masks=masks if is_known else None
    )
    assert back.round == seed
    for array, other, mask in zip(weights, back.weights, masks, strict=True):
        wanted = array if mask is None else np.where(mask, array, 0)
        assert other.dtype == array.dtype and other.tobytes() == wanted.astype(array.dtype).tobytes()


def test_nan_and_the_sign_of_zero_come_back():
    array = np.array([np.nan, -0.0, np.inf, 1e-45], "float32")
    back = Update.decode(Update([array], None).encode(), like=[array])
    assert back.weights[0].tobytes() == array.tobytes()


def test_the_bytes_are_those_of_the_entries():
    """20 % of the entries of random weights take 20 % of the bytes, and the masks less than a bit for each entry."""
    random = np.random.default_rng(0)
    weights, mask = [random.normal(size=(300, 200)).astype("float32")], [random.random((300, 200)) < 0.2]
    dense, short = len(Update(weights, None).encode()), len(Update(weights, mask).encode(known_masks=mask))
    assert 0.8 * 240_000 < dense < 240_000  # the exponents of random weights are alike
    assert short / dense == pytest.approx(0.2, abs=0.005)
    assert 0.7 * 60_000 / 8 < len(Update(weights, mask).encode()) - short < 0.75 * 60_000 / 8
    assert len(Update(weights, [np.zeros((300, 200))]).encode()) < 120


def test_the_same_update_gives_the_same_bytes():
    weights, masks = model()
    assert Update(weights, masks, round=2).encode() == Update(weights, masks, round=2).encode()
    assert Update(weights, masks).layout != Update(weights, None).layout


def test_masks_that_are_not_known_are_refused():
    weights, masks = model()
    data = Update(weights, masks).encode(known_masks=masks)
    for other in (None, [masks[0], None, ~masks[2]]):
        with pytest.raises(ValueError, match="under other masks. Send it with its masks"):
            Update.decode(data, like=weights, known_masks=other)


@pytest.mark.parametrize("is_masked", [False, True])
def test_another_model_is_refused(is_masked):
    weights, masks = model()
    data = Update(weights, masks if is_masked else None).encode()
    for other in (
        weights[:2],
        [*weights[:2], np.ones((7, 6), "float32")],
        [weights[0].astype("float64"), *weights[1:]],
    ):
        with pytest.raises(ValueError, match="of other shapes or dtypes|of another model"):
            Update.decode(data, like=other)


@given(st.binary(max_size=40), st.integers(0, 300))
def test_damaged_updates_raise_nothing_but_value_errors(noise, at):
    weights, masks = model()
    data = Update(weights, masks).encode()
    for other in (noise, data[: at % len(data)], data[:at] + noise + data[at + len(noise) :]):
        if other != data:
            with pytest.raises(ValueError, match="Expected"):
                Update.decode(other, like=weights)


@given(st.binary(max_size=60))
def test_streams_of_nonsense_under_a_right_checksum_raise_nothing_but_value_errors(noise):
    weights, _ = model()
    data = signed(Update(weights, None).encode(known_masks=None)[:24] + noise)
    with pytest.raises(ValueError, match="a damaged one"):
        Update.decode(data, like=weights)


def signed(data):
    """Return an update with the right checksum: that of all other bytes, zeros in its place."""
    rest = zlib.crc32(data[:16] + bytes(4) + data[20:])
    return data[:16] + rest.to_bytes(4, "little") + data[20:]


def test_the_round_is_under_the_checksum():
    weights, masks = model()
    data = Update(weights, masks, round=3).encode()
    assert data == signed(data) and data[4:8] == bytes([3, 0, 0, 0])
    later = data[:4] + bytes([4, 0, 0, 0]) + data[8:]
    with pytest.raises(ValueError, match="damaged or cut short"):
        Update.decode(later, like=weights)
    assert Update.decode(signed(later), like=weights).round == 4


def test_updates_of_the_first_version_are_read():
    """Their checksum is that of what follows the header alone."""
    weights, masks = model()
    data = Update(weights, masks, round=3).encode()
    old = data[:3] + b"\1" + data[4:16] + zlib.crc32(data[24:]).to_bytes(4, "little") + data[20:]
    back = Update.decode(old, like=weights)
    assert back.round == 3
    for array, other, mask in zip(weights, back.weights, masks, strict=True):
        np.testing.assert_array_equal(other, array if mask is None else np.where(mask, array, 0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Update([np.ones(2)], [np.ones(3)]), ValueError, r"`masks` to have the shape \(2,\)"),
        (lambda: Update([np.ones(2)], None, round=-1), ValueError, "`round`"),
        (lambda: Update.decode("TFU", like=[]), TypeError, "`source` to be bytes"),
        (lambda: Update.decode(b"TFU\3" + bytes(30), like=[]), ValueError, "version 1 or 2. Received: 3"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_traffic_sums_up():
    traffic = Traffic((RoundTraffic(1, 2, 2, 300, 200, 1000), RoundTraffic(2, 2, 1, 30, 20, 900)))
    assert (traffic.bytes, traffic.dense) == (550, 1900)
    assert traffic.as_dict()["rows"][1] == {"round": 2, "sent": 2, "received": 1, "down": 30, "up": 20, "dense": 900}
    assert str(traffic).splitlines()[-1].split() == ["all", "4", "3", "330", "220", "1,900"]

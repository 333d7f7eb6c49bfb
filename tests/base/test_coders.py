"""Coding of one stream. The truth is zlib and lzma called as the format says, and scipy's entropy."""

import lzma
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from tfprune.base.arrays import (
    _DEFLATE,
    _DICTIONARY_BYTES,
    _LZMA,
    _STORED,
    FAR_LZMA,
    compress,
    compress_quickly,
    compress_whole,
    expand,
)

RANDOM = np.random.default_rng(3).bytes(40_000)
SKEWED = np.random.default_rng(3).binomial(200, 0.02, 100_000).astype(np.uint8).tobytes()
REPEATING = np.random.default_rng(3).bytes(500) * 80
STREAMS = {_STORED: RANDOM, _DEFLATE: SKEWED, _LZMA: REPEATING}


def plainly(coder: int, packed: bytes) -> bytes:
    if coder in (_STORED, _DEFLATE):
        return packed if coder == _STORED else zlib.decompress(packed, -15)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": {_LZMA: 2**22, FAR_LZMA: 2**26}[coder]}]
    return lzma.decompress(packed, lzma.FORMAT_RAW, filters=filters)


@given(data=st.binary(max_size=300) | st.binary(max_size=20).map(lambda part: part * 50))
def test_what_was_packed_comes_back(data):
    for coder, packed in (compress(data), compress_quickly(data), compress_whole(data)):
        assert plainly(coder, packed) == data
        assert expand(packed, coder, limit=len(data)) == data
        assert len(packed) <= len(data)


def test_floats_of_few_values_are_packed_as_entries_of_four_bytes():
    random = np.random.default_rng(4)
    floats = random.normal(size=(16, 256)).astype("<f4")[random.integers(0, 16, 200)].tobytes()
    coder, packed = compress(floats)
    assert coder == _LZMA
    assert plainly(coder, packed) == floats
    assert len(packed) < 0.95 * len(lzma.compress(floats, preset=9 | lzma.PRESET_EXTREME))


def test_repeats_farther_apart_than_one_window_are_found_by_the_other_coder(monkeypatch):
    monkeypatch.setitem(_DICTIONARY_BYTES, _LZMA, 2**16)
    noise = np.random.default_rng(5).bytes(_DICTIONARY_BYTES[_LZMA])
    coder, packed = compress_whole(noise + b"between" + noise)
    assert coder == FAR_LZMA
    assert len(packed) < 1.01 * len(noise)
    assert expand(packed, coder, limit=3 * len(noise)) == plainly(coder, packed) == noise + b"between" + noise
    assert compress_whole(noise[:1000] * 9)[0] == _LZMA


@pytest.mark.parametrize("coder", STREAMS)
def test_each_coder_has_streams_that_it_is_best_for(coder):
    assert compress(STREAMS[coder])[0] == coder
    assert compress(STREAMS[coder]) == compress(STREAMS[coder])


def test_a_stream_without_repeats_comes_near_its_entropy():
    counts = np.bincount(np.frombuffer(SKEWED, np.uint8))
    bound = len(SKEWED) * entropy(counts[counts > 0], base=2) / 8
    assert bound <= len(compress(SKEWED)[1]) <= 1.02 * bound


@pytest.mark.parametrize("coder", STREAMS)
def test_more_than_the_limit_is_refused_and_so_are_parts(coder):
    data = STREAMS[coder]
    _, packed = compress(data)
    with pytest.raises(ValueError, match="a stream holds more than its"):
        expand(packed, coder, limit=len(data) - 1)
    if coder != _STORED:
        with pytest.raises(ValueError, match="cut short"):
            expand(packed[:-1], coder, limit=len(data))
        with pytest.raises(ValueError, match="goes on after its end"):
            expand(packed + b"\0", coder, limit=len(data))
        with pytest.raises(ValueError, match="cut short"):
            expand(b"", coder, limit=len(data))


def test_a_coder_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="coder 4, which does not exist"):
        expand(b"", 4, limit=10)


@given(data=st.binary(max_size=200), coder=st.integers(0, 255), limit=st.integers(0, 300))
def test_nonsense_raises_nothing_but_value_errors(data, coder, limit):
    try:
        assert len(expand(data, coder, limit=limit)) <= limit
    except ValueError as error:
        assert str(error).startswith("a stream ")

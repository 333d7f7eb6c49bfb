"""Vectors that are another one times a number. The truth is NumPy's float32 product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.file.container import _find_scaled, _scaled


def bits(number):
    return int(np.float32(number).view(np.uint32))


def floats(seed, size=20):
    return np.random.default_rng(seed).uniform(0.001, 0.1, size).astype(np.float32)


@given(seed=st.integers(0, 10**6), factor=st.floats(2**-13, 2**13, width=32), size=st.integers(2, 50))
def test_a_product_is_found_to_the_bit_wherever_it_stands(seed, factor, size):
    weight = floats(seed, size)
    bias = weight * np.float32(factor)
    vectors = [bias.tobytes(), floats(seed + 1, size).tobytes(), weight.tobytes()]
    ways = _find_scaled(vectors)
    place, way = next(iter(ways.items()))
    assert len(ways) == 1
    assert {place, way.reference} == {0, 2}
    assert not way.steps
    assert _scaled(vectors[way.reference], way.factor) == vectors[place]


def test_several_products_of_one_vector_all_come_from_it():
    weight = floats(1)
    vectors = [(weight * np.float32(factor)).tobytes() for factor in (0.37, 1, 1.9, 1)]
    ways = _find_scaled(vectors)
    assert all(way.reference not in ways for way in ways.values())
    assert all(_scaled(vectors[way.reference], way.factor) == vectors[place] for place, way in ways.items())
    assert len(ways) == 3


@pytest.mark.parametrize("change", [1, -1, 127, -127])
def test_a_product_that_is_off_in_its_last_bits_is_found_with_the_steps(change):
    weight = floats(2)
    bias = (weight * np.float32(0.37)).view(np.int32)
    bias[5] += change
    vectors = [weight.tobytes(), bias.tobytes()]
    ((place, way),) = _find_scaled(vectors).items()
    assert _scaled(vectors[way.reference], way.factor, steps=way.steps) == vectors[place]
    assert np.count_nonzero(np.frombuffer(way.steps, np.int8)) == 1


def test_a_vector_that_is_further_off_is_none():
    weight = floats(2)
    bias = (weight * np.float32(0.37)).view(np.int32)
    bias[5] += 1000
    assert not _find_scaled([weight.tobytes(), bias.tobytes()])


def test_products_too_small_to_be_the_same_everywhere_are_none():
    weight = floats(3)
    assert not _find_scaled([weight.tobytes(), (weight * np.float32(1e-37)).tobytes()])


@given(vectors=st.lists(st.binary(max_size=24) | st.just(bytes(8)), max_size=6))
def test_bytes_of_any_kind_may_be_searched(vectors):
    for place, way in _find_scaled(vectors).items():
        assert _scaled(vectors[way.reference], way.factor, steps=way.steps) == vectors[place]
        assert way.reference != place


@given(reference=st.binary(max_size=10).map(lambda raw: raw * 4), factor=st.integers(0, 2**32 - 1))
def test_any_number_may_be_multiplied(reference, factor):
    assert len(_scaled(reference, factor)) == len(reference)
    with np.errstate(all="ignore"):
        wanted = np.frombuffer(reference, np.float32) * np.uint32(factor).view(np.float32)
    assert np.array_equal(np.frombuffer(_scaled(reference, factor), np.float32), wanted, equal_nan=True)


def test_the_number_is_given_by_its_bits():
    assert np.frombuffer(_scaled(np.float32([1, -2]).tobytes(), bits(0.5)), np.float32).tolist() == [0.5, -1]

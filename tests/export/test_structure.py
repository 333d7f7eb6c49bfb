"""Whole or not. The truth is files cut at every place, and what the interpreter makes of them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfprune.export.structure import check_whole

NAMES = ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"]


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_pass_and_what_follows_does_not_matter(cases, name):
    check_whole(cases[name].data)
    check_whole(cases[name].data + bytes(100))


@pytest.mark.parametrize("name", NAMES)
def test_files_cut_anywhere_are_refused(cases, name):
    data = cases[name].data
    for length in range(len(data) - 4):  # up to three bytes of padding at the end are no part
        with pytest.raises(ValueError, match="a part "):
            check_whole(data[:length])


def test_a_version_without_parts_to_check_passes(refused):
    check_whole(refused)


def test_parts_that_share_parts_without_end_are_refused_at_once(endless):
    with pytest.raises(ValueError, match="a part is used without end"):
        check_whole(endless)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.integers(0, 10**6), min_size=1, max_size=4), name=st.sampled_from(NAMES))
def test_damage_raises_nothing_but_value_errors(cases, flips, name):
    data = bytearray(cases[name].data)
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    try:
        check_whole(bytes(data))
    except ValueError as error:
        assert str(error).startswith("a part ")


def test_values_may_be_anything(cases):
    """Damage within the weights is damage to numbers, which no structure shows."""
    data = bytearray(cases["dense"].data)
    kernel = cases["dense"].kernels[0].T.astype("<f4").tobytes()
    start = bytes(data).index(kernel)
    data[start : start + len(kernel)] = np.full(len(kernel), 0xFF, np.uint8).tobytes()
    check_whole(bytes(data))

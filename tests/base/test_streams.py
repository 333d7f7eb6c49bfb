"""Splitting of entries into streams. The truth is a table worked out by hand, and a decoder in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_streams import join_plainly

from tfprune.base.arrays import _ROW_CLASSES, FORMS, NEAR, ROWS, SCALED, SPLITS, Split, join, split, split_rows

ENTRIES = np.array([5, 0, 0, 0x1234, 0, 0x0100], "<u2").tobytes()
BY_HAND = {
    Split(1, "plain"): (0, [ENTRIES]),
    Split(2, "plain"): (0, [bytes([5, 0, 0, 0x34, 0, 0]), bytes([0, 0, 0, 0x12, 0, 1])]),
    Split(4, "plain"): (0, [bytes([5, 0, 0]), bytes(3), bytes([0, 0x34, 0]), bytes([0, 0x12, 1])]),
    # 5, -5, 0, 0x1234, -0x1234, 0x100
    Split(2, "steps"): (0, [bytes([5, 0xFB, 0, 0x34, 0xCC, 0]), bytes([0, 0xFF, 0, 0x12, 0xED, 1])]),
    Split(2, "runs"): (0, [bytes([0, 2, 1]), bytes([5, 0x34, 0]), bytes([0, 0x12, 1])]),
    Split(2, "mask"): (0, [bytes([0b10010100]), bytes([5, 0x34, 0]), bytes([0, 0x12, 1])]),
}
# 3, -3, 256, -1, the smallest, the largest: the sign goes to the lowest bit
SIGNED = np.array([3, -3, 256, -1, -(2**31), 2**31 - 1], "<i4").tobytes()
FOLDED = [bytes([6, 5, 0, 1, 0xFF, 0xFE]), bytes([0, 0, 2, 0, 0xFF, 0xFF]), *[bytes([0, 0, 0, 0, 0xFF, 0xFF])] * 2]
# Seven rows of three: means of the others 9, none, 1, 5 (of -9 and 1), 2, 3 and 7; the rest of the last is missing.
LINES = [[0, 9, 0], [0, 0, 0], [1, 0, 1], [0xF7, 0, 1], [2, 0, 0], [3, 0, 3], [7]]
CLASS_OF_LINE = [5, 0, 0, 3, 1, 2, 4]  # seven ranks in six classes: 0 0 1 2 3 4 5


def reader(streams):
    rest = iter(streams)

    def read(limit):
        stream = next(rest)
        if len(stream) > limit:
            raise ValueError("too long")
        return stream

    return read


@pytest.mark.parametrize("form", BY_HAND)
def test_streams_are_those_worked_out_by_hand(form):
    assert split(ENTRIES, form) == BY_HAND[form]


def test_signs_are_folded_as_worked_out_by_hand():
    assert split(SIGNED, Split(4, "folded")) == (0, FOLDED)
    assert join(reader(FOLDED), Split(4, "folded"), size=24, common=0) == SIGNED


def test_rows_are_classed_by_the_size_of_their_entries_as_worked_out_by_hand():
    content = bytes(entry for line in LINES for entry in line)
    detail, streams = split_rows(content, 3)
    assert detail == 3 * 2**32
    assert streams == [
        bytes([1, 4, 1, 0, 1, 0, 2, 1, 0]),
        bytes(CLASS_OF_LINE),
        *(bytes([1, 1]), bytes([2]), bytes([3, 3]), bytes([0xF7, 1]), bytes([7]), bytes([9])),
    ]
    assert join(reader(streams), ROWS, size=len(content), common=detail) == content


def test_the_numbers_of_forms_stay_those_of_the_format():
    kinds = ["plain", "plain", "plain", "steps", "steps", "steps", "runs", "runs", "runs", "mask", "mask", "mask"]
    assert [form.kind for form in FORMS] == [*kinds, "scaled", "folded", "rows", "near"]
    assert [form.width for form in FORMS] == [1, 2, 4] * 4 + [4, 4, 1, 4]
    assert [form.streams for form in FORMS] == [1, 2, 4, 1, 2, 4, 2, 3, 5, 2, 3, 5, 0, 4, 8, 1]
    assert {*SPLITS, SCALED, ROWS, NEAR} == {*FORMS}


@st.composite
def contents(draw):
    """Entries of which most are alike, with runs on both sides of the longest that a byte tells."""
    common, other = draw(st.binary(min_size=4, max_size=4)), draw(st.binary(min_size=4, max_size=4))
    lengths = st.sampled_from([0, 1, 2, 7, 63, 64, 253, 254, 255, 256, 300, 509, 510, 511])
    parts = [common * draw(lengths) + other * draw(st.integers(0, 3)) for _ in range(draw(st.integers(1, 4)))]
    return b"".join(parts) + draw(st.binary(max_size=40).map(lambda raw: raw[: len(raw) // 4 * 4]))


@given(content=contents(), form=st.sampled_from(SPLITS))
def test_what_was_split_comes_back_and_plain_loops_agree(content, form):
    common, streams = split(content, form)
    assert len(streams) == form.streams
    assert join(reader(streams), form, size=len(content), common=common) == content
    assert join_plainly(list(streams), form.width, form.kind, len(content) // form.width, common) == content


@given(content=contents().filter(len), length=st.integers(1, 600))
def test_what_was_split_by_rows_comes_back_and_plain_loops_agree(content, length):
    detail, streams = split_rows(content, length)
    assert len(streams) == ROWS.streams
    assert join(reader(streams), ROWS, size=len(content), common=detail) == content
    assert join_plainly(list(streams), 1, "rows", len(content), detail) == content


@given(
    form=st.sampled_from([*SPLITS, ROWS]),
    streams=st.lists(st.binary(max_size=12), min_size=8, max_size=8),
    size=st.integers(0, 40),
    common=st.integers(0, 2**64 - 1),
)
def test_streams_that_fit_nothing_raise_nothing_but_value_errors(form, streams, size, common):
    try:
        content = join(reader(streams), form, size=size, common=common)
    except ValueError:
        return
    assert len(content) == size


def test_streams_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 bytes are not a whole number of entries of 2 bytes"):
        join(reader([]), Split(2, "plain"), size=5, common=0)
    with pytest.raises(ValueError, match="a stream has 3 bytes, not 4"):
        join(reader([bytes(3)]), Split(1, "plain"), size=4, common=0)
    with pytest.raises(ValueError, match="runs end at 9 in 4 entries"):
        join(reader([bytes([9]), bytes(1)]), Split(1, "runs"), size=4, common=0)
    with pytest.raises(ValueError, match="rows of 0 entries around 0 do not exist"):
        join(reader([bytes([0])]), ROWS, size=4, common=0)
    with pytest.raises(ValueError, match=f"class {_ROW_CLASSES}, which does not exist"):
        join(reader([bytes([0]), bytes([_ROW_CLASSES, 0])]), ROWS, size=4, common=2**33)
    with pytest.raises(ValueError, match="common entry 256 does not fit 1 bytes"):
        join(reader([bytes([0]), bytes(1)]), Split(1, "runs"), size=4, common=256)

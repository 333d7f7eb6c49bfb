"""JSON and arrays from outside: what is whole comes back, and all else is refused in little memory."""

from __future__ import annotations

import tracemalloc
import zipfile
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from mutations import changed_archive, changed_bytes

from tfprune.base import folders
from tfprune.base.folders import _MOST_ENTRIES, UNREADABLE, parse_json, read_arrays, read_fields, reading


@given(st.dictionaries(st.sampled_from("abcde"), arrays(scalar_dtypes(), array_shapes(min_dims=0, min_side=0))))
def test_arrays_come_back_as_savez_wrote_them(tmp_path_factory, stored):
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    np.savez(path, **stored)
    found = read_arrays(path)
    assert list(found) == list(stored)
    for name, array in stored.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_an_array_that_is_not_there_is_named(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=1)
    with pytest.raises(ValueError, match="no array 'b'"):
        read_arrays(tmp_path / "arrays.npz")["b"]


def lie(shape: str, dtype: str = "'<f4'") -> bytes:
    """Return an array of 64 bytes, with a header that says something else."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


ARCHIVES = {
    "more than the file": (lie("(1000000000000,)"), "not what its header says"),
    "less than the file": (lie("(3,)"), "not what its header says"),
    "a negative length": (lie("(-16,)"), "has a negative length"),
    "objects": (lie("(8,)", "'|O'"), "holds Python objects"),
    "no bytes at all": (lie("(100000000000,)", "'<U0'"), "not what its header says"),
    "something else": (b"no array", "magic string"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_arrays_that_lie_are_refused_before_memory_is_taken(name, tmp_path):
    content, words = ARCHIVES[name]
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as archive:
        archive.writestr("a.npy", content)
    check_refused(tmp_path / "arrays.npz", words)


def test_a_small_archive_of_a_large_array_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "arrays.npz", a=np.zeros(3 * 10**7, np.uint8))
    check_refused(tmp_path / "arrays.npz", "it would take 30,000,128 bytes")


def test_too_many_entries_are_refused_before_they_are_read(tmp_path):
    (tmp_path / "arrays.npz").write_bytes((b"PK\x01\x02" + bytes(42)) * (_MOST_ENTRIES + 1))
    check_refused(tmp_path / "arrays.npz", "more than 131,072 entries")


def check_refused(path, words):
    tracemalloc.start()
    with pytest.raises(ValueError, match=words), reading(path, expected="arrays", advice="Try again"):
        read_arrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_changed_archives_raise_nothing_that_is_not_listed(tmp_path):
    for seed in range(300):
        random = Random(seed)
        content = changed_archive({"a": np.arange(5.0), "text": np.array('{"b": [1, 2]}')}, random)
        (tmp_path / "arrays.npz").write_bytes(changed_bytes(content, random) if seed % 3 == 0 else content)
        try:
            read_arrays(tmp_path / "arrays.npz")
        except UNREADABLE as error:
            assert not isinstance(error, KeyError), seed  # which says too little


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b"9" * 5000, b""])
def test_what_is_not_json_is_refused_in_few_words(text):
    with pytest.raises(ValueError, match="Expected JSON") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_json_is_bounded(monkeypatch):
    monkeypatch.setattr(folders, "LARGEST_JSON", 10)
    assert parse_json(b"[1, 2, 3]") == [1, 2, 3]
    with pytest.raises(ValueError, match="at most 10 bytes of JSON. Received: 12"):
        parse_json(b"[1, 2, 3, 4]")


@dataclass(frozen=True)
class Thing:
    name: str
    size: float
    count: int | None
    rest: list = field(default_factory=list)


def test_fields_make_the_object_that_was_written():
    assert read_fields(Thing, {"name": "a", "size": 2, "count": None}) == Thing("a", 2.0, None)
    thing = read_fields(Thing, {"name": "a", "size": 2.5, "count": 3, "rest": "not read"}, rest=[1])
    assert thing == Thing("a", 2.5, 3, [1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 3}, "'name' to be of type str. Received: 3"),
        ({"count": True}, "'count' to be of type int or NoneType. Received: True"),
        ({"count": 1.5}, "'count' to be of type int or NoneType. Received: 1.5"),
        ({"count": 2**63}, "'count' to be a number of 64 bits"),
        ({"size": 10**400}, "'size' to be a number of 64 bits"),
        ({"size": float("nan")}, "'size' to be a number of 64 bits. Received: nan"),
        ({"more": 1}, "Received: one named 'more'"),
        ({"rest": {}}, "'rest' to be of type list"),
    ],
)
def test_fields_of_another_type_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        read_fields(Thing, {"name": "a", "size": 1.0, "count": None, **changes})


@pytest.mark.parametrize(
    ("fields", "words"), [([], "fields of a Thing. Received: a list"), ({}, "none named 'count'")]
)
def test_what_has_no_fields_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        read_fields(Thing, fields)

"""Archives behind a file. The truth is the standard library's reader."""

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file.report import append_archive, trailing_archive

FILES = {"labels.txt": b"cat\ndog\n", "deep/vocabulary.txt": bytes(range(256)) * 9, "empty": b""}


def carry_over(source, rewritten):
    return append_archive(rewritten, trailing_archive(source))


def with_archive(data):
    """Append files the way the metadata tools do."""
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, mode="a", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.comment = b"made by a test"
    return stream.getvalue()


@pytest.mark.parametrize("length", [0, 1, 500, 5000])
def test_files_are_found_where_the_archive_says(length):
    moved = carry_over(with_archive(bytes(500)), b"x" * length)
    assert moved[:length] == b"x" * length
    assert moved == with_archive_at(length, moved)
    with zipfile.ZipFile(io.BytesIO(moved)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
        assert archive.comment == b"made by a test"
        starts = [info.header_offset for info in archive.infolist()]
    assert min(starts) == length
    # Readers that believe the offsets as they are written, and not what they can conclude, find the same.
    end = moved.rindex(b"PK\x05\x06")
    assert moved[int.from_bytes(moved[end + 16 : end + 20], "little") :].startswith(b"PK\x01\x02")


def with_archive_at(length, moved):
    """The same archive written anew behind other bytes, with the times of the first."""
    stream = io.BytesIO(b"x" * length)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(io.BytesIO(moved)) as old, zipfile.ZipFile(stream, mode="a") as new:
        for info in old.infolist():
            new.writestr(info, old.read(info))
        new.comment = old.comment
    return stream.getvalue()


@pytest.mark.parametrize(
    "source", [b"", b"model", b"PK\x05\x06" + bytes(18), bytes(90) + b"PK\x05\x06" + b"\xff" * 18]
)
def test_without_an_archive_nothing_is_appended(source):
    assert carry_over(source, b"new") == b"new"


@settings(max_examples=200, deadline=None)
@given(flips=st.lists(st.integers(0, 10**5), min_size=1, max_size=5))
def test_damage_raises_nothing(flips):
    data = bytearray(with_archive(bytes(50)))
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    assert carry_over(bytes(data), b"new").startswith(b"new")

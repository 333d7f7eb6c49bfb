"""Files behind a .tflite: TFLite's metadata tools append labels and vocabularies as a zip archive."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping

from tfprune.base.untrusted import reading

END, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
END_RECORD_BYTES = 22  # bytes of the archive's last record, before its comment
MAX_COMMENT_BYTES = 2**16 - 1  # the longest comment behind it
MAX_FILES_BYTES = 2**26  # that labels and vocabularies take at most, unpacked: an archive may be a bomb
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of a file in an archive: the same content gives the same bytes


def trailing_archive(data: bytes) -> bytes:
    """Return the archive that stands behind a file, with offsets from the archive's own start.

    Args:
        data: The file, whole.

    Returns:
        The archive; no bytes where there is none.
    """
    try:
        start, offsets = _archive(data)
    except (struct.error, ValueError):
        return b""
    return _shifted(data[start:], [position - start for position in offsets], by=-start)


def append_archive(content: bytes, archive: bytes) -> bytes:
    """Append to a file an archive of `trailing_archive`, whose offsets then count from the file's start."""
    if not archive:
        return content
    _, offsets = _archive(archive)
    return content + _shifted(archive, offsets, by=len(content))


def read_archive(archive: bytes) -> dict[str, bytes]:
    """Return the files in an archive of `trailing_archive`, by name.

    Raises:
        ValueError: If it is damaged, names a file twice, or holds more than 64 MiB.
    """
    if not archive:
        return {}
    with (
        reading("labels", expected="a whole archive behind the model", advice="Copy the file again"),
        zipfile.ZipFile(io.BytesIO(archive)) as files,
    ):
        entries = files.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it names a file twice")
        if sum(entry.file_size for entry in entries) > MAX_FILES_BYTES:
            raise ValueError(f"its files take more than {MAX_FILES_BYTES:,} bytes")
        return {entry.filename: files.read(entry) for entry in entries}


def make_archive(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files as they are, which readers on devices need: they map them into memory."""
    if not files:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, FIRST_DAY), content)
    return stream.getvalue()


def _shifted(archive: bytes, positions: list[int], *, by: int) -> bytes:
    """Move the offsets that stand at these positions of an archive."""
    moved = bytearray(archive)
    for position in positions:
        (offset,) = struct.unpack_from("<I", moved, position)
        struct.pack_into("<I", moved, position, offset + by)
    return bytes(moved)


def _archive(data: bytes) -> tuple[int, list[int]]:
    """Return where the archive begins, and where it says where something is."""
    end = data.rfind(END, max(0, len(data) - END_RECORD_BYTES - MAX_COMMENT_BYTES))
    count, size, directory = struct.unpack_from("<HII", data, end + 10)
    if end < 0 or directory + size != end or not count:
        raise ValueError("no archive that counts from the file's start.")
    entries = [*_entries(data, directory, count)]
    starts = [struct.unpack_from("<I", data, position + 42)[0] for position in entries]
    if any(start > directory or data[start : start + 4] != LOCAL for start in starts):
        raise ValueError("an entry that is not where it should be.")
    return min(starts), [position + 42 for position in entries] + [end + 16]


def _entries(data: bytes, position: int, count: int) -> Iterator[int]:
    for _ in range(count):
        if data[position : position + 4] != ENTRY:
            raise ValueError("fewer entries than it says.")
        yield position
        position += 46 + sum(struct.unpack_from("<HHH", data, position + 28))

"""Split the entries of a tensor into streams of similar bytes, which a coder of single bytes packs well."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LONGEST_RUN = 255  # in one byte: such a run continues in the next
ROW_CLASSES = 6  # fewer mix rows that differ, more need more tables


class Split(NamedTuple):
    """A way to split entries into streams.

    Attributes:
        width: Bytes of an entry.
        kind: `plain`, one stream for the first bytes of all entries, one for the second bytes, and so on; `steps`,
            the same for the difference to the entry before; `folded`, the same for entries with their sign in the
            lowest bit, so that small ones begin with zeros; `runs` and `mask`, a stream that says where the
            entries lie that differ from the most common one, and the plain streams of these; `rows`, runs, a stream
            that gives each row a class, and the others class by class; `scaled`, no stream at all, because the
            entries are another piece's times a number; `near`, one stream with what these lie beside.
    """

    width: int
    kind: str

    @property
    def streams(self) -> int:
        """The number of streams."""
        more = {"scaled": -self.width, "near": 1 - self.width, "runs": 1, "mask": 1, "rows": 1 + ROW_CLASSES}
        return self.width + more.get(self.kind, 0)


ROWS, SCALED, NEAR = Split(1, "rows"), Split(4, "scaled"), Split(4, "near")
_FIRST = tuple(Split(width, kind) for kind in ("plain", "steps", "runs", "mask") for width in (1, 2, 4))
SPLITS = (*_FIRST, Split(4, "folded"))  # those that fit any entries
FORMS = (*_FIRST, SCALED, Split(4, "folded"), ROWS, NEAR)  # their numbers are part of the format: new ones come last


def split(data: bytes | memoryview, form: Split) -> tuple[int, list[bytes]]:
    """Split entries into streams.

    Args:
        data: The entries, a multiple of the form's width.
        form: The way to split, one of SPLITS; `split_rows` splits by rows.

    Returns:
        The most common entry, as an unsigned number (0 if the form does not need it), and the streams.

    Example:
        >>> split(bytes([0, 0, 7, 0, 0, 0, 9, 0]), Split(1, "runs"))
        (0, [b'\\x02\\x03', b'\\x07\\t'])
    """
    entries = np.frombuffer(data, f"<u{form.width}")
    if form.kind == "plain":
        return 0, _planes(entries)
    if form.kind == "steps":
        return 0, _planes(np.diff(entries, prepend=entries.dtype.type(0)))
    if form.kind == "folded":
        return 0, _planes(entries << 1 ^ -(entries >> 31))
    values, counts = np.unique(entries, return_counts=True)
    common = values[np.argmax(counts)]
    differs = entries != common
    indices = np.packbits(differs) if form.kind == "mask" else _runs(np.flatnonzero(differs))
    return int(common), [indices.tobytes(), *_planes(entries[differs])]


def split_rows(data: bytes | memoryview, length: int) -> tuple[int, list[bytes]]:
    """Split entries of one byte into streams, rows with entries of similar size together.

    Each row of quantized weights is scaled by its largest entry, so rows differ in the size of the others.

    Args:
        data: The entries.
        length: Entries of a row, at least 1; the last row may be shorter.

    Returns:
        The most common entry plus 2^32 times the length, and the streams.

    Example:
        >>> common, streams = split_rows(bytes([0, 0, 7, 0, 0, 0, 90, 0]), length=4)
        >>> streams[:2]
        [b'\\x02\\x03', b'\\x00\\x03']
    """
    common, (indices, values) = split(data, Split(1, "runs"))
    row = np.flatnonzero(np.frombuffer(data, np.uint8) != common) // length
    rows = -(-len(data) // length)
    sizes = np.abs((np.frombuffer(values, np.uint8) - np.uint8(common)).view(np.int8).astype(np.int64))
    mean = np.bincount(row, sizes, rows) / np.maximum(np.bincount(row, minlength=rows), 1)
    classes = np.empty(rows, np.uint8)
    classes[np.argsort(mean, kind="stable")] = np.arange(rows) * ROW_CLASSES // rows
    parts = [np.frombuffer(values, np.uint8)[classes[row] == row_class].tobytes() for row_class in range(ROW_CLASSES)]
    return common + length * 2**32, [indices, classes.tobytes(), *parts]


def join(read: Callable[[int], bytes], form: Split, *, size: int, common: int) -> bytes:
    """Join the streams of `split` or `split_rows`.

    Args:
        read: Returns the next stream; takes the largest number of bytes that it may have.
        form: The way in which the entries were split.
        size: Bytes of all entries.
        common: The number that `split` or `split_rows` returned before the streams.

    Returns:
        The entries.

    Raises:
        ValueError: If the streams do not fit each other, the form or the size.
    """
    count, rest = divmod(size, form.width)
    if rest:
        raise ValueError(f"{size:,} bytes are not a whole number of entries of {form.width} bytes.")
    if form.kind == "plain":
        return _entries(read, count, form.width).tobytes()
    if form.kind == "steps":
        steps = _entries(read, count, form.width)
        return np.cumsum(steps, dtype=steps.dtype).tobytes()
    if form.kind == "folded":
        folded = _entries(read, count, form.width)
        return (folded >> 1 ^ -(folded & 1)).tobytes()
    if form.kind == "rows":
        return _join_rows(read, count, *divmod(common, 2**32))
    indices = _marked(read, count) if form.kind == "mask" else _after_runs(read, count)
    if common >= 256**form.width:
        raise ValueError(f"the common entry {common} does not fit {form.width} bytes.")
    entries = np.full(count, common, f"<u{form.width}")
    entries[indices] = _entries(read, len(indices), form.width)
    return entries.tobytes()


def _join_rows(read: Callable[[int], bytes], count: int, length: int, common: int) -> bytes:
    if not length or common > 255:
        raise ValueError(f"rows of {length:,} entries around {common:,} do not exist.")
    indices = _after_runs(read, count)
    classes = np.frombuffer(_exactly(read, -(-count // length)), np.uint8)
    if classes.max(initial=0) >= ROW_CLASSES:
        raise ValueError(f"a row has the class {classes.max()}, which does not exist.")
    entries, class_of = np.full(count, common, np.uint8), classes[indices // length]
    for row_class in range(ROW_CLASSES):
        members = indices[class_of == row_class]
        entries[members] = np.frombuffer(_exactly(read, len(members)), np.uint8)
    return entries.tobytes()


def _planes(entries: np.ndarray) -> list[bytes]:
    table = entries.reshape(-1, 1).view(np.uint8)
    return [table[:, byte].tobytes() for byte in range(table.shape[1])]


def _entries(read: Callable[[int], bytes], count: int, width: int) -> np.ndarray:
    table = np.empty((count, width), np.uint8)
    for byte in range(width):
        table[:, byte] = np.frombuffer(_exactly(read, count), np.uint8)
    return table.view(f"<u{width}")[:, 0]


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    stream = read(count)
    if len(stream) != count:
        raise ValueError(f"a stream has {len(stream):,} bytes, not {count:,}.")
    return stream


def _runs(indices: np.ndarray) -> np.ndarray:
    """Return the number of common entries before each index; those after the last are not stored."""
    full, last = np.divmod(np.diff(indices, prepend=-1) - 1, LONGEST_RUN)
    runs = np.full(int(full.sum()) + len(indices), LONGEST_RUN, np.uint8)
    runs[np.cumsum(full + 1) - 1] = last
    return runs


def _after_runs(read: Callable[[int], bytes], count: int) -> np.ndarray:
    runs = np.frombuffer(read(count), np.uint8)
    ends = runs < LONGEST_RUN
    indices = np.cumsum(runs + ends, dtype=np.int64)[ends] - 1
    if len(indices) and indices[-1] >= count:
        raise ValueError(f"runs end at {indices[-1]:,} in {count:,} entries.")
    return indices


def _marked(read: Callable[[int], bytes], count: int) -> np.ndarray:
    mask = np.frombuffer(_exactly(read, (count + 7) // 8), np.uint8)
    return np.flatnonzero(np.unpackbits(mask, count=count))

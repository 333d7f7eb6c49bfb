"""Check that a flatbuffer is whole. Older interpreters crash on files that are cut short; newer ones refuse them."""

from __future__ import annotations

import struct
from typing import NamedTuple

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every TFLite file

# Where the parts of a .tflite lie: for each kind of table the slots that lead on, and to what. A number is a vector
# of entries with so many bytes, a name is a table, a list is a vector of tables, a dict is a table of the kind that
# the slot before it names by a number. Slots not named hold no parts, or parts that no interpreter needs.
Part = int | str | list[str] | dict[int, str]
PLACES: Part = {1: "int32s", 2: "uint16s", 3: "uint8s"}
LAYOUT: dict[str, dict[int, Part]] = {
    "model": {1: ["code"], 2: ["graph"], 3: 1, 4: ["buffer"], 5: 4, 6: ["metadata"], 7: ["signature"]},
    "code": {1: 1},
    "graph": {0: ["tensor"], 1: 4, 2: 4, 3: ["operator"], 4: 1},
    "tensor": {0: 4, 3: 1, 4: "quantization", 6: "sparsity", 7: 4},
    "quantization": {0: 4, 1: 4, 2: 4, 3: 8},
    "sparsity": {0: 4, 1: 4, 2: ["dimension"]},
    "dimension": {3: PLACES, 5: PLACES},
    "int32s": {0: 4},
    "uint16s": {0: 2},
    "uint8s": {0: 1},
    "operator": {1: 4, 2: 4, 4: "any", 5: 1, 7: 1, 8: 4},
    "buffer": {0: 1},
    "metadata": {0: 1},
    "signature": {0: ["endpoint"], 1: ["endpoint"], 2: 1},
    "endpoint": {0: 1},
    "any": {},
}


def check_structure(data: bytes | memoryview) -> None:
    """Refuse a TFLite flatbuffer of which a part lies outside its bytes.

    What the parts say is not checked: a file that passes can still be wrong.

    Args:
        data: The plain file.

    Raises:
        ValueError: If a table, a vector or a text goes beyond the end, or parts contain each other without end.
    """
    _Walk(data, smallest=len(data)).model()


class Vector(NamedTuple):
    """Where a vector lies in a file.

    Attributes:
        start: Its first byte.
        size: Bytes that it takes.
        row: Bytes of one entry of the first dimension, where it holds the values of a tensor; else all.
    """

    start: int
    size: int
    row: int


def long_vectors(data: bytes, *, smallest: int) -> list[Vector]:
    """Find where weights and other long vectors of a TFLite flatbuffer lie.

    Args:
        data: The plain file.
        smallest: Bytes that a vector needs to be listed, at least 1.

    Returns:
        The vectors in the order of the file. None overlaps another.

    Raises:
        ValueError: If the file is not whole, as `check_structure` has it.
    """
    walk = _Walk(data, smallest=smallest)
    walk.model()
    rows = {start: walk.rows.get(number, 1) for number, start in enumerate(walk.buffers)}
    vectors, end = [], 0
    for start, size in sorted(walk.vectors.items()):
        if start >= end:
            count = rows.get(start, 1)
            vectors.append(Vector(start, size, size if count < 1 or size % count else size // count))
            end = start + size
    return vectors


class _Walk:
    def __init__(self, data: bytes | memoryview, *, smallest: int) -> None:
        self.vectors: dict[int, int] = {}
        self.buffers: list[int] = []  # where the values of each begin; 0 without any
        self.rows: dict[int, int] = {}  # by number of the buffer: first dimension of its tensor
        self._data = data
        self._smallest = smallest
        self._left = len(data)  # a table takes at least four bytes, so a sound file has fewer
        self._room = len(data)  # vectors that together take more overlap: a file made to fill the list

    def model(self) -> None:
        try:
            self.table(_number("<I", self._data, 0), "model")
        except struct.error as error:
            raise ValueError("a part lies outside the file.") from error

    def table(self, start: int, kind: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("a part is used without end.")
        slots = start - _number("<i", self._data, start)
        size = _number("<H", self._data, slots)
        self._check_end(slots + size)
        self._check_end(start + _number("<H", self._data, slots + 2))

        def position(slot: int) -> int:
            entry = 4 + 2 * slot
            offset = _number("<H", self._data, slots + entry) if entry < size else 0
            return offset and start + offset

        if kind == "buffer":
            self.buffers.append(position(0) and self._vector(position(0)) + 4)
        if kind == "tensor" and position(0) and position(2):
            self._shape(self._vector(position(0)), _number("<I", self._data, position(2)))
        for slot, part in LAYOUT[kind].items():
            if isinstance(part, dict):
                named = position(slot - 1)
                part = part.get(_number("<B", self._data, named) if named else 0, "any")
            if position(slot):
                self._part(position(slot), part)

    def _vector(self, position: int) -> int:
        return position + _number("<I", self._data, position)

    def _shape(self, start: int, buffer: int) -> None:
        if _number("<I", self._data, start):  # scalars have no dimension
            self.rows[buffer] = _number("<i", self._data, start + 4)

    def _part(self, position: int, part: int | str | list[str]) -> None:
        start = self._vector(position)
        if isinstance(part, str):
            self.table(start, part)
            return
        length = _number("<I", self._data, start)
        width = part if isinstance(part, int) else 4
        self._check_end(start + 4 + length * width)
        if isinstance(part, list):
            for entry in range(start + 4, start + 4 + 4 * length, 4):
                self.table(entry + _number("<I", self._data, entry), part[0])
        elif self._smallest <= length * width <= self._room and start + 4 not in self.vectors:
            self.vectors[start + 4] = length * width
            self._room -= length * width

    def _check_end(self, end: int) -> None:
        if end > len(self._data):
            raise ValueError("a part goes beyond the end of the file.")


def _number(layout: str, data: bytes | memoryview, position: int) -> int:
    if position < 0:
        raise ValueError("a part begins before the file.")
    return struct.unpack_from(layout, data, position)[0]

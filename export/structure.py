"""Check that a flatbuffer is whole. Older interpreters crash on files that are cut short; newer ones refuse them."""

from __future__ import annotations

import struct

# Where the parts of a .tflite lie: for each kind of table the slots that lead on, and to what. A number is a vector
# of entries with so many bytes, a name is a table, a list is a vector of tables. Slots not named hold no parts, or
# parts that no interpreter needs.
LAYOUT: dict[str, dict[int, int | str | list[str]]] = {
    "model": {1: ["code"], 2: ["graph"], 3: 1, 4: ["buffer"], 5: 4, 6: ["metadata"], 7: ["signature"]},
    "code": {1: 1},
    "graph": {0: ["tensor"], 1: 4, 2: 4, 3: ["operator"], 4: 1},
    "tensor": {0: 4, 3: 1, 4: "quantization", 6: "sparsity", 7: 4},
    "quantization": {0: 4, 1: 4, 2: 4, 3: 8},
    "sparsity": {0: 4, 1: 4, 2: ["dimension"]},
    "dimension": {3: "any", 5: "any"},
    "operator": {1: 4, 2: 4, 4: "any", 5: 1, 7: 1, 8: 4},
    "buffer": {0: 1},
    "metadata": {0: 1},
    "signature": {0: ["endpoint"], 1: ["endpoint"], 2: 1},
    "endpoint": {0: 1},
    "any": {},
}


def check_whole(data: bytes) -> None:
    """Refuse a TFLite flatbuffer of which a part lies outside its bytes.

    What the parts say is not checked: a file that passes can still be wrong.

    Args:
        data: The plain file.

    Raises:
        ValueError: If a table, a vector or a text goes beyond the end, or parts contain each other without end.
    """
    try:
        _Walk(data).table(_number("<I", data, 0), "model")
    except struct.error as error:
        raise ValueError("a part lies outside the file") from error


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = len(data)  # a table takes at least four bytes, so a sound file has fewer

    def table(self, start: int, kind: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("a part is used without end")
        slots = start - _number("<i", self._data, start)
        size = _number("<H", self._data, slots)
        self._check_end(slots + size)
        self._check_end(start + _number("<H", self._data, slots + 2))
        for slot, part in LAYOUT[kind].items():
            entry = 4 + 2 * slot
            offset = _number("<H", self._data, slots + entry) if entry < size else 0
            if offset:
                self._part(start + offset, part)

    def _part(self, place: int, part: int | str | list[str]) -> None:
        start = place + _number("<I", self._data, place)
        if isinstance(part, str):
            self.table(start, part)
            return
        length = _number("<I", self._data, start)
        width = part if isinstance(part, int) else 4
        self._check_end(start + 4 + length * width)
        if isinstance(part, list):
            for entry in range(start + 4, start + 4 + 4 * length, 4):
                self.table(entry + _number("<I", self._data, entry), part[0])

    def _check_end(self, end: int) -> None:
        if end > len(self._data):
            raise ValueError("a part goes beyond the end of the file")


def _number(layout: str, data: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("a part begins before the file")
    return struct.unpack_from(layout, data, place)[0]

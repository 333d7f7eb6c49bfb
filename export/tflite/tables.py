"""Read single numbers out of a flatbuffer that is known to be whole, without its schema."""

from __future__ import annotations

import struct

import numpy as np


class Table:
    """A table of a flatbuffer that is known to be whole; slots are numbered as the format's schema lists them."""

    @classmethod
    def model(cls, data: bytes) -> Table:
        """Return the table in which all others lie."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._slots = start - struct.unpack_from("<i", data, start)[0]
        self._size = struct.unpack_from("<H", data, self._slots)[0]

    def number(self, slot: int, layout: str) -> int:
        place = self._place(slot)
        return struct.unpack_from(layout, self._data, place)[0] if place else 0

    def table(self, slot: int) -> Table | None:
        place = self._place(slot)
        return Table(self._data, self._follow(place)) if place else None

    def tables(self, slot: int) -> list[Table]:
        place = self._place(slot)
        if not place:
            return []
        places, first = self.vector(slot, "<u4"), self._follow(place) + 4
        return [Table(self._data, first + 4 * entry + int(offset)) for entry, offset in enumerate(places)]

    def vector(self, slot: int, dtype: str) -> np.ndarray:
        place = self._place(slot)
        if not place:
            return np.zeros(0, dtype)
        start = self._follow(place)
        return np.frombuffer(self._data, dtype, struct.unpack_from("<I", self._data, start)[0], start + 4)

    def _follow(self, place: int) -> int:
        return place + struct.unpack_from("<I", self._data, place)[0]

    def _place(self, slot: int) -> int:
        entry = 4 + 2 * slot
        offset = struct.unpack_from("<H", self._data, self._slots + entry)[0] if entry < self._size else 0
        return offset and self._start + offset

"""Read single numbers out of a flatbuffer that is known to be whole, without its schema."""

from __future__ import annotations

import struct

import numpy as np


class FlatbufferTable:
    """A table of a flatbuffer that is known to be whole; slots are numbered as the format's schema lists them."""

    @classmethod
    def root(cls, data: bytes | memoryview) -> FlatbufferTable:
        """Return the table in which all others lie."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def __init__(self, data: bytes | memoryview, start: int) -> None:
        self._data, self._start = data, start
        self._slots = start - struct.unpack_from("<i", data, start)[0]
        self._size = struct.unpack_from("<H", data, self._slots)[0]

    def number(self, slot: int, layout: str) -> int:
        position = self.position(slot)
        return struct.unpack_from(layout, self._data, position)[0] if position else 0

    def table(self, slot: int) -> FlatbufferTable | None:
        position = self.position(slot)
        return FlatbufferTable(self._data, self._follow(position)) if position else None

    def tables(self, slot: int) -> list[FlatbufferTable]:
        position = self.position(slot)
        if not position:
            return []
        offsets, first = self.vector(slot, "<u4"), self._follow(position) + 4
        return [FlatbufferTable(self._data, first + 4 * entry + int(offset)) for entry, offset in enumerate(offsets)]

    def vector(self, slot: int, dtype: str) -> np.ndarray:
        position = self.position(slot)
        if not position:
            return np.zeros(0, dtype)
        start = self._follow(position)
        return np.frombuffer(self._data, dtype, struct.unpack_from("<I", self._data, start)[0], start + 4)

    def _follow(self, position: int) -> int:
        return position + struct.unpack_from("<I", self._data, position)[0]

    def position(self, slot: int) -> int:
        """Return where a field lies; 0 if the table has none."""
        entry = 4 + 2 * slot
        offset = struct.unpack_from("<H", self._data, self._slots + entry)[0] if entry < self._size else 0
        return offset and self._start + offset

"""Classes that the format's schema generates, by their names, such as `schema.ModelT`; tables read without them.

This is the one module that imports them. They are loaded when the first is used, so that running a file needs nothing
but NumPy and an interpreter.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tfprune.report import install, shortened


class MissingPackage(ImportError, ValueError):  # noqa: N818 (said in words, not with a suffix)
    """No interpreter, or no reader of the file format, is installed."""


def require_schema() -> None:
    """Load the classes.

    Raises:
        MissingPackage: If ai-edge-litert, which brings them, is not installed.
    """
    _generated()


def _generated() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingPackage(
            "Expected ai-edge-litert, which knows the format of TFLite files. Received: it is not installed. "
            f"Run {install('device')}."
        ) from error
    return schema_py_generated


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_generated(), name)
    return value


# Read single numbers out of a flatbuffer that is known to be whole, without its schema.


_LONGEST_NAME = 80  # characters of a name in an error


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
        try:
            return np.frombuffer(self._data, dtype, struct.unpack_from("<I", self._data, start)[0], start + 4)
        except ValueError as error:
            raise IndexError("a list goes beyond the end of the file") from error

    def text(self, slot: int) -> str:
        """Return the beginning of a text."""
        return shortened(self.vector(slot, "u1").tobytes().decode(errors="replace"), _LONGEST_NAME)

    def _follow(self, position: int) -> int:
        return position + struct.unpack_from("<I", self._data, position)[0]

    def position(self, slot: int) -> int:
        """Return where a field lies; 0 if the table has none."""
        entry = 4 + 2 * slot
        offset = struct.unpack_from("<H", self._data, self._slots + entry)[0] if entry < self._size else 0
        return offset and self._start + offset

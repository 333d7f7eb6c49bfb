"""What TensorFlow Lite for Microcontrollers unpacks while it runs: the two constants that DECODE makes a weight from.

The operator `TFLM_DECODE` takes pairs. The encoded tensor holds one bit for each entry, 1 where a value is stored, or
an index into a table for each; the ancillary tensor holds a header of 16 bytes and then the values, or the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

OPERATOR = "TFLM_DECODE"
VERSION = 1  # of the header and of what each kind keeps in it
HEADER_BYTES = 16
TABLE, PRUNED = 0, 2  # kinds; 1 are Huffman codes, others are for applications
NO_TABLE_AXIS = 15  # where a table is for: an axis of the weight, with a table for each index along it, or all of it
MAX_INDEX_BITS = 7  # bits of an index into a table
TYPES = ("int8", "int16", "int32", "int64", "float32", "bool")


@dataclass(frozen=True, eq=False)
class DecodeConstants:
    """A weight as DECODE takes it.

    Attributes:
        kind: `"pruned"` or `"table"`.
        bits: What stands for each entry, packed into bytes.
        ancillary: The header, and the values or the table.
    """

    kind: str
    bits: np.ndarray
    ancillary: np.ndarray

    @property
    def bytes(self) -> int:
        """What both constants take together."""
        return self.bits.nbytes + self.ancillary.nbytes


def encode_pruned(values: np.ndarray) -> DecodeConstants:
    """Leave out the entries whose bits are all 0: zeros, but not the -0.0 of floats, which may give another sign."""
    marks = _raw(values) != 0
    return DecodeConstants(
        "pruned", np.packbits(marks), _with_header(PRUNED, values.ravel()[marks], bytes([VERSION]))
    )


def encode_table(values: np.ndarray) -> DecodeConstants | None:
    """Store an index of 1 to 7 bits for each entry, and the different values once; None if there are too many."""
    different, indices = np.unique(_raw(values), return_inverse=True)
    width = max(1, (len(different) - 1).bit_length())
    if width > MAX_INDEX_BITS:
        return None
    bits = np.unpackbits(indices.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - width :]
    # Runtimes from before there was an axis walk over tables, one for each channel, and step by 0 stays at the first.
    header = bytes([VERSION, NO_TABLE_AXIS << 4 | width, 0])
    return DecodeConstants("table", np.packbits(bits), _with_header(TABLE, different.view(values.dtype), header))


def decode_weight(
    encoded: np.ndarray, ancillary: np.ndarray, *, dtype: str, shape: tuple[int, ...], zeros: np.ndarray
) -> tuple[np.ndarray, int] | None:
    """Return the flat entries of a weight, and how many bytes of the two constants are values.

    Args:
        encoded: The bytes of the first constant.
        ancillary: Those of the second.
        dtype: Type of the weight.
        shape: Its shape.
        zeros: What stands for the entries that are left out: an array that broadcasts to the shape.

    Returns:
        None for a kind that only an application, or only some processors, can read.

    Raises:
        ValueError: If header, bits and values do not fit each other.
    """
    if len(ancillary) < HEADER_BYTES or ancillary[1] != VERSION:
        raise ValueError("a constant of DECODE has no header of a version that is known.")
    kind = int(ancillary[0])
    if kind not in (TABLE, PRUNED):
        return None
    if dtype not in TYPES or ancillary[4] != VERSION:
        raise ValueError(f"DECODE makes a tensor of type {dtype} from a header of version {ancillary[4]}.")
    width = int(ancillary[5]) & 0b111 if kind == TABLE else 1
    size = math.prod(shape)
    if not width or len(encoded) != math.ceil(size * width / 8):
        raise ValueError(f"DECODE makes {size:,} entries from {len(encoded):,} bytes of {width} bits each.")
    if (len(ancillary) - HEADER_BYTES) % np.dtype(dtype).itemsize:
        raise ValueError(f"values of type {dtype} take {len(ancillary) - HEADER_BYTES:,} bytes.")
    stored = np.frombuffer(ancillary.tobytes(), np.dtype(dtype).newbyteorder("<"), offset=HEADER_BYTES)
    bits = np.unpackbits(encoded, count=size * width).reshape(size, width)
    if kind == TABLE:
        return _looked_up(bits, stored, shape, int(ancillary[5]) >> 4, int(ancillary[6])), stored.nbytes
    marks = bits.ravel().astype(bool)
    if np.count_nonzero(marks) != len(stored):
        raise ValueError(f"a mask of DECODE marks {np.count_nonzero(marks):,} entries for {len(stored):,} values.")
    entries = np.broadcast_to(zeros.astype(stored.dtype), shape).ravel()
    entries[marks] = stored
    return entries, stored.nbytes


def _looked_up(bits: np.ndarray, table: np.ndarray, shape: tuple[int, ...], axis: int, step: int) -> np.ndarray:
    indices = bits @ (1 << np.arange(bits.shape[1])[::-1])
    if axis != NO_TABLE_AXIS:
        if axis not in (0, len(shape) - 1):
            raise ValueError(f"tables of DECODE for axis {axis} of a tensor of shape {shape}.")
        along = [1] * len(shape)
        along[axis] = shape[axis]
        indices = (indices.reshape(shape) + step * np.arange(shape[axis]).reshape(along)).ravel()
    if indices.max(initial=-1) >= len(table):
        raise ValueError(f"an index of DECODE lies behind a table of {len(table):,} values.")
    return table[indices]


def _with_header(kind: int, values: np.ndarray, fields: bytes) -> np.ndarray:
    header = (bytes([kind, VERSION, 0, 0]) + fields).ljust(HEADER_BYTES, b"\0")
    return np.frombuffer(header + np.ascontiguousarray(values).tobytes(), np.uint8)


def _raw(values: np.ndarray) -> np.ndarray:
    """Return the flat entries as integers of their width, which tell every two of them apart."""
    return np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")

"""Masks as bytes: one bit for each entry, compressed, with their shapes and a hash."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.base.coders import compress, expand
from tfprune.methods.federated.arrays import Masks, check_masks

MAGIC, VERSION = b"TFM", 1
HEAD = struct.Struct("<3sB8sH")  # magic, version, hash of what follows, number of arrays
PACKED = struct.Struct("<BI")  # coder, number of bytes
NO_MASK = 255  # in place of the number of dimensions
MOST_ENTRIES = 2**33  # a gigabyte of bits


def pack_masks(masks: Sequence[Any]) -> bytes:
    """Pack masks, bit for bit: the same masks always give the same bytes.

    Args:
        masks: Arrays of booleans of any size, None for an array of which all entries are kept.

    Returns:
        Bytes with a version, the shapes, and a hash.

    Raises:
        TypeError: If `masks` is not a list of masks.
        ValueError: If a mask holds something other than 0 and 1.

    Example:
        >>> packed = pack_masks([np.array([[1, 0, 1]]), None])
        >>> len(packed), unpack_masks(packed)
        (30, [array([[ True, False,  True]]), None])
    """
    checked = check_masks(masks, "masks")
    shapes = b"".join(
        bytes([NO_MASK]) if mask is None else struct.pack(f"<B{mask.ndim}I", mask.ndim, *mask.shape)
        for mask in checked
    )
    coder, bits = compress(_bits(checked))
    body = shapes + PACKED.pack(coder, len(bits)) + bits
    return HEAD.pack(MAGIC, VERSION, _hash(body), len(checked)) + body


def unpack_masks(source: bytes, *, like: Sequence[np.ndarray] | None = None) -> Masks:
    """Return the masks that `pack_masks` packed.

    Args:
        source: The packed masks.
        like: Arrays with the shapes that the masks must have, so that a malicious header cannot demand memory. None
            (the default) accepts any shapes.

    Raises:
        TypeError: If `source` is not bytes.
        ValueError: If they are not packed masks, of another version, damaged, cut short, or of other shapes.

    Example:
        >>> unpack_masks(b"weights")
        Traceback (most recent call last):
        ValueError: Expected packed masks. Received: 7 bytes that begin with b'wei'. Pack them by pack_masks.
    """
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise TypeError(f"Expected `source` to be bytes. Received: {type(source).__name__}.")
    data = bytes(source)
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise ValueError(
            f"Expected packed masks. Received: {len(data)} bytes that begin with {data[:3]!r}. Pack them by "
            f"pack_masks."
        )
    _, version, digest, count = HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(
            f"Expected packed masks of version {VERSION}. Received: {version}. Install the same tfprune."
        )
    if _hash(data[HEAD.size :]) != digest:
        raise ValueError("Expected whole packed masks. Received: bytes that are damaged. Send them again.")
    try:
        return _masks(data[HEAD.size :], count, like=like)
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"Expected whole packed masks. Received: damaged ones ({error}).") from error


def layout_of(arrays: Sequence[np.ndarray], masks: Masks) -> bytes:
    """Return a hash of 8 bytes of shapes, dtypes and masks: which entries of which arrays are sent."""
    names = ";".join(
        f"{array.dtype.str[1:]}{array.shape}{'' if mask is None else '*'}"
        for array, mask in zip(arrays, masks, strict=True)
    )
    return _hash(names.encode() + b"\0" + _bits(masks))


def _bits(masks: Masks) -> bytes:
    flat = [mask.ravel() for mask in masks if mask is not None]
    return np.packbits(np.concatenate(flat)).tobytes() if flat else b""


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _masks(body: bytes, count: int, *, like: Sequence[np.ndarray] | None) -> Masks:
    shapes, at = _shapes_in(body, count)
    if like is not None and not _fit(shapes, like):
        raise ValueError("their shapes are those of another model")
    coder, length = PACKED.unpack_from(body, at)
    sizes = [0 if shape is None else int(np.prod(shape, dtype=object)) for shape in shapes]
    total = sum(sizes)
    if total > MOST_ENTRIES or at + PACKED.size + length != len(body):
        raise ValueError("their sizes do not fit")
    bits = expand(body[at + PACKED.size :], coder, limit=(total + 7) // 8)
    if len(bits) != (total + 7) // 8:
        raise ValueError("too few bits")
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=total).astype(bool)
    parts = np.split(flat, np.cumsum(sizes))  # and an empty one after the last
    return [None if shape is None else part.reshape(shape) for part, shape in zip(parts, shapes, strict=False)]


def _shapes_in(body: bytes, count: int) -> tuple[list[tuple[int, ...] | None], int]:
    """Return the shapes at the head of packed masks, None for an array without a mask, and where they end."""
    at, shapes = 0, []
    for _ in range(count):
        rank = body[at]
        shapes.append(None if rank == NO_MASK else struct.unpack_from(f"<{rank}I", body, at + 1))
        at += 1 + (0 if rank == NO_MASK else 4 * rank)
    return shapes, at


def _fit(shapes: Sequence[tuple[int, ...] | None], like: Sequence[np.ndarray]) -> bool:
    return len(shapes) == len(like) and all(
        shape is None or shape == array.shape for shape, array in zip(shapes, like, strict=True)
    )

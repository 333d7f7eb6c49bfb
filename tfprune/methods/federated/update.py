"""Updates between server and client: the entries under a mask, packed by the coders of the library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.coders import compress, expand
from tfprune.base.spec import check_count
from tfprune.base.streams import SPLITS, Split, join, split
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_masks, count_unmasked, kept_entries
from tfprune.methods.federated.packed_masks import layout_of, pack_masks, unpack_masks

MAGIC, VERSION = b"TFU", 2
HEAD = struct.Struct("<3sBI8sII")  # magic, version, round, layout, checksum of all the rest, bytes of packed masks
STREAM = struct.Struct("<BI")  # coder, number of bytes
PLANES = {width: Split(width, "plain") for width in (1, 2, 4)}
assert set(PLANES.values()) <= set(SPLITS)


@dataclass(frozen=True, eq=False)
class Update:
    """Weights under masks, from a client to the server or back.

    Use it if you exchange updates without Flower; `MaskedFedAvg` and `MaskedClient` do so for you.

    Args:
        weights: The arrays of the model.
        masks: A mask for each array, or None for an array with all entries. None instead of the list keeps all
            entries of all arrays.
        round: The round of the update, counted from 1, so that late answers are recognized. Default 0.

    Raises:
        TypeError: If `weights` or `masks` is not a list of arrays, or `round` is not an integer.
        ValueError: If numbers or shapes differ, or a mask holds something other than 0 and 1.

    Example:
        >>> weights, masks = [np.arange(8, dtype="float32")], [np.arange(8) % 2 == 0]
        >>> update = Update(weights, masks, round=3)
        >>> data = update.encode()
        >>> back = Update.decode(data, like=weights)
        >>> back.round, back.weights[0].tolist()
        (3, [0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 6.0, 0.0])

        A receiver that knows the masks needs the entries alone.

        >>> short = update.encode(known_masks=masks)
        >>> Update.decode(short, like=weights, known_masks=masks).weights[0].tolist() == back.weights[0].tolist()
        True
        >>> len(short) < len(data)
        True
    """

    weights: Sequence[Any]
    masks: Sequence[Any] | None
    round: int = 0

    def __post_init__(self) -> None:
        arrays = check_arrays(self.weights, "weights")
        object.__setattr__(self, "weights", arrays)
        object.__setattr__(self, "masks", check_masks(self.masks, "masks", like=arrays))
        check_count(self.round, "round", least=0, most=2**32 - 1)

    @property
    def layout(self) -> bytes:
        """A hash of the shapes and dtypes of the weights and of the masks."""
        return layout_of(self.weights, self._keep)

    @property
    def _keep(self) -> Masks:
        assert self.masks is not None
        return list(self.masks)

    def encode(self, *, known_masks: Sequence[Any] | None = None) -> bytes:
        """Pack the entries that the masks keep, without loss, and the masks themselves.

        Args:
            known_masks: The masks that the receiver has. If they equal the masks of this update, a hash of 8 bytes is
                sent instead of the masks. None (the default) always sends the masks.

        Returns:
            The bytes to send: header, masks and entries.
        """
        has_masks = layout_of(self.weights, check_masks(known_masks, "known_masks", like=self.weights)) == self.layout
        masks = b"" if has_masks else pack_masks(self._keep)
        body = masks + b"".join(_packed(self.weights, self._keep))
        checksum = _checksum(VERSION, self.round, self.layout, len(masks), body)
        return HEAD.pack(MAGIC, VERSION, self.round, self.layout, checksum, len(masks)) + body

    @staticmethod
    def decode(source: bytes, *, like: Sequence[Any], known_masks: Sequence[Any] | None = None) -> Update:
        """Unpack an update that `encode` packed.

        Args:
            source: The bytes.
            like: Arrays with the shapes and dtypes of the model; their values do not matter.
            known_masks: The masks that the receiver has, for an update that was sent without them. Default None.

        Returns:
            An update whose weights are 0 where its masks are.

        Raises:
            TypeError: If `source` is not bytes, or `like` is not a list of arrays.
            ValueError: If the bytes are not an update, of another version, damaged, of a model of other shapes, or
                under masks that are not known.
        """
        arrays = check_arrays(like, "like")
        round_, layout, packed, entries = _read_header(source)
        keep = check_masks(unpack_masks(packed, like=arrays) if packed else known_masks, "known_masks", like=arrays)
        if layout_of(arrays, keep) != layout:
            raise ValueError(
                "Expected an update of this model under the masks that both sides know. Received: one of other "
                "shapes or dtypes, or under other masks. Send it with its masks."
            )
        try:
            return Update(_unpacked(entries, arrays, keep), keep, round_)
        except (struct.error, ValueError) as error:
            raise ValueError(f"Expected a whole update. Received: a damaged one ({error}).") from error


def _read_header(source: Any) -> tuple[int, bytes, bytes, bytes]:
    """Return the round, the layout, the packed masks and the packed entries of an update."""
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise TypeError(f"Expected `source` to be bytes. Received: {type(source).__name__}.")
    data = bytes(source)
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise ValueError(f"Expected an update. Received: {len(data)} bytes that begin with {data[:3]!r}.")
    _, version, round_, layout, checksum, length = HEAD.unpack_from(data)
    if version not in (1, VERSION):
        raise ValueError(
            f"Expected an update of version 1 or {VERSION}. Received: {version}. Install the same tfprune."
        )
    body = data[HEAD.size :]
    if _checksum(version, round_, layout, length, body) != checksum or length > len(body):
        raise ValueError("Expected a whole update. Received: bytes that are damaged or cut short. Send them again.")
    return round_, layout, body[:length], body[length:]


def _checksum(version: int, round_: int, layout: bytes, length: int, body: bytes) -> int:
    """Return the checksum of an update; version 1 left the header out, so that nothing noticed another round."""
    start = b"" if version == 1 else HEAD.pack(MAGIC, version, round_, layout, 0, length)
    return zlib.crc32(body, zlib.crc32(start))


def layout_in(data: bytes) -> bytes:
    """Return the layout in the header of an update.

    Raises:
        TypeError, ValueError: As `Update.decode` does.
    """
    return _read_header(data)[1]


def _by_dtype(arrays: Sequence[np.ndarray]) -> dict[np.dtype, list[int]]:
    indices: dict[np.dtype, list[int]] = {}
    for index, array in enumerate(arrays):
        indices.setdefault(array.dtype, []).append(index)
    return indices


def _packed(arrays: Arrays | Sequence[Any], masks: Masks) -> list[bytes]:
    """Return the entries of all arrays of a dtype together, split into streams of like bytes."""
    parts = []
    for dtype, indices in _by_dtype(arrays).items():
        entries = np.concatenate([kept_entries(arrays[index], masks[index]) for index in indices])
        data = entries.astype(dtype.newbyteorder("<")).tobytes()
        for stream in split(data, _form(dtype))[1]:
            coder, packed = compress(stream)
            parts += [STREAM.pack(coder, len(packed)), packed]
    return parts


def _form(dtype: np.dtype) -> Split:
    return PLANES[min(dtype.itemsize, 4)]  # entries of 8 bytes are two of 4


def _unpacked(data: bytes, like: Arrays, masks: Masks) -> Arrays:
    at, arrays = 0, [np.zeros(array.shape, array.dtype) for array in like]

    def read(limit: int) -> bytes:
        nonlocal at
        coder, length = STREAM.unpack_from(data, at)
        start = at + STREAM.size
        at = start + length
        if at > len(data):
            raise ValueError("a stream is cut short")
        return expand(data[start:at], coder, limit=limit)

    for dtype, indices in _by_dtype(like).items():
        sizes = [count_unmasked([like[index]], [masks[index]]) for index in indices]
        content = join(read, _form(dtype), size=sum(sizes) * dtype.itemsize, common=0)
        entries = np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)
        for index, part in zip(indices, np.split(entries, np.cumsum(sizes)[:-1]), strict=True):
            mask = masks[index]
            arrays[index][... if mask is None else mask] = part.reshape(like[index].shape) if mask is None else part
    if at != len(data):
        raise ValueError("it goes on after its end")
    return arrays

"""Pack one stream of bytes with the standard library, by the coder that makes it smallest."""

from __future__ import annotations

import lzma
import zlib
from typing import Any

STORED, DEFLATE, LZMA, FAR_LZMA = range(4)  # numbers in the format: new ones come last
RAW_DEFLATE = -15  # wbits of zlib without header and checksum, which the container has
# Almost random streams have no repeats worth a search: codes of single bytes come within 1 % of the entropy.
FAST_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)
DICTIONARY_BYTES = {LZMA: 2**22, FAR_LZMA: 2**26}  # the memory that unpacking needs
# LZMA models all bytes alike, or bytes by their position in entries of four bytes, such as floats.
CONTEXTS = ({"lc": 0, "lp": 0, "pb": 0}, {"lc": 2, "lp": 2, "pb": 2})
XZ_CONTEXT = {"lc": 3, "lp": 0, "pb": 2}
SAMPLE_BYTES = 2**14  # to compare coders before a slow one gets a long stream
SAMPLE_SLICES = 4


def compress(data: bytes) -> tuple[int, bytes]:
    """Pack a stream, or leave it as it is if no coder makes it smaller.

    Args:
        data: The stream.

    Returns:
        The coder's number and the packed bytes. The same bytes give the same result with the same zlib and liblzma.

    Example:
        >>> coder, packed = compress(bytes(1000))
        >>> expand(packed, coder, limit=1000) == bytes(1000)
        True
    """
    quick, contexts = compress_quickly(data), [*CONTEXTS]
    if len(data) > 2 * SAMPLE_BYTES:
        sample = _sample(data)
        sizes = [len(_lzma(sample, context)) for context in CONTEXTS]
        if min(sizes) >= len(compress_quickly(sample)[1]):
            return quick
        contexts = [CONTEXTS[sizes.index(min(sizes))]]
    return min(quick, *((LZMA, _lzma(data, context)) for context in contexts), key=_size)


def compress_whole(data: bytes) -> tuple[int, bytes]:
    """Pack a file as gzip and xz do at their strongest, without their headers: the smaller of both."""
    coder = LZMA if len(data) <= DICTIONARY_BYTES[LZMA] else FAR_LZMA
    ways = [(DEFLATE, _deflate(data, zlib.Z_DEFAULT_STRATEGY)), (coder, _lzma(data, XZ_CONTEXT, coder))]
    return min([(STORED, data), *ways], key=_size)


def compress_quickly(data: bytes) -> tuple[int, bytes]:
    """Pack a stream as `compress` does, without a search for repeats: megabytes in a tenth of a second."""
    return min([(STORED, data), *((DEFLATE, _deflate(data, strategy)) for strategy in FAST_STRATEGIES)], key=_size)


def _size(entry: tuple[int, bytes]) -> int:
    return len(entry[1])


def _deflate(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, zlib.DEF_MEM_LEVEL + 1, strategy)
    return packer.compress(data) + packer.flush()


def _lzma(data: bytes, context: dict[str, int], coder: int = LZMA) -> bytes:
    size = min(max(len(data), 2**12), DICTIONARY_BYTES[coder])
    settings = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size, **context}
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=[settings])


def _sample(data: bytes) -> bytes:
    step, size = len(data) // SAMPLE_SLICES // 4 * 4, SAMPLE_BYTES // SAMPLE_SLICES  # whole entries of four bytes
    return b"".join(data[start : start + size] for start in range(0, step * SAMPLE_SLICES, step))


def expand(packed: bytes | memoryview, coder: int, *, limit: int) -> bytes:
    """Unpack a stream, with memory for no more than its limit.

    Args:
        packed: The packed bytes, exactly.
        coder: The number of the coder.
        limit: The largest number of bytes of the stream.

    Returns:
        The stream.

    Raises:
        ValueError: If the stream is damaged or cut short, holds more than `limit` bytes, or has an unknown coder.
    """
    if coder == STORED:
        whole, data = True, bytes(packed)
    elif coder in (DEFLATE, LZMA, FAR_LZMA):
        whole, data = _expand(_decompressor(coder), packed, limit)
    else:
        raise ValueError(f"a stream has the coder {coder}, which does not exist.")
    if len(data) > limit:
        raise ValueError(f"a stream holds more than its {limit:,} bytes.")
    if not whole:
        raise ValueError("a stream is cut short, or goes on after its end.")
    return data


def _decompressor(coder: int) -> Any:
    if coder == DEFLATE:
        return zlib.decompressobj(RAW_DEFLATE)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY_BYTES[coder]}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def _expand(decompressor: Any, packed: bytes | memoryview, limit: int) -> tuple[bool, bytes]:
    try:
        data = decompressor.decompress(packed, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"a stream is damaged ({error}).") from error
    return decompressor.eof and not decompressor.unused_data, data

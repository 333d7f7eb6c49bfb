"""Vectors of floats that are a number times another vector, such as the scales of the biases in an integer file.

A bias is held in steps of (scale of the input) x (scale of the weight), channel by channel, so that its scales need
not be stored beside those of the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

Buffer = bytes | memoryview
TRIED = 3  # vectors of a group that are tried as the reference of the others
TINY = np.finfo(np.float32).tiny  # smaller products are not the same on every processor


def scaled(reference: Buffer, factor: int) -> bytes:
    """Multiply a vector of float32.

    Args:
        reference: The vector's bytes.
        factor: The number's bits.

    Returns:
        The product's bytes.

    Example:
        >>> scaled(np.float32([1, 2]).tobytes(), int(np.float32(3).view(np.uint32))) == np.float32([3, 6]).tobytes()
        True
    """
    number = np.uint32(factor).view(np.float32)
    with np.errstate(all="ignore"):
        return (np.frombuffer(reference, "<f4") * number).astype("<f4").tobytes()


def find_scaled(vectors: Sequence[Buffer]) -> dict[int, tuple[int, int]]:
    """Find vectors that are a number times another vector, to the bit.

    Args:
        vectors: Bytes of any kind.

    Returns:
        For the index of each such vector the index of its reference, which is not itself such a vector, and the
        bits of the number.
    """
    found: dict[int, tuple[int, int]] = {}
    for group in _groups(vectors):
        tried = [_from_reference(vectors, group, index) for index in group[:TRIED]]
        best = max(tried, key=len)
        found |= best
    return found


def _groups(vectors: Sequence[Buffer]) -> Iterator[list[int]]:
    """Yield the vectors that have their largest and smallest entries in common, as a factor leaves them."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, vector in enumerate(vectors):
        if len(vector) % 4 == 0:
            entries = np.abs(np.frombuffer(vector, "<f4"))
            if np.isfinite(entries).all() and entries.max(initial=0) >= TINY:
                key = (len(vector), int(entries.argmax()), int(entries.argmin()))
                groups.setdefault(key, []).append(index)
    yield from (group for group in groups.values() if len(group) > 1)


def _from_reference(vectors: Sequence[Buffer], group: list[int], reference: int) -> dict[int, tuple[int, int]]:
    factors = {index: _factor(vectors[reference], vectors[index]) for index in group if index != reference}
    return {index: (reference, factor) for index, factor in factors.items() if factor is not None}


def _factor(reference: Buffer, vector: Buffer) -> int | None:
    """Return the bits of the number that turns the reference into the vector, if there is such a number."""
    entries, wanted = np.frombuffer(reference, "<f4"), np.frombuffer(vector, "<f4")
    if (np.abs(wanted[wanted != 0]) < TINY).any():
        return None
    largest = np.abs(entries).argmax()
    with np.errstate(all="ignore"):
        guess = int((wanted[largest] / entries[largest]).view(np.uint32))
    # Both the product and the quotient are rounded, so the number may be two steps away.
    return next((bits for bits in range(max(guess - 2, 0), guess + 3) if scaled(reference, bits) == vector), None)

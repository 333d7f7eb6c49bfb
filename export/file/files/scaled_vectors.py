"""Vectors of floats that are a number times another vector, such as the scales of the biases in an integer file.

A bias is held in steps of (scale of the input) x (scale of the weight), channel by channel, so that its scales need
not be stored beside those of the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

Buffer = bytes | memoryview
REFERENCES_TRIED = 3  # vectors of a group that are tried as the reference of the others
SMALLEST_PRODUCT = np.finfo(np.float32).tiny  # smaller products are not the same on every processor
MAX_STEPS_FROM_PRODUCT = 127  # steps of float32 from a product: what a signed byte holds


class Scaled(NamedTuple):
    """How a vector follows from another one.

    Attributes:
        reference: The index of the other one.
        factor: The bits of the number.
        steps: How many steps of float32 each entry lies above the product, as signed bytes; empty if none does.
    """

    reference: int
    factor: int
    steps: bytes


def scaled(reference: Buffer, factor: int, *, steps: Buffer = b"") -> bytes:
    """Multiply a vector of float32.

    Args:
        reference: The vector's bytes.
        factor: The number's bits.
        steps: How many steps of float32 to go on from each product, as signed bytes; none if empty.

    Returns:
        The product's bytes.

    Raises:
        ValueError: If there are not as many steps as entries.

    Example:
        >>> scaled(np.float32([1, 2]).tobytes(), int(np.float32(3).view(np.uint32))) == np.float32([3, 6]).tobytes()
        True
    """
    product = _product(np.frombuffer(reference, "<f4"), factor)
    if len(steps) not in (0, len(product)):
        raise ValueError("a scaled piece has too few steps, or too many.")
    # As unsigned numbers they wrap around, whatever a file may claim.
    return (product.view("<u4") + np.frombuffer(steps or bytes(len(product)), np.int8).astype("<u4")).tobytes()


def _product(entries: np.ndarray, factor: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (entries * np.uint32(factor).view(np.float32)).astype("<f4")


def find_scaled(vectors: Sequence[Buffer]) -> dict[int, Scaled]:
    """Find vectors that are a number times another vector, but for the last bits of some entries.

    Args:
        vectors: Bytes of any kind.

    Returns:
        By the index of each such vector how it follows from its reference, which is not itself such a vector.
    """
    ways_by_index: dict[int, Scaled] = {}
    for group in _groups(vectors):
        tried = [_from_reference(vectors, group, index) for index in group[:REFERENCES_TRIED]]
        best: dict[int, Scaled] = max(
            tried, key=lambda ways: (len(ways), sum(not way.steps for way in ways.values()))
        )
        ways_by_index |= best
    return ways_by_index


def _groups(vectors: Sequence[Buffer]) -> Iterator[list[int]]:
    """Yield the vectors that have their largest and smallest entries in common, as a factor leaves them."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, vector in enumerate(vectors):
        if len(vector) % 4 == 0:
            entries = np.abs(np.frombuffer(vector, "<f4"))
            if np.isfinite(entries).all() and entries.max(initial=0) >= SMALLEST_PRODUCT:
                key = (len(vector), int(entries.argmax()), int(entries.argmin()))
                groups.setdefault(key, []).append(index)
    yield from (group for group in groups.values() if len(group) > 1)


def _from_reference(vectors: Sequence[Buffer], group: list[int], reference: int) -> dict[int, Scaled]:
    others = {index: _scaled(vectors, reference, index) for index in group if index != reference}
    return {index: way for index, way in others.items() if way is not None}


def _scaled(vectors: Sequence[Buffer], reference: int, index: int) -> Scaled | None:
    """Return how one vector follows from another; None if it does not."""
    entries, wanted = (np.frombuffer(vectors[place], "<f4") for place in (reference, index))
    if (np.abs(wanted[wanted != 0]) < SMALLEST_PRODUCT).any():
        return None
    largest = np.abs(entries).argmax()
    with np.errstate(all="ignore"):
        guess = int((wanted[largest] / entries[largest]).view(np.uint32))
    # Both the product and the quotient are rounded, so the number may be two steps away.
    factors = range(max(guess - 2, 0), guess + 3)
    steps = {bits: wanted.view("<i4").astype(np.int64) - _product(entries, bits).view("<i4") for bits in factors}
    bits = min(steps, key=lambda bits: int(np.abs(steps[bits]).sum()))
    if np.abs(steps[bits]).max() > MAX_STEPS_FROM_PRODUCT:
        return None
    return Scaled(reference, bits, steps[bits].astype(np.int8).tobytes() if steps[bits].any() else b"")

"""Bytes in which some bits are flipped, drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

FLIPS = st.lists(st.integers(0, 10**6), min_size=1, max_size=4)


def flipped(data: bytes, flips: list[int]) -> bytes:
    """Flip the bits of these numbers, modulo the length."""
    changed = bytearray(data)
    for flip in flips:
        changed[flip // 8 % len(data)] ^= 1 << flip % 8
    return bytes(changed)

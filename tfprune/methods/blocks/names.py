"""Names of the layers of blocks: where they hold the number of the block, a block gets that of its new place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tfprune.methods.blocks.find_blocks import Blocks

Named = Callable[[int], str]


def numbered_names(found: Blocks) -> list[Named | None]:
    """Return for each part of a block the function from place to name; None for one whose name has no number."""
    return [numbered([call.layer.name for call in calls]) for calls in zip(*map(_calls, found.blocks), strict=True)]


def _calls(block: object) -> Sequence:
    return block.calls  # type: ignore[attr-defined]


def numbered(names: Sequence[str]) -> Named | None:
    """Return the function from place to name of names that count the places; None if they do not.

    Example:
        >>> name_at = numbered(["block_1_norm2", "block_2_norm2"])
        >>> name_at(4)
        'block_5_norm2'
    """
    for digits in re.finditer(r"\d+", names[0]):
        before, after = names[0][: digits.start()], names[0][digits.end() :]
        width, first = len(digits[0]), int(digits[0])

        def name_at(place: int, *, around: tuple = (before, after), start: tuple = (first, width)) -> str:
            return f"{around[0]}{start[0] + place:0{start[1]}d}{around[1]}"

        if [name_at(place) for place in range(len(names))] == list(names):
            return name_at
    return None

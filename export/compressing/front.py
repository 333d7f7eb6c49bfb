"""The files that no other beats."""

from __future__ import annotations

from collections.abc import Iterable

from tfprune.export.compressing.measured import Tried


def front(tried: Iterable[Tried], *, max_drop: float, by: str) -> list[Tried]:
    """Return the files that lose at most `max_drop`, and that no other one beats in both size and accuracy.

    Args:
        tried: All files.
        max_drop: What a file may lose.
        by: The attribute that counts beside the drop, such as `"bytes"`.

    Returns:
        The smallest, or fastest, first.
    """
    found: list[Tried] = []
    for one in sorted(tried, key=lambda one: (getattr(one, by), one.drop)):
        if one.drop <= max_drop and (not found or one.drop < found[-1].drop):
            found.append(one)
    return found

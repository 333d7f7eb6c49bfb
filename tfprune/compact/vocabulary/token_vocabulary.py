"""A tokenizer's vocabulary as data: its tokens, which of them always remain, and how it is written with fewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Places that makers of tokenizers reserve: <unused12>, [unused3], <|reserved_special_token_7|>.
RESERVED = re.compile(r"[<\[]\|?(unused|reserved_special_token)[_-]?\d+\|?[>\]]")


@dataclass(frozen=True)
class TokenVocabulary:
    """The tokens of a tokenizer.

    Attributes:
        tokens: The token of each id, in order.
        fixed: The ids that always remain: special tokens, bytes, and what the tokenizer cannot do without.
        characters: The ids of single characters.
        unknown: The id for what cannot be written; -1 for none.
        spells_bytes: Whether a character without a token is written with tokens of bytes.
        parts: Called with a token; returns the tokens that the tokenizer merges on the way to it.
        arguments: Called with the ids that remain, in order; returns the arguments of the smaller tokenizer.
    """

    tokens: Sequence[str]
    fixed: frozenset[int]
    characters: frozenset[int]
    unknown: int
    spells_bytes: bool
    parts: Callable[[str], Iterable[str]]
    arguments: Callable[[Sequence[int]], dict[str, Any]]

    def with_parts(self, ids: Iterable[int]) -> set[int]:
        """Return ids with those of all tokens that they are merged of."""
        numbers = {token: number for number, token in enumerate(self.tokens)}
        closure = {*ids}
        for number in [*closure]:
            closure.update(numbers[part] for part in self.parts(self.tokens[number]) if part in numbers)
        return closure


def merged_parts(
    symbols: Sequence[str], rank: Callable[[str, str], float | None]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Merge the neighbors of the lowest rank, the first of equals, until none has a rank.

    Inside of a token, a tokenizer merges as it does on the token alone: no merge crosses the ends of a token.

    Args:
        symbols: What a token consists of at first.
        rank: Called with two neighbors; None if they are not merged.

    Returns:
        The symbols at the end, and the pairs that were merged.

    Example:
        >>> ranks = {("t", "h"): 0, ("th", "e"): 1}
        >>> merged_parts("the", lambda *pair: ranks.get(pair))
        (['the'], [('t', 'h'), ('th', 'e')])
    """
    pieces, merges = [*symbols], []
    while len(pieces) > 1:
        ranks = [(order, place) for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
                 if (order := rank(*pair)) is not None]  # fmt: skip
        if not ranks:
            break
        _, place = min(ranks)
        merges.append((pieces[place], pieces[place + 1]))
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces, merges

"""Report of `trim_vocabulary`: the tokens that remain, the bytes, and what texts cost in tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.report import Report, table


@dataclass(frozen=True)
class TextsRow(Report):
    """How texts are written in tokens, before and after.

    Attributes:
        texts: Which texts: "kept for", those that the vocabulary was trimmed to, or "checked on".
        characters: Their characters.
        tokens: Their tokens, before and after.
        unknown: The tokens among them that stand for unknown characters or words, before and after.
    """

    texts: str
    characters: int
    tokens: tuple[int, int]
    unknown: tuple[int, int]

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens for each character, before and after."""
        before, after = (count / max(self.characters, 1) for count in self.tokens)
        return before, after


@dataclass(frozen=True)
class VocabularyReport(Report):
    """A trimmed vocabulary.

    Attributes:
        tokens: The number of tokens that the model has rows for, before and after.
        parameters: The parameters of the model, before and after.
        bytes: The bytes of its weights, before and after.
        difference: The largest difference of an output, of the scores those of the remaining tokens; 0 means that
            they are equal bit for bit.
        rows: What the texts cost.
        kept: The ids that the remaining tokens had before, in their new order.
        tokenizer: The tokenizer with these tokens.

    Example:
        >>> row = TextsRow("kept for", characters=40, tokens=(10, 10), unknown=(0, 0))
        >>> report = VocabularyReport((50, 20), (800, 320), (3200, 1280), 0.0, (row,))
        >>> report.rows[0].rates
        (0.25, 0.25)
    """

    JSON_NAMES = ("tokens", "parameters", "bytes", "difference", "rows")

    tokens: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    difference: float
    rows: tuple[TextsRow, ...]
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False, compare=False)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        sizes = [
            [name, *(f"{value:,}" for value in pair)]
            for name, pair in (("tokens", self.tokens), ("parameters", self.parameters), ("bytes", self.bytes))
        ]
        lines = [
            [
                row.texts,
                f"{row.characters:,}",
                *(f"{rate:.3f}" for rate in row.rates),
                " to ".join(f"{count:,}" for count in row.unknown),
            ]
            for row in self.rows
        ]
        header = ["texts", "characters", "tokens per character", "after", "unknown"]
        outputs = "equal bit for bit" if self.difference == 0 else f"apart by up to {self.difference:.1e}"
        return "\n\n".join(
            [
                table(["vocabulary", "before", "after"], sizes),
                table(header, lines),
                f"The outputs for the remaining tokens are {outputs}.",
            ]
        )

"""Report of `narrow`: the width, the size, and how much of the residual stream remains."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tfprune.report import Report, table


@dataclass(frozen=True)
class NarrowReport(Report):
    """A model with a narrower residual stream.

    Attributes:
        hidden_dim: The width of the stream, before and after.
        parameters: The parameters of the model, before and after.
        bytes: The bytes of its weights, before and after.
        energy: The part of the squares of the stream that is in the remaining dimensions, on average over the norms
            and the samples.
        kept: The remaining hidden dimensions, as the whole model numbers them.
        importance: How large each dimension of the whole model is in the outputs of all norms.

    Example:
        >>> print(NarrowReport((16, 12), (5000, 3600), (20000, 14400), 0.83))
        model       before   after
        ----------  ------  ------
        hidden_dim      16      12
        parameters   5,000   3,600
        bytes       20,000  14,400
        <BLANKLINE>
        The remaining dimensions have 83 % of the squares of the residual stream.
    """

    JSON_NAMES = ("hidden_dim", "parameters", "bytes", "energy")

    hidden_dim: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    energy: float
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False, compare=False)
    importance: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def __str__(self) -> str:
        rows = [
            [name, *(f"{value:,}" for value in pair)]
            for name, pair in (
                ("hidden_dim", self.hidden_dim),
                ("parameters", self.parameters),
                ("bytes", self.bytes),
            )
        ]
        share = f"The remaining dimensions have {self.energy:.0%} of the squares of the residual stream."
        return f"{table(['model', 'before', 'after'], rows)}\n\n{share.replace('%', ' %')}"

"""Report of `experts.grow`, `experts.merge` and `experts.drop`: the number of experts, and the change of outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfprune.keras_models.copying.origins import Origins
from tfprune.keras_models.tracing.same_outputs import difference_in_words
from tfprune.report import Report, table


@dataclass(frozen=True)
class ExpertsRow(Report):
    """A layer with experts.

    Attributes:
        layer: Its path.
        experts: The number of its experts, before and after.
        top_k: The number of experts that are used for each input, before and after.
        nnz: The number of non-zero entries of the experts and the router, before and after.
    """

    layer: str
    experts: tuple[int, int]
    top_k: tuple[int, int]
    nnz: tuple[int, int]


@dataclass(frozen=True)
class ExpertsReport(Report):
    """The number of experts of a model, and whether it computes the same.

    Attributes:
        rows: A row for each layer with experts.
        groups: The experts that each new expert is made of; of the first layer, where layers differ.
        difference: The largest difference of an output, as a fraction of the largest output, on the data, or
            else on random numbers; None if it was not measured.
        samples: The number of samples of the data that it was measured on, 0 for random numbers.
        warning: Why the model does not compute the same although experts were only repeated; empty otherwise.
        origins: Where each weight of the new model comes from, for `carry_optimizer`.

    Example:
        >>> row = ExpertsRow("mixture", experts=(2, 4), top_k=(1, 2), nnz=(600, 1200))
        >>> report = ExpertsReport((row,), ((0,), (1,), (0,), (1,)), difference=0.0, samples=8)
        >>> report.copies, report.siblings, report.is_function_preserving
        ((2, 3), ((0, 2), (1, 3)), True)
    """

    JSON_NAMES = (
        *("rows", "groups", "copies", "siblings", "difference", "samples", "warning"),
        "is_function_preserving",
    )

    rows: tuple[ExpertsRow, ...]
    groups: tuple[tuple[int, ...], ...]
    difference: float | None
    samples: int
    warning: str = ""
    origins: Origins = field(default=(), repr=False)

    @property
    def copies(self) -> tuple[int, ...]:
        """The experts that are copies of earlier ones: `experts.drop` removes them again."""
        return tuple(index for index, group in enumerate(self.groups) if group in self.groups[:index])

    @property
    def siblings(self) -> tuple[tuple[int, ...], ...]:
        """The experts that are copies of the same one: `experts.merge` makes one of each group."""
        places: dict[tuple[int, ...], list[int]] = {}
        for index, group in enumerate(self.groups):
            places.setdefault(group, []).append(index)
        return tuple(map(tuple, places.values()))

    @property
    def is_function_preserving(self) -> bool | None:
        """Whether the outputs differ by no more than 1e-5; None if it was not measured."""
        return None if self.difference is None else self.difference <= 1e-5

    def __str__(self) -> str:
        lines = [
            [row.layer, *(f"{before:,} to {after:,}" for before, after in (row.experts, row.top_k, row.nnz))]
            for row in self.rows
        ]
        outputs = difference_in_words(self.difference, is_same=self.is_function_preserving, samples=self.samples)
        summary = f"{outputs} {self.warning}".rstrip()
        return table(["layer", "experts", "top k", "non-zeros"], lines) + f"\n\n{summary}"

"""Report of `experts.rank`: how much each layer of a mixture needs each of its experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfprune.base.spec import check_count
from tfprune.report import Report, table


@dataclass(frozen=True)
class RankedExpert(Report):
    """An expert and its importance.

    Attributes:
        layer: The path of its layer.
        expert: Its number, counted from 0.
        reap: The mean norm of what it adds to the output of its layer, gate included, over the tokens that use it.
        frequency: The share of the tokens that use it.
    """

    layer: str
    expert: int
    reap: float
    frequency: float


@dataclass(frozen=True)
class ExpertRanking(Report):
    """The experts of a model, ranked in each layer.

    Attributes:
        rows: A row for each expert of each layer.
        criterion: `"reap"` or `"frequency"`.

    Example:
        >>> rows = (RankedExpert("moe", 0, 0.5, 0.9), RankedExpert("moe", 1, 2.0, 0.1))
        >>> ExpertRanking(rows, "reap").lowest(1), ExpertRanking(rows, "frequency").lowest(1)
        ({'moe': (0,)}, {'moe': (1,)})
    """

    rows: tuple[RankedExpert, ...]
    criterion: str

    def lowest(self, count: int | Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the least important experts of each layer: `experts.drop(model, ranking.lowest(4))`.

        Args:
            count: How many of each layer, from 1 to all but one; or a dict with the number for each layer by its
                path.

        Raises:
            TypeError: If a number is not an integer.
            ValueError: If a layer has not more experts, or the dict names other layers.
        """
        experts = self.importances()
        if isinstance(count, Mapping):
            if count.keys() != experts.keys():
                raise ValueError(
                    f"Expected `count` for each of {', '.join(map(repr, experts))}. Received: "
                    f"{', '.join(map(repr, count)) or 'none'}. Name each layer of the ranking."
                )
            counts = dict(count)
        else:
            counts = dict.fromkeys(experts, count)
        for layer, number in counts.items():
            check_count(number, "count", least=1, most=len(experts[layer]) - 1)
        return {
            layer: tuple(sorted(sorted(values, key=values.__getitem__)[: counts[layer]]))
            for layer, values in experts.items()
        }

    def importances(self) -> dict[str, dict[int, float]]:
        """Return the importance of each expert by its number, for each layer by its path."""
        by_layer: dict[str, dict[int, float]] = {}
        for row in self.rows:
            figure = row.reap if self.criterion == "reap" else row.frequency
            by_layer.setdefault(row.layer, {})[row.expert] = figure
        return by_layer

    def __str__(self) -> str:
        lines = [[row.layer, row.expert, f"{row.reap:.4g}", f"{row.frequency:.3f}"] for row in self.rows]
        return table(["layer", "expert", "REAP", "frequency"], lines)

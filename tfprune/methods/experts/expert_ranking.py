"""Report of `rank_experts`: how much each layer of a mixture needs each of its experts."""

from __future__ import annotations

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

    def lowest(self, count: int) -> dict[str, tuple[int, ...]]:
        """Return the least important experts of each layer: `drop_experts(model, ranking.lowest(4))`.

        Args:
            count: How many of each layer, from 1 to all but one.

        Raises:
            ValueError: If a layer has not more experts.
        """
        experts: dict[str, list[RankedExpert]] = {}
        for row in self.rows:
            experts.setdefault(row.layer, []).append(row)
        check_count(count, "count", least=1, most=min(map(len, experts.values())) - 1)
        return {
            layer: tuple(sorted(row.expert for row in sorted(of_layer, key=self._importance)[:count]))
            for layer, of_layer in experts.items()
        }

    def _importance(self, row: RankedExpert) -> float:
        return row.reap if self.criterion == "reap" else row.frequency

    def __str__(self) -> str:
        lines = [[row.layer, row.expert, f"{row.reap:.4g}", f"{row.frequency:.3f}"] for row in self.rows]
        return table(["layer", "expert", "REAP", "frequency"], lines)

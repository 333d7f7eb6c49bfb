"""Limit: how much of a metric a smaller model or file may lose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tfprune.base.renamed import renamed
from tfprune.base.spec import check_choice, check_number


@renamed()
@dataclass(frozen=True)
class Limit:
    """How much worse than the model given a smaller model or file may be.

    Pass it as `max_drop=` where a number is not enough: the number alone bounds the default metric.

    Args:
        max_drop: The largest loss of the metric, in its unit, at least 0: 0.01 of an accuracy is one point. None (the
            default) sets no bound; the metric is then only reported.
        metric: The name of the metric. None (the default) takes the one that the function names.
        mode: `"max"` if a larger value is better, `"min"` if a smaller one is, as in Keras. None (the default) infers
            it for accuracies and losses.
        data: Labeled data for the metric, a tuple (x, y) or batches of such tuples, for a function without
            `validation_data`. Default None.
        max_drop_per_class: The largest loss of accuracy of each class, at least 0: the average may hide a class that
            lost much. None (the default) sets no bound. `tfprune.export.to_tflite` checks it; other functions
            refuse it.

    Raises:
        TypeError: If a drop is not a number, or `metric` or `mode` is not a string.
        ValueError: If a drop is negative or not finite, or `mode` is another string.

    Example:
        >>> Limit(0.01, metric="accuracy")
        Limit(max_drop=0.01, metric='accuracy', mode=None)
    """

    max_drop: float | None = None
    metric: str | None = None
    mode: str | None = None
    data: Any = field(default=None, compare=False, kw_only=True)
    max_drop_per_class: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("max_drop", "max_drop_per_class"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, least=0)
        if self.metric is not None and not isinstance(self.metric, str):
            raise TypeError(
                f"Expected `metric` to be the name of a metric, such as 'accuracy'. Received: metric={self.metric!r}."
            )
        if self.mode is not None:
            check_choice(self.mode, "mode", choices=("max", "min"))

    def __repr__(self) -> str:
        data = "" if self.data is None else ", data=..."  # arrays are too long to show
        drop = self.max_drop_per_class
        classes = "" if drop is None else f", max_drop_per_class={drop!r}"
        return f"Limit(max_drop={self.max_drop!r}, metric={self.metric!r}, mode={self.mode!r}{data}{classes})"


def as_limit(max_drop: float | Limit | None) -> Limit:
    """Return a limit for a number or None."""
    return max_drop if isinstance(max_drop, Limit) else Limit(max_drop)


def refuse_limit_per_class(limit: Limit) -> None:
    """Refuse a limit of each class where only the average is measured.

    Raises:
        ValueError: If it has one.
    """
    if limit.max_drop_per_class is not None:
        raise ValueError(
            f"Expected a Limit without `max_drop_per_class`, which only `tfprune.export.to_tflite` checks. Received: "
            f"max_drop={limit!r}. Compare the result with `tfprune.export.damage`."
        )

"""Measures the models of a run: one metric, as the first was compiled, and what each class and group lost."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfprune.base.limit import GroupDrop, GroupLimits, Limit, largest_drop
from tfprune.base.spec import check_drop
from tfprune.keras_models.models.compiled import compile_like, measured, mode_of, sign_of

DEFAULT_METRIC = "loss"
ADVICE = "Call plan_shrink, reconstruct and shrink yourself, and compile and train what they return"


class MetricGuard:
    """The metric of models on the same data.

    Args:
        model: The first model, compiled.
        arguments: The data, as arguments of `evaluate`.
        limit: The metric, its direction, and how much a model may lose against the first.
        labeled: Samples and labels, for limits of classes and groups; None if `limit` has none.

    Raises:
        ValueError: If the model does not report the metric, it is not known which direction is better and there is a
            `max_drop`, it is an accuracy and `max_drop` above 1, or the outputs are not scores of classes and there
            are limits of classes or groups.
    """

    def __init__(
        self,
        model: keras.Model,
        arguments: dict[str, Any],
        *,
        limit: Limit,
        labeled: tuple[Any, Any] | None = None,
    ) -> None:
        self.metric = metric = limit.metric if isinstance(limit.metric, str) else DEFAULT_METRIC
        check_drop(limit.max_drop, "max_drop", metric=metric)
        self._model, self._arguments = model, arguments
        is_known = limit.bounds_metric or limit.mode is not None or mode_of(metric)
        self._sign = sign_of(metric, limit.mode) if is_known else 0
        self.before = self(model)
        self.max_drop = largest_drop(limit, self.before)
        self._x: Any = None
        self._groups: GroupLimits | None = None
        if labeled is not None:
            self._x, y = labeled
            self._groups = GroupLimits.of(limit, model.predict(self._x, verbose=0), y)

    def __call__(self, model: keras.Model) -> float:
        copy = model if model.compiled else compile_like(model, self._model, advice=ADVICE, optimizer="sgd")
        return measured(copy, self.metric, arguments=self._arguments)

    def drop(self, value: float) -> float:
        """Return how much worse a value is than the first model's."""
        return self._sign * (self.before - value)

    def worst_group(self, model: keras.Model) -> GroupDrop | None:
        """Return the class or group that exceeds its limit most, or is nearest to it; None without such limits."""
        return None if self._groups is None else self._groups.worst(model.predict(self._x, verbose=0))

    def allows(self, value: float, worst_group: GroupDrop | None = None) -> bool:
        """Tell whether a value, and what the worst group lost, are good enough; NaN is not."""
        is_within = self.max_drop is None or self.drop(value) <= self.max_drop
        return is_within and (worst_group is None or worst_group.excess <= 0)

    def is_worse(self, value: float, than: float) -> bool:
        """Tell whether a value is worse than another, as NaN is; never if the better direction is not known."""
        return self._sign != 0 and not (math.isnan(than) or self._sign * (value - than) >= 0)

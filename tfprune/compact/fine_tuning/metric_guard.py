"""Measures the models of a run by one metric, as the first of them was compiled, and what they lost."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfprune.base.spec import check_number
from tfprune.keras_models.models.compiled import compile_like, measured, mode_of, sign_of

ADVICE = "Call plan_shrink, reconstruct and shrink yourself, and compile and train what they return"


class MetricGuard:
    """The metric of models on the same data.

    Args:
        model: The first model, compiled.
        metric: The name of the metric.
        arguments: The data, as arguments of `evaluate`.
        mode: "max" or "min", for a drop; None finds it out for accuracies and losses.
        max_drop: How much a model may lose against the first; None allows everything.

    Raises:
        TypeError: If `max_drop` is not a number.
        ValueError: If `max_drop` is negative, the model does not report the metric, or it is not known which
            direction is better and there is a `max_drop`.
    """

    def __init__(
        self, model: keras.Model, metric: str, arguments: dict[str, Any], *, mode: str | None, max_drop: float | None
    ) -> None:
        self._model, self.metric, self._arguments = model, metric, arguments
        is_known = max_drop is not None or mode is not None or (isinstance(metric, str) and mode_of(metric))
        self._sign = sign_of(metric, mode) if is_known else 0
        self.max_drop = None if max_drop is None else check_number(max_drop, "max_drop", least=0)
        self.before = self(model)

    def __call__(self, model: keras.Model) -> float:
        copy = model if model.compiled else compile_like(model, self._model, advice=ADVICE, optimizer="sgd")
        return measured(copy, self.metric, arguments=self._arguments)

    def drop(self, value: float) -> float:
        """Return how much worse a value is than the first model's."""
        return self._sign * (self.before - value)

    def allows(self, value: float) -> bool:
        """Tell whether a value is good enough; NaN is not."""
        return self.max_drop is None or self.drop(value) <= self.max_drop

    def is_worse(self, value: float, than: float) -> bool:
        """Tell whether a value is worse than another, as NaN is; never if the better direction is not known."""
        return self._sign != 0 and not (math.isnan(than) or self._sign * (value - than) >= 0)

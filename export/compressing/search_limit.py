"""What the files of a search may lose, as the user gave it, and what the original model has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.groups import read_groups
from tfprune.base.limit import GroupLimits, Limit, as_limit, largest_drop
from tfprune.base.run_folder import NamedArrays
from tfprune.base.spec import check_drop, check_number, is_accuracy
from tfprune.export.compressing.goal import DROP_NOISE, Goal
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.trials.file_evaluator import baseline_outputs
from tfprune.export.compressing.trials.file_metric import FileMetric
from tfprune.export.keras_side.converting.vela import Vela
from tfprune.export.micro.micro import Micro


@dataclass(frozen=True, eq=False)
class SearchLimit:
    """A limit of a search, and its metric.

    Attributes:
        limit: The limit.
        metric: What files are judged by.
    """

    limit: Limit
    metric: FileMetric

    @classmethod
    def of(cls, max_drop: Any, model: keras.Model) -> SearchLimit:
        """Read the argument of `compress`.

        Raises:
            ValueError: If it bounds nothing, allows any drop, has data, or its metric is not known.
        """
        limit = as_limit(max_drop)
        if limit.data is not None:
            raise ValueError(
                f"Expected a Limit without `data`: files are measured on `validation_data`. Received: "
                f"max_drop={limit!r}. Leave `data` out."
            )
        if not limit.bounds_metric:
            raise ValueError(
                f"Expected a number in `max_drop`, or a Limit with a number: the search needs a bound. Received: "
                f"max_drop={max_drop!r}. Pass 0.01, for example."
            )
        check_drop(limit.max_drop, "max_drop", metric="accuracy" if limit.metric is None else limit.metric)
        return cls(limit, FileMetric.of(limit, model))

    def settings(self) -> dict[str, Any]:
        """Return what tells this limit from another one, as values of JSON."""
        metric = {name: value for name, value in self.metric.settings().items() if value is not None}
        if isinstance(metric["metric"], str):
            del metric["mode"]  # it follows from the name
        return {**self.limit.drops, **self.limit.sizes, **metric}

    def arrays(self, y: Any) -> Iterator[np.ndarray]:
        """Yield the groups of samples, given the labels."""
        for group in read_groups(self.limit.groups, len(keras.tree.flatten(y)[0])):
            yield group.inside

    def baseline(self, model: keras.Model, data: tuple[Any, Any]) -> NamedArrays:
        """Return the metric of the original model, and its outputs if the loss of each class or group is limited.

        Raises:
            ValueError: If the labels do not fit, or a relative limit is one of 0.
        """
        x, y = data
        self._check_classes(y)
        outputs = baseline_outputs(model, x)
        GroupLimits.of(self.limit, outputs, y)  # refused before anything is stored
        score = self.metric.score(outputs, y)
        largest_drop(self.limit, score)
        return {"score": np.array(score), **({"outputs": [*outputs.values()][0]} if self.limit.bounds_groups else {})}

    def read_baseline(self, arrays: NamedArrays, *, y: Any) -> tuple[float, GroupLimits | None]:
        """Return the metric of the original model, and the limits of classes and groups, from what was stored."""
        score = check_number(float(arrays["score"]), "score")
        return score, GroupLimits.of(self.limit, arrays.get("outputs"), y)

    def goal(self, by: str, baseline: float, target: Micro | Vela | None, *, samples: int) -> Goal:
        """Return the goal of the search, given the original model's metric and the number of validation samples.

        The latency of an NPU is its cycles.
        """
        is_share = is_accuracy(self.metric.name)
        noise = DROP_NOISE if is_share else DROP_NOISE * abs(baseline)
        sample = 1 / samples if is_share else 0.0
        board = {"arena_bytes": target.arena, "bytes": target.flash} if isinstance(target, Micro) else {}
        by = "cycles" if isinstance(target, Vela) and by == "latency_ms" else by
        sizes = {**board, **{name.removeprefix("max_"): size for name, size in self.limit.sizes.items()}}
        budgets = {name: size for name, size in sizes.items() if size is not None}
        return Goal(by, largest_drop(self.limit, baseline) or 0.0, budgets, noise=noise, sample=sample)

    def check_goes_with(self, search: Search, *, optimize: str, target: Micro | Vela | None) -> None:
        """Refuse what does not go with timing, and limits that the target does not have.

        Raises:
            ValueError: If there is such a thing.
        """
        if isinstance(target, Vela):
            self._check_npu(target, optimize=optimize)
            return
        if self.limit.max_cycles is not None:
            raise ValueError(
                f"Expected an NPU as `target` with max_cycles, whose compiler estimates them. Received: "
                f"max_drop={self.limit!r}, target={target!r}. Pass target=vela('ethos-u55-128'), for example."
            )
        if target is not None and self.limit.sizes:
            raise ValueError(
                f"Expected the budgets of a microcontroller in its target. Received: max_drop={self.limit!r}. Pass "
                f"target=Micro(flash=..., arena=...)."
            )
        timing = "optimize='latency'" if optimize == "latency" else "a Limit with max_latency_ms"
        is_timed = optimize == "latency" or self.limit.max_latency_ms is not None
        if is_timed and ((search.jobs or 1) > 1 or search.executor is not None):
            raise ValueError(
                f"Expected jobs=1 with {timing}, and no executor: files are timed on one machine, one after the "
                f"other. Received: {search!r}. Leave `jobs` and `executor` out."
            )

    def _check_npu(self, target: Vela, *, optimize: str) -> None:
        """Refuse limits and goals other than those of cycles: files are not timed, and their zeros are stored.

        Raises:
            ValueError: If there is one.
        """
        if target.counts != "cycles":
            raise ValueError(
                f"Expected counts='cycles' in the NPU of `target`, which a search counts. Received: "
                f"target={target!r}. Leave `counts` out."
            )
        if self.limit.max_latency_ms is not None:
            raise ValueError(
                f"Expected a Limit without max_latency_ms with an NPU as `target`, whose files are not timed. "
                f"Received: max_drop={self.limit!r}. Pass max_cycles."
            )
        if optimize != "latency" and self.limit.max_cycles is None:
            raise ValueError(
                f"Expected optimize='latency' with an NPU as `target`, for the fewest cycles, or a limit of cycles. "
                f"Received: optimize={optimize!r}, max_drop={self.limit!r}. Pass optimize='latency', or "
                f"tfprune.Limit(..., max_cycles=...)."
            )

    def _check_classes(self, y: Any) -> None:
        """Refuse numbers other than classes for the metric that nobody named."""
        for labels in keras.tree.flatten(y) if self.limit.metric is None else ():
            if np.issubdtype(labels.dtype, np.floating) and np.any(labels % 1):
                raise ValueError(
                    "Expected classes as labels in `validation_data`, for the accuracy. Received: numbers with "
                    "fractions. For a regression pass max_drop=tfprune.Limit(max_relative_drop=0.05, metric='mae')."
                )

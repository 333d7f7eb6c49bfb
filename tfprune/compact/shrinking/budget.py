"""Budgets: prune until a model costs no more than is allowed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.allocation import ALLOCATIONS, Allocation, Weight, allocate
from tfprune.base.progress import Progress
from tfprune.base.spec import LEAST_AMOUNT, BudgetLimit, check_budget_limit, check_choice, text_of
from tfprune.compact.shrinking.shrink import shrink
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.solving.dependency_graph import Network

_log = logging.getLogger(__name__)
# Where each candidate has to be measured: sparsities to choose among, parts of the model that may go some steps less,
# how many steps, and how much of the limit is taken when no more is tried.
_STEPS_OF_LATENCY, _PARTS_OF_LATENCY, _ROUNDS, _NEAR = 64, 16, 2, 0.95

# What of a network can be counted; a latency has to be measured.
_COUNTS = {"flops": Network.flops, "parameters": Network.parameters, "bytes": Network.bytes}
Keeping = Callable[[list[float | None]], np.ndarray]


@dataclass(frozen=True)
class Budget:
    """What a model may cost once it is pruned; made by `budget`.

    Attributes:
        limits: By name, `flops`, `parameters`, `bytes` or `latency`. An int is an amount, a float a fraction of what
            the model costs now.
        allocation: Splits a sparsity over the groups.
        measure: Returns the latency of a plain model, in any unit.
        progress: How far on the way to the limits, in [0, 1].

    Example:
        >>> budget(flops=0.5, bytes=100_000).limits
        (('flops', 0.5), ('bytes', 100000))
    """

    limits: tuple[tuple[str, int | float], ...]
    allocation: str | Allocation
    measure: Callable[[keras.Model], float] | None
    progress: float = 1.0

    def at(self, progress: float) -> Budget:
        """Return the budget part of the way."""
        return replace(self, progress=progress)

    def in_rounds(self, rounds: int, *, network: Network, model: keras.Model) -> list[Budget]:
        """Return budgets that approach the limits by equal steps, as amounts: they hold for smaller models, too."""
        costs = {name: self._cost(name, network, model)(network.all_kept()) for name, _ in self.limits}

        def amounts(progress: float) -> tuple[tuple[str, int | float], ...]:
            part = self.at(progress)
            return tuple((name, max(int(part._target(limit, costs[name])), 1)) for name, limit in self.limits)

        return [replace(self, limits=amounts(number / rounds)) for number in range(1, rounds + 1)]

    def meet(
        self,
        weights: Sequence[Weight],
        keeping: Keeping,
        network: Network,
        model: keras.Model,
        *,
        verbose: int | str = 0,
    ) -> np.ndarray:
        """Return which bundles stay, where as few go as the limits allow.

        Args:
            weights: The groups that may lose channels.
            keeping: Turns the sparsity of each group into the bundles that stay.
            network: The channels of the model.
            model: The model itself.
            verbose: Whether to show a bar.

        Raises:
            ValueError: If even the largest sparsity does not meet a limit.
        """
        steps, parts = sum(weight.size for weight in weights), []
        if "latency" in dict(self.limits):
            steps = min(steps, _STEPS_OF_LATENCY)
            parts = _ROUNDS * np.array_split(range(len(weights)), min(len(weights), _PARTS_OF_LATENCY))
        costs = {name: self._cost(name, network, model) for name, _ in self.limits}
        most = 2 + (steps - 1).bit_length() + len(parts)  # the model as it is, the smallest one, and the searches
        shares: dict[tuple[int, tuple[int, ...]], float] = {}

        def kept(step: int, behind: tuple[int, ...] = ()) -> np.ndarray:
            """Go as far as a step says, and with a group one step less for each time that it is named."""
            fewer = [behind.count(group) for group in range(len(weights))]
            splits = {less: allocate(weights, max(step - less, 0) / steps, self.allocation) for less in {*fewer}}
            return keeping([splits[less][group] for group, less in enumerate(fewer)])

        def lack(step: int, behind: tuple[int, ...] = ()) -> str:
            shares[step, behind], text = self._tightest(kept(step, behind), costs, targets)
            progress.add()
            return text if shares[step, behind] > 1 else ""

        with Progress(most, verbose=verbose, unit="candidate") as progress:
            targets = {name: self._target(limit, costs[name](network.all_kept())) for name, limit in self.limits}
            progress.add()
            if lacking := lack(steps - 1):
                raise ValueError(
                    f"Expected a budget that can be met. Received: budget({self._limits_text()}); with all channels "
                    f"removed that may go, the model still has {lacking}. Raise the limit, or let more groups lose "
                    f"channels."
                )
            step = _first(0, steps - 1, lambda step: not lack(step))
            behind: tuple[int, ...] = ()
            # Kernels of a device take channels by eights or so: a step of all groups at once may be a long one.
            for part in parts if step else ():
                more = (*behind, *map(int, part))
                behind = more if shares[step, behind] < _NEAR and not lack(step, more) else behind
        return kept(step, behind)

    def _limits_text(self) -> str:
        return ", ".join(f"{name}={limit!r}" for name, limit in self.limits)

    @staticmethod
    def _tightest(
        keep: np.ndarray, costs: Mapping[str, Callable[[np.ndarray], float]], targets: Mapping[str, float]
    ) -> tuple[float, str]:
        """Return the largest share of a limit that is taken, and say so; it measures no more than it has to."""
        largest = (0.0, "")
        for name, target in targets.items():
            if largest[0] <= 1:
                cost = costs[name](keep)
                said = f"{name} of {cost:,.0f} where {target:,.0f} are allowed"
                largest = max(largest, (cost / target, said))
        return largest

    def _target(self, limit: int | float, cost: float) -> float:
        final = cost * limit if isinstance(limit, float) else limit
        return cost - (cost - final) * self.progress

    def _cost(self, name: str, network: Network, model: keras.Model) -> Callable[[np.ndarray], float]:
        if name in _COUNTS:
            return functools.partial(_COUNTS[name], network)
        measure: Any = self.measure

        def latency(keep: np.ndarray) -> float:
            cost = measure(shrink(model, ShrinkPlan(network, keep)))
            _log.info("a latency of %s with %d of %d channels", f"{cost:,.0f}", keep.sum(), keep.size)
            return cost

        return latency


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the first number from which on something holds; it does for the last."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def budget(
    *,
    flops: BudgetLimit = None,
    parameters: BudgetLimit = None,
    bytes: BudgetLimit = None,  # noqa: A002
    latency: BudgetLimit = None,
    measure: Callable[[keras.Model], float] | None = None,
    allocation: str | Allocation = "uniform",
) -> Budget:
    """Limit the cost of a model after pruning.

    Use it when you know how small or fast the model has to be: pass it in place of a sparsity to `plan_shrink` and
    `update_masks`, or as the `budget` of `PruningCallback` and `prune_to`. An int is an amount; a float in (0, 1) is
    a fraction of the present cost. With several limits, all of them are met.

    Args:
        flops: Floating-point operations on one sample, two for each multiplication of kernels and attention.
        parameters: Entries of all weights.
        bytes: Bytes of all weights, as they are in the Keras model.
        latency: The result of `measure`, such as microseconds of one inference.
        measure: A function from a plain model to its cost, such as `tfprune.export.latency`, which exports the model
            and runs it on this machine, or `tfprune.export.vela(...)`, which counts the cycles on an NPU.
        allocation: How a sparsity is split over the groups: `"uniform"` (the default), `"global"`, `"lamp"`, or a
            function, such as `allocation.LayerThreshold()`.

    Returns:
        The budget.

    Raises:
        TypeError: If a limit is not a number, or `allocation` is neither a name nor a function.
        ValueError: If there is no limit, one is not positive, is a fraction of 1 or more, or is an amount of 100 or
            less that is not a latency, `latency` comes without `measure`, or `allocation` is not one of the names.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(64), keras.layers.Dense(2)]
        >>> plan = plan_shrink(keras.Sequential(layers), budget(flops=0.5))
        >>> plan.flops_kept <= plan.flops / 2
        True
    """
    amounts = {"flops": flops, "parameters": parameters, "bytes": bytes, "latency": latency}
    limits = tuple(
        (name, check_budget_limit(value, name, least=1 if name == "latency" else LEAST_AMOUNT))
        for name, value in amounts.items()
        if value is not None
    )
    if not limits:
        raise ValueError("Expected a limit, such as budget(flops=0.5). Received none.")
    if (latency is None) != (measure is None):
        raise ValueError(
            f"Expected `measure` with a latency, and only then. Received: latency={latency!r}, measure={measure!r}. "
            f"tfprune.export.latency measures on this machine: budget(latency=0.5, measure=tfprune.export.latency)."
        )
    if not callable(allocation):
        check_choice(allocation, "allocation", choices=ALLOCATIONS, others="or a function")
    return Budget(limits, allocation, measure)


def check_budget(value: Any) -> None:
    """Refuse everything but a budget.

    Raises:
        TypeError: If it is not a budget.
    """
    if isinstance(value, Budget):
        return
    advice = ""
    if isinstance(value, tuple):
        advice = (
            " transformer_budget returns two counts, not a budget: pass plan_shrink(model, sparsity, "
            "allocation={'heads': removed / blocks, 'hidden': 1 - kept / width, '': None})."
        )
    if hasattr(value, "shape") or any(hasattr(part, "shape") for part in (value if isinstance(value, tuple) else ())):
        advice = " The budget comes before the data: prune_to(model, tfprune.budget(flops=0.5), (x, y))."
    raise TypeError(
        f"Expected a budget, such as tfprune.budget(flops=0.5). Received: budget={text_of(value)}.{advice}"
    )

"""Choose by the loss per saved cost how far to go with each of several kinds of removals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

Levels = dict[str, int]
_MORE = 2  # levels of one kind alone, beyond the one at which its first step says that the target is met


@dataclass(frozen=True)
class Candidate:
    """A model from which some parts are removed.

    Attributes:
        levels: How many steps of each kind were done.
        costs: What the model costs, by the name of the limit.
        loss: The loss of its outputs.
    """

    levels: Levels
    costs: Mapping[str, float]
    loss: float


def lack(costs: Mapping[str, float], targets: Mapping[str, float]) -> float:
    """Return how far costs are above their targets, as fractions of these, added up; 0 if all are met.

    Example:
        >>> lack({"bytes": 150.0, "parameters": 10.0}, {"bytes": 100.0, "parameters": 20.0})
        0.5
    """
    return sum(max(costs[name] / target - 1, 0.0) for name, target in targets.items())


class GreedyLevels:
    """A search that takes, again and again, the step with the least rise of the loss per saved cost.

    Args:
        most: The largest level of each kind.
        measure: Builds the model for some levels and measures it.
        targets: The limits, by name.
    """

    def __init__(self, most: Levels, measure: Callable[[Levels], Candidate], *, targets: Mapping[str, float]) -> None:
        self._most, self._measure, self._targets = most, measure, targets
        self._known: dict[tuple[int, ...], Candidate] = {}
        self.whole = self.measured(dict.fromkeys(most, 0))

    def measured(self, levels: Levels) -> Candidate:
        """Return the model for some levels, measured once; a loss that is not a number is infinite."""
        key = tuple(levels[kind] for kind in self._most)
        if key not in self._known:
            candidate = self._measure(levels)
            self._known[key] = replace(candidate, loss=math.inf) if math.isnan(candidate.loss) else candidate
        return self._known[key]

    def lack_of(self, candidate: Candidate) -> float:
        """Return how far a model is from the targets."""
        return lack(candidate.costs, self._targets)

    def walk(self) -> list[Candidate]:
        """Return the models after each step, until the targets are met or nothing is left to remove.

        The rise of the loss per saved cost of a kind is measured again only when it is the least: what a step costs
        rarely falls when other parts are gone. A step without a rise is taken before others are tried.
        """
        path, rates = [self.whole], dict.fromkeys(self._most, -math.inf)
        while self.lack_of(path[-1]):
            steps: dict[str, Candidate] = {}
            while (kind := min(rates, key=lambda kind: rates[kind])) not in steps:
                steps[kind], rates[kind] = self._step(path[-1], kind)
                if rates[kind] <= 0:
                    break
            if rates[kind] == math.inf:
                break
            path.append(steps[kind])
        return path

    def _step(self, now: Candidate, kind: str) -> tuple[Candidate, float]:
        """Return the model after the next step of a kind that saves something, and its rise of the loss per cost."""
        before = self.lack_of(now)
        for level in range(now.levels[kind] + 1, self._most[kind] + 1):
            after = self.measured({**now.levels, kind: level})
            if saved := max(before - self.lack_of(after), 0.0):
                return after, (after.loss - now.loss) / saved
        return now, math.inf

    def undone(self, path: list[Candidate]) -> list[Candidate]:
        """Return a path with steps taken back that the targets do not need, if the loss is lower without them."""
        path = list(path)
        for kind in sorted(self._most, key=self._saved):
            while path[-1].levels[kind] and self._fits(path[-1], kind):
                less = self.measured({**path[-1].levels, kind: path[-1].levels[kind] - 1})
                if self.lack_of(less) or less.loss > path[-1].loss:
                    break
                path.append(less)
        return path

    def _fits(self, candidate: Candidate, kind: str) -> bool:
        """Tell whether the targets leave as much free as a level of a kind saves, by its first step."""
        first = self._first(kind)
        level = max(first.levels[kind], 1)
        return all(
            candidate.costs[name] + (self.whole.costs[name] - first.costs[name]) / level <= target
            for name, target in self._targets.items()
        )

    def _first(self, kind: str) -> Candidate:
        return self._step(self.whole, kind)[0]

    def _saved(self, kind: str) -> float:
        return self.lack_of(self.whole) - self.lack_of(self._first(kind))

    def alone(self, kind: str) -> Candidate | None:
        """Return the model that meets the targets by one kind alone; None if it cannot."""
        first = self._first(kind)
        saved, level = self._saved(kind), first.levels[kind]
        if not saved:
            return None
        needed = max(math.ceil(self.lack_of(self.whole) / saved * level - 1e-9), 1)
        for count in range(needed, min(needed + _MORE, self._most[kind]) + 1):
            candidate = self.measured({**self.whole.levels, kind: count})
            if not self.lack_of(candidate):
                return candidate
        return None

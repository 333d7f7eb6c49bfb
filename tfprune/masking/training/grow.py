"""Grow: in each mask update, replace a part of the kept entries by masked ones, at a constant number of zeros."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import Spec, check_choice, check_count, check_number
from tfprune.criteria.base import Criterion, Evidence
from tfprune.keras_models.models.kernels import to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.patterns import Block, Pattern, Unstructured
from tfprune.schedules import Step, check_step

GRADIENT, RANDOM = "gradient", "random"


@dataclass(frozen=True)
class Grow(Spec):
    """Replace kept entries by masked ones in each mask update: training that is sparse from the first step.

    Pass one as `grow` to `PruningCallback` or `update_masks` to change the defaults of `grow="gradient"` (RigL) and
    `grow="random"` (SET). An update removes `fraction` of the kept entries of each weight, those with the lowest
    scores of its criterion, and adds the same number of entries, which start at 0.

    In `PruningCallback` the fraction falls with the steps, f(t) = fraction / 2 * (1 + cos(pi * t / end)), and is 0
    from `end` on. `update_masks` takes `fraction` as it is: pass `grow.at(step)` for the fraction of a step.

    Args:
        by: How the added entries are chosen. `"gradient"` (default): those with the largest gradient of the loss on
            `data`. `"random"`: at random.
        fraction: The fraction of the kept entries to replace, in [0, 1]. Default 0.3. At 1 with `by="random"`, all
            entries are drawn at random.
        end: The step from which on nothing is replaced: an int above 0, or a float in (0, 1] as a fraction of the
            fit. Default 0.75.
        seed: The seed of everything random, at least 0. Default 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or `by` is another name.

    Example:
        >>> grow = Grow("random", end=1000)
        >>> [round(grow.at(step).fraction, 3) for step in (0, 250, 500, 750, 1000)]
        [0.3, 0.256, 0.15, 0.044, 0.0]

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, section 3 (RigL). Mocanu et al., 2018, "Scalable
        training of artificial neural networks with adaptive sparse connectivity", arXiv:1707.04780 (SET).
    """

    by: str = GRADIENT
    fraction: float = dataclasses.field(default=0.3, kw_only=True)
    end: Step = dataclasses.field(default=0.75, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self.by, "by", choices=(GRADIENT, RANDOM))
        end = check_step(self.end, "end")
        if not end:
            raise ValueError(f"Expected `end` above 0, or nothing would be replaced. Received: end={self.end!r}.")
        fraction = check_number(self.fraction, "fraction", least=0, most=1)
        self._hold(fraction=fraction, end=end, seed=check_count(self.seed, "seed", least=0))

    def resolve(self, steps: int, *, first: int = 0) -> Grow:
        """Return this value with its fraction of the training run turned into a step, as `Schedule.resolve` does."""
        return dataclasses.replace(self, end=first + round(self.end * steps)) if type(self.end) is float else self

    def at(self, step: int) -> Grow:
        """Return this value with the fraction that is replaced at a step.

        Args:
            step: The number of optimizer updates, at least 0.

        Raises:
            ValueError: If `end` is still a fraction of the training run.
        """
        if isinstance(self.end, float):
            raise ValueError(
                f"Expected `end` in steps. Received: end={self.end!r}, a fraction of the training run. Give it as an "
                f"int, such as Grow(end=3000)."
            )
        share = 0.0 if step >= self.end else (1 + math.cos(math.pi * step / self.end)) / 2
        return dataclasses.replace(self, fraction=self.fraction * share)


def check_grow(value: Any, *, beside: str = "") -> Grow | None:
    """Return the value of an argument `grow`, names replaced.

    Args:
        value: The value.
        beside: Another argument and its value that excludes `grow`, for the message; empty if there is none.

    Raises:
        TypeError: If it is not a name, a `Grow` or None.
        ValueError: If it is another name, or comes with what excludes it.
    """
    if value is None:
        return None
    if not isinstance(value, Grow):
        check_choice(value, "grow", choices=(None, GRADIENT, RANDOM), others="or a tfprune.Grow")
    if beside:
        raise ValueError(
            f"Expected `grow` with a sparsity, and with regrow=True. Received: grow={value!r}, {beside}. Leave out "
            f"one of them."
        )
    return value if isinstance(value, Grow) else Grow(value)


def check_growable(layers: Iterable[tuple[str, Pruned]]) -> None:
    """Refuse wrappers whose patterns cannot be grown.

    Raises:
        ValueError: Naming the first of them.
    """
    for path, layer in layers:
        if not isinstance(layer.pattern, (Unstructured, Block)):
            raise ValueError(
                f"Expected a model with single entries or blocks as zeros, which can grow. Received: {path}, "
                f"which is wrapped with pattern={layer.pattern!r}. Wrap it with pattern='unstructured' or "
                f"patterns.Block(rows, cols), or leave out grow."
            )


@dataclass(frozen=True)
class _DropAndGrow(Criterion):
    """The criterion that entries are removed by, with the fact that others are added by."""

    drop: Criterion

    def __repr__(self) -> str:
        return f"grow={GRADIENT!r}"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.drop.needs, "gradient")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return self.drop(evidence)


def criterion_of(layer: Pruned, grow: Grow | None) -> Criterion:
    """Return the criterion of a wrapper, which needs gradients if its entries grow by them."""
    return _DropAndGrow(layer.criterion) if grow and grow.by == GRADIENT else layer.criterion


def uses_data(model: keras.layers.Layer, grow: Grow | None) -> bool:
    """Tell whether an update gathers evidence from data."""
    criteria = [criterion_of(layer, grow) for _, layer in pruned_layers(model)]
    return any(fact.needs_data for criterion in criteria for fact in criterion.needed_facts())


def grow_at(step: int, grow: Grow, *, model: keras.layers.Layer, is_last: bool) -> Grow:
    """Return what an update of a fit replaces: at step 0 everything, at random, if no weight is pruned yet."""
    if step == 0 and all(as_numpy(mask).all() for _, layer in pruned_layers(model) for mask in layer.masks.values()):
        return dataclasses.replace(grow, by=RANDOM, fraction=1.0)
    return dataclasses.replace(grow.at(step), fraction=0.0) if is_last or step == 0 else grow.at(step)


@dataclass(frozen=True, eq=False)
class Growth:
    """One update in which entries are replaced.

    Attributes:
        grow: What is replaced.
        step: The number of optimizer updates so far, which random choices depend on, so that resumed runs agree.
        facts: The gathered facts, by the path of the weight.
    """

    grow: Grow
    step: int
    facts: Mapping[str, Mapping[str, Any]]

    def mask(
        self, layer: Pruned, name: str, *, path: str, scores: np.ndarray, shown: np.ndarray, sparsity: float
    ) -> np.ndarray:
        """Return the new mask of a weight, in the matrix view like `scores` and `shown`, its mask now."""
        kernel = layer.kernels[name]
        candidates = to_matrix(self._scores(path, tuple(kernel.variable.shape)), kernel)
        stays = stay(layer.pattern, scores, shown=shown, sparsity=sparsity, fraction=self.grow.fraction)
        return layer.pattern(np.where(stays, np.inf, candidates), sparsity)

    def _scores(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        if self.grow.by == GRADIENT:
            evidence = Evidence(np.empty(0), path, facts=self.facts[path])
            return np.abs(evidence.fact("gradient"))
        return np.random.default_rng([self.grow.seed, self.step, zlib.crc32(path.encode())]).random(shape)


def stay(pattern: Pattern, scores: np.ndarray, *, shown: np.ndarray, sparsity: float, fraction: float) -> np.ndarray:
    """Return which kept entries stay: at the new sparsity, all but a fraction of those that it keeps."""
    dropped = 1 - (1 - sparsity) * (1 - fraction)
    if dropped == 1:  # which patterns do not take
        return np.zeros_like(shown)
    return pattern(np.where(shown, scores, -np.inf), dropped) & shown

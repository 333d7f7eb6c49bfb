"""Allocations: how one overall sparsity is split over the weights of a model.

An allocation is a function from weights and an overall sparsity to one sparsity per weight: `uniform`, `erk`,
`global`, `lamp`, `by_flops`, a `LayerThreshold` or a function of your own. A dict of regular expressions sets single
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tfprune.base.arrays import keep_largest
from tfprune.base.spec import ArgumentError, check_choice, check_count, check_number, check_regex, check_sparsity

__all__ = ["Allocation", "LayerThreshold", "Weight", "allocate", "by_flops", "erk", "global_", "lamp", "uniform"]


def _unknown() -> None:
    """Say nothing of how often a weight is used."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight, as an allocation sees it.

    Attributes:
        path: The path of the weight in the model, `block_1/conv/kernel`.
        shape: The shape of the weight, in Keras' order.
        scores: Computes the scores of the weight when it is called: an array in the matrix view, larger = keep.
        uses: Returns how many times each entry is multiplied for one sample: at each position of a convolution, once
            in a dense layer. None, the default, if that is not known.

    Example:
        >>> weight = Weight("hidden/kernel", (4, 2), scores=lambda: np.arange(8).reshape(2, 4))
        >>> weight.size
        8
    """

    path: str
    shape: tuple[int, ...]
    scores: Callable[[], np.ndarray]
    uses: Callable[[], int | None] = _unknown

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))


class Allocation(Protocol):
    """A function that splits an overall sparsity over the weights of a model.

    Pass one as `allocation` to `update_masks`, `PruningCallback` or `plan_shrink`. Each mask update calls it anew.

    Example:
        >>> def spare_small(weights, sparsity):
        ...     return [None if weight.size < 100 else sparsity for weight in weights]
        >>> scores = lambda: np.ones((2, 3))
        >>> allocate([Weight("in/kernel", (64, 64), scores), Weight("out/kernel", (2, 3), scores)], 0.9, spare_small)
        [0.9, None]
    """

    def __call__(self, weights: Sequence[Weight], sparsity: float, /) -> Sequence[float | None]:
        """Return the sparsity of each weight.

        Args:
            weights: The weights to prune, at least one.
            sparsity: The overall fraction of zeros, in [0, 1).

        Returns:
            One number in [0, 1) per weight, in the same order; None leaves a weight as it is. They are not rescaled.
        """


def uniform(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Give every weight the overall sparsity.

    Example:
        >>> weights = [Weight(path, (8, 8), scores=lambda: np.ones((8, 8))) for path in ("a/kernel", "out/kernel")]
        >>> uniform(weights, 0.5)
        [0.5, 0.5]
    """
    return [sparsity] * len(weights)


def erk(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Give small layers less sparsity: the density of a weight is e * sum(shape) / prod(shape) (Erdos-Renyi-Kernel).

    e follows from the overall sparsity. A weight whose density would exceed 1 stays dense, and e is computed again
    for the rest.

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, section 3.

    Example:
        >>> weights = [Weight(str(size), (size, size), scores=lambda: np.ones((size, size))) for size in (8, 32)]
        >>> [round(sparsity, 3) for sparsity in erk(weights, 0.8)]
        [0.32, 0.83]
    """
    sizes = np.array([weight.size for weight in weights], dtype=np.float64)
    raw = np.array([sum(weight.shape) for weight in weights]) / sizes
    dense = np.zeros(len(weights), dtype=bool)
    while not dense.all():
        budget = (1 - sparsity) * sizes.sum() - sizes[dense].sum()
        epsilon = budget / (raw * sizes)[~dense].sum()
        crowded = ~dense & (epsilon * raw > 1)
        if not crowded.any():
            break
        dense |= crowded
    density = np.where(dense, 1.0, epsilon * raw)
    return [float(1 - value) for value in density]


def _select_over_all(
    weights: Sequence[Weight], scores: list[np.ndarray], sparsity: float, *, least: int = 1
) -> list[float]:
    """Keep the largest scores of all weights together; return the fraction of zeros of each weight."""
    ends = np.cumsum([score.size for score in scores])
    keep = keep_largest(np.concatenate(scores), max(int(ends[-1]) - round(sparsity * int(ends[-1])), 1))
    parts = np.split(keep, ends[:-1])
    zeros = [min(part.size - int(np.count_nonzero(part)), max(part.size - least, 0)) for part in parts]
    return [zero / weight.size for zero, weight in zip(zeros, weights, strict=True)]


def global_(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Compare the scores of all weights with each other and drop the smallest, in whichever weight they are.

    Example:
        >>> small = Weight("small/kernel", (2, 2), scores=lambda: np.array([[1, 2], [3, 4]]))
        >>> large = Weight("large/kernel", (2, 2), scores=lambda: np.array([[5, 6], [7, 8]]))
        >>> global_([small, large], 0.5)
        [0.75, 0.0]
    """
    return _select_over_all(weights, [weight.scores().ravel() for weight in weights], sparsity)


def _lamp_scores(scores: np.ndarray) -> np.ndarray:
    """Return s_u^2 divided by the sum of s_v^2 over all scores from the largest down to s_u; 0 where all are 0."""
    flat = np.maximum(scores.ravel(), 0)  # negative ones would turn positive when they are squared
    squares = np.square(flat.astype(np.float64) / (flat.max() or 1.0))
    order = np.argsort(-squares)
    descending = squares[order]
    result = np.empty_like(squares)
    result[order] = descending / np.maximum(np.cumsum(descending), np.finfo(np.float64).tiny)
    return result


def lamp(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Compare each squared score with the sum of those that would survive it, over all weights.

    The largest entry of a weight scores 1, so no layer is emptied, and scaling a layer changes nothing.

    Reference:
        Lee et al., 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.

    Example:
        >>> small = Weight("small/kernel", (2, 2), scores=lambda: np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> large = Weight("large/kernel", (2, 2), scores=lambda: np.array([[10.0, 20.0], [30.0, 40.0]]))
        >>> lamp([small, large], 0.5)
        [0.5, 0.5]
    """
    return _select_over_all(weights, [_lamp_scores(weight.scores()) for weight in weights], sparsity)


def by_flops(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Remove a fraction of the multiplications: the entries with the smallest scores of `lamp` for each of theirs.

    Where a runtime skips zeros, a file takes as long as with the same sparsity in every weight, and loses less
    accuracy: an entry of a convolution is multiplied at every position, so zeros go where maps are large. The
    fraction of zeros is another one than that of the multiplications.

    Raises:
        ValueError: If it is not known how many times a weight is multiplied: its layer has an open height, width or
            length, or is neither a convolution, nor dense, nor recurrent.

    Example:
        >>> scores = lambda: np.array([[1.0, 2.0], [3.0, 4.0]])
        >>> early = Weight("early/kernel", (2, 2), scores, uses=lambda: 9)
        >>> late = Weight("late/kernel", (2, 2), scores, uses=lambda: 1)
        >>> by_flops([early, late], 0.5)
        [0.5, 0.25]
    """
    counts = np.array([_uses(weight) for weight in weights])
    scores = [_lamp_scores(weight.scores()) / count for weight, count in zip(weights, counts, strict=True)]
    sizes = [weight.size for weight in weights]
    order = np.argsort(np.concatenate(scores), kind="stable")
    owners = np.repeat(np.arange(len(weights)), sizes)[order]
    removed = np.cumsum(counts[owners], dtype=np.float64) <= sparsity * (counts * np.array(sizes)).sum()
    zeros = np.bincount(owners[removed], minlength=len(weights))
    return [min(int(zero), size - 1) / size for zero, size in zip(zeros, sizes, strict=True)]


def _uses(weight: Weight) -> int:
    uses = weight.uses()
    if uses is None:
        raise ArgumentError(
            "allocation",
            "weights of convolutions, dense and recurrent layers with fixed sizes, because allocation='flops'",
            found=f"{weight.path}, which is multiplied an unknown number of times",
            advice="Leave it out with `filters`, give keras.Input all sizes but the batch, or use 'lamp'.",
        )
    return uses


@dataclass(frozen=True)
class LayerThreshold:
    """Drop the scores that lie furthest below a threshold that grows with the depth of the layer.

        threshold_l = threshold * (1 + depth * l / layers) * exp(-decay * complexity), for layers l = 1, 2, ...

    Use it with scores from 0 to 1, such as those of `criteria.DACIS`. With a sparsity or a budget, all thresholds are
    moved by one constant until it is met; with `depth=0` and `min_units=1` this is `global_`. Without, in
    `plan_shrink(model, criterion=..., allocation=LayerThreshold(...))`, they are applied unchanged: the simpler the
    task, the more is removed.

    Args:
        threshold: The threshold before the first layer, at least 0. Default 0.5.
        depth: The growth up to the last layer, as a fraction of `threshold`, at least 0. Default 0.5.
        decay: The rate at which thresholds fall with the complexity, at least 0. Default 2.
        complexity: The task's `criteria.ClassMoments.complexity`, from 0 to 2. Default 0.
        min_units: The number of scores that each weight keeps in any case, its largest ones, at least 1. Default 8.

    Raises:
        TypeError, ValueError: If an argument is not a number, or out of its range.

    Example:
        >>> first = Weight("first/kernel", (2, 2), scores=lambda: np.array([[0.1, 0.2], [0.3, 0.7]]))
        >>> second = Weight("second/kernel", (2, 2), scores=lambda: np.array([[0.4, 0.5], [0.8, 0.9]]))
        >>> [LayerThreshold(depth=depth, min_units=1)([first, second], 0.5) for depth in (0, 2)]
        [[0.75, 0.25], [0.5, 0.5]]

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353; its public code computes them without using them.
    """

    threshold: float = 0.5
    depth: float = 0.5
    decay: float = 2.0
    complexity: float = 0.0
    min_units: int = 8

    def __post_init__(self) -> None:
        for name in ("threshold", "depth", "decay"):
            check_number(getattr(self, name), name, least=0)
        check_number(self.complexity, "complexity", least=0, most=2)
        check_count(self.min_units, "min_units", least=1)

    def thresholds(self, layer_count: int) -> np.ndarray:
        """Return the threshold of each layer, (layers,)."""
        growth = 1 + self.depth * np.arange(1, layer_count + 1) / layer_count
        return self.threshold * growth * np.exp(-self.decay * self.complexity)

    def below(self, weights: Sequence[Weight]) -> list[float]:
        """Return the fraction of each weight's scores below its threshold, except the `min_units` largest."""
        most = [max(each.size - self.min_units, 0) for each in weights]
        limits = self.thresholds(len(weights))
        below = [np.sum(each.scores() < low) for each, low in zip(weights, limits, strict=True)]
        return [min(pair) / each.size for each, *pair in zip(weights, most, below, strict=True)]

    def __call__(self, weights: Sequence[Weight], sparsity: float) -> list[float]:
        """Return the sparsity of each weight."""
        lowered = []
        for weight, threshold in zip(weights, self.thresholds(len(weights)), strict=True):
            scores = weight.scores().ravel()
            above = keep_largest(scores, min(self.min_units, scores.size))
            lowered.append(np.where(above, np.finfo(np.float32).max, scores - threshold))
        return _select_over_all(weights, lowered, sparsity, least=self.min_units)


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    "erk": erk,
    "global": global_,
    "lamp": lamp,
    "flops": by_flops,
}


def check_allocation(allocation: str | Mapping | Allocation) -> None:
    """Refuse everything but an allocation.

    Raises:
        TypeError, ValueError: If it is not a name, a dict from regular expressions, or a function.
    """
    if isinstance(allocation, Mapping):
        for pattern in allocation:
            check_regex(pattern, "allocation", of="the keys of ")
    elif not callable(allocation):
        others = "a dict from regular expressions to sparsities, or a function"
        check_choice(allocation, "allocation", choices=ALLOCATIONS, others=others)


def _by_path(rules: Mapping[str, float | None], weights: Sequence[Weight], sparsity: float) -> list[float | None]:
    """Give each weight the value of the first pattern that is found in its path, or else the overall sparsity."""
    compiled = {pattern: check_regex(pattern, "allocation", of="the keys of ") for pattern in rules}
    paths = [weight.path for weight in weights]
    for pattern, regex in compiled.items():
        if not any(regex.search(path) for path in paths):
            raise ArgumentError(
                "allocation",
                "every pattern of `allocation` to match a pruned weight",
                found=f"{pattern!r}, which matches none of {', '.join(paths)}",
            )
    return [
        next((rules[pattern] for pattern, regex in compiled.items() if regex.search(path)), sparsity)
        for path in paths
    ]


def allocate(
    weights: Sequence[Weight], sparsity: float, allocation: str | Mapping[str, float | None] | Allocation
) -> list[float | None]:
    """Split an overall sparsity over weights.

    Args:
        weights: The weights, at least one.
        sparsity: The overall fraction of zeros, in [0, 1).
        allocation: `"uniform"`, `"erk"`, `"global"`, `"lamp"`, `"flops"`, a dict from regular expressions to
            sparsities, or a function. A dict is searched for the first expression that `re.search` finds in the path
            of a weight; None leaves the weight unchanged, and a weight without a match gets the overall sparsity.

    Returns:
        One sparsity in [0, 1) per weight, in the same order; None for a weight that stays as it is.

    Raises:
        TypeError: If `allocation` is not an allocation, or a sparsity is not a number.
        ValueError: If the name is unknown, a sparsity lies outside [0, 1), a regular expression matches no weight, or
            the function does not return one value per weight.

    Example:
        >>> weights = [Weight(path, (8, 8), scores=lambda: np.ones((8, 8))) for path in ("a/kernel", "out/kernel")]
        >>> allocate(weights, 0.5, {"out/": 0.25})
        [0.5, 0.25]
    """
    check_allocation(allocation)
    check_sparsity(sparsity, "sparsity")
    split: Sequence[float | None]
    if isinstance(allocation, Mapping):
        split = _by_path(allocation, weights, sparsity)
    else:
        function = ALLOCATIONS[allocation] if isinstance(allocation, str) else allocation
        split = function(weights, sparsity)
    if not isinstance(split, (Sequence, np.ndarray)) or len(split) != len(weights):
        raise ArgumentError("allocation", f"the allocation to return {len(weights)} sparsities", found=repr(split))
    return [
        None if value is None else check_sparsity(value, f"sparsity of {weight.path}")
        for value, weight in zip(split, weights, strict=True)
    ]

"""Allocation: one overall sparsity, split over the weights of a model.

An allocation is a function from weights and an overall sparsity to one sparsity per weight. `uniform`, `erk`,
`global` and `lamp` are such functions, a dict of regular expressions gives weights a sparsity of their own, and any
function of the same form will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfprune.spec import check_regex, check_sparsity
from tfprune.top_k import keep_largest


@dataclass(frozen=True, eq=False)
class Weight:
    """What an allocation may look at.

    Attributes:
        path: The weight's place in the model, `block_1/conv/kernel`.
        shape: Its shape, in Keras' order.
        scores: Computes its scores in the matrix view, larger = keep.
    """

    path: str
    shape: tuple[int, ...]
    scores: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))


Allocation = Callable[[Sequence[Weight], float], Sequence[float | None]]


def uniform(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Give every weight the overall sparsity."""
    return [sparsity] * len(weights)


def erk(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Spare small layers: the density of a weight is e * sum(shape) / prod(shape) (Erdos-Renyi-Kernel).

    e is solved for the overall sparsity; a weight whose density would exceed 1 stays dense, and e is solved again
    for the rest.

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, section 3.
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


def _select_over_all(weights: Sequence[Weight], scores: list[np.ndarray], sparsity: float) -> list[float]:
    """Keep the largest scores of all weights together; return the fraction of zeros of each."""
    ends = np.cumsum([score.size for score in scores])
    keep = keep_largest(np.concatenate(scores), max(int(ends[-1]) - round(sparsity * int(ends[-1])), 1))
    parts = np.split(keep, ends[:-1])
    zeros = [min(part.size - int(np.count_nonzero(part)), part.size - 1) for part in parts]
    return [zero / weight.size for zero, weight in zip(zeros, weights, strict=True)]


def global_(weights: Sequence[Weight], sparsity: float) -> list[float]:
    """Compare the scores of all weights with each other and drop the smallest, wherever they are."""
    return _select_over_all(weights, [weight.scores().ravel() for weight in weights], sparsity)


def _lamp_scores(scores: np.ndarray) -> np.ndarray:
    """Return s_u^2 / sum of s_v^2 over u and all that precede it from the largest down; 0 where all are 0."""
    flat = scores.ravel()
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
    """
    return _select_over_all(weights, [_lamp_scores(weight.scores()) for weight in weights], sparsity)


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "erk": erk, "global": global_, "lamp": lamp}


def check_allocation(allocation: str | Mapping | Allocation) -> None:
    """Refuse what is no allocation.

    Raises:
        ValueError: For an unknown name or a pattern that is no regular expression.
        TypeError: For anything that is no name, dict or function.
    """
    if isinstance(allocation, Mapping):
        for pattern in allocation:
            check_regex(pattern, "the keys of `allocation`")
    elif isinstance(allocation, str):
        if allocation not in ALLOCATIONS:
            names = ", ".join(repr(name) for name in ALLOCATIONS)
            raise ValueError(
                f"Expected `allocation` to be one of {names}, or a dict of regular expressions. Received: "
                f"allocation={allocation!r}."
            )
    elif not callable(allocation):
        raise TypeError(
            f"Expected `allocation` to be a name, a dict from regular expressions to sparsities, or a function. "
            f"Received: allocation={allocation!r} of type {type(allocation).__name__}."
        )


def _by_path(rules: Mapping[str, float | None], weights: Sequence[Weight], sparsity: float) -> list[float | None]:
    """Give each weight the value of the first pattern found in its path, else the overall sparsity."""
    compiled = {pattern: check_regex(pattern, "the keys of `allocation`") for pattern in rules}
    paths = [weight.path for weight in weights]
    for pattern, regex in compiled.items():
        if not any(regex.search(path) for path in paths):
            raise ValueError(
                f"Expected every pattern of `allocation` to match a pruned weight. Received: {pattern!r}, which "
                f"matches none of {', '.join(paths)}."
            )
    return [next((rules[p] for p, regex in compiled.items() if regex.search(path)), sparsity) for path in paths]


def allocate(
    allocation: str | Mapping[str, float | None] | Allocation, weights: Sequence[Weight], sparsity: float
) -> list[float | None]:
    """Split an overall sparsity over weights.

    Args:
        allocation: `"uniform"`, `"erk"`, `"global"`, `"lamp"`, a dict from regular expressions (`re.search` on the
            path, the first match wins, unmatched weights get the overall value) to sparsities, or a function. In a
            dict None leaves a weight as it is.
        weights: At least one.
        sparsity: Overall fraction of zeros, in [0, 1).

    Returns:
        One sparsity in [0, 1) per weight, in order; None for a weight that is to stay as it is.

    Raises:
        ValueError: For an unknown name, a sparsity outside [0, 1), a pattern that matches nothing, a function that
            does not return one value per weight.
        TypeError: For anything that is no allocation.
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
        raise ValueError(f"Expected the allocation to return {len(weights)} sparsities. Received: {split!r}.")
    return [
        None if value is None else check_sparsity(value, f"sparsity of {weight.path}")
        for value, weight in zip(split, weights, strict=True)
    ]

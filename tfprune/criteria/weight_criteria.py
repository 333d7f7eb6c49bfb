"""Criteria that look at the weight alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.base.spec import check_count
from tfprune.criteria.base import Criterion, Evidence


@dataclass(frozen=True)
class Magnitude(Criterion):
    """Score an entry by its absolute value.

    Example:
        >>> Magnitude()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel"))
        array([[2., 1.]])

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878, section 3.
    """

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight)


@dataclass(frozen=True)
class L2(Criterion):
    """Score an entry by its square.

    For single entries the ranking is that of `Magnitude`. Blocks, channels and heads have the mean score of their
    entries, so they are ranked by their L2 norm instead of their L1 norm.

    Example:
        >>> L2()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel"))
        array([[4., 1.]])

    Reference:
        Li et al., 2017, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, section 3.
    """

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.square(evidence.weight, dtype=np.promote_types(evidence.weight.dtype, np.float32))


@dataclass(frozen=True)
class Random(Criterion):
    """Score entries at random. Use it as the baseline that any other criterion has to beat.

    The scores depend only on the seed and the path of the weight. A pruned entry therefore stays pruned as the
    sparsity rises, and two runs agree.

    Args:
        seed: The seed, at least 0 (default 0).

    Example:
        >>> Random(seed=1)(Evidence(np.zeros((2, 3)), "dense/kernel")).shape
        (2, 3)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        self._hold(seed=check_count(self.seed, "seed", least=0))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        generator = np.random.default_rng([self.seed, zlib.crc32(evidence.path.encode())])
        return generator.random(evidence.weight.shape, dtype=np.float32)


@dataclass(frozen=True)
class UnitScores(Criterion):
    """Score an entry by a number that is given for its unit; entries of units with the same number by magnitude.

    Use it to train towards a choice of units that was made before, such as that of a `ConceptTrace`: with scores of 0
    and 1, units with a 0 go first, and of these the smallest. Weights without scores are ranked by magnitude.

    Args:
        scores: For each weight, by its path, a number for each of its outputs; a dict or pairs.

    Raises:
        TypeError: If it is neither, or holds anything but numbers.

    Example:
        >>> scores = UnitScores({"dense/kernel": [1, 0]})
        >>> scores(Evidence(np.array([[1.0, -3.0]]), "dense/kernel", "io"))
        array([[1.25, 0.75]])
    """

    scores: Any = field(repr=False)

    def __post_init__(self) -> None:
        pairs = self.scores.items() if isinstance(self.scores, Mapping) else self.scores
        try:
            held = tuple((str(path), tuple(map(float, values))) for path, values in pairs)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Expected `scores` to be a dict from paths of weights to numbers. Received: scores={self.scores!r}."
            ) from error
        self._hold(scores=held)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        size = np.abs(evidence.weight)
        magnitude = size / (1 + size.max(initial=0))  # below 1: decides between units of one score
        scores = dict(self.scores).get(evidence.path)
        return magnitude if scores is None else evidence.over_outputs(np.array(scores)) + magnitude

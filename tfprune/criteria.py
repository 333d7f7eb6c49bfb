"""Criteria: how important each entry of a weight is.

A criterion is a pure function from evidence to scores of the weight's shape; the larger a score, the longer its
entry is kept. A new one is a frozen dataclass that derives from `Criterion` and defines `__call__`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from tfprune.spec import Spec, check_count


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at.

    Attributes:
        weight: The weight's latent values, those of masked entries included, in Keras' shape.
        path: The weight's place in the model, `block_1/conv/kernel`.
    """

    weight: np.ndarray
    path: str


class Criterion(Spec):
    """Base of all criteria."""

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Return finite scores of the weight's shape, larger = keep."""
        raise NotImplementedError


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
class Random(Criterion):
    """Score entries at random: the baseline that any other criterion has to beat.

    The scores depend on the seed and on the weight's path alone, so that an entry once pruned stays pruned as the
    sparsity rises, and two runs agree.

    Args:
        seed: At least 0.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        self._hold(seed=check_count(self.seed, "seed", least=0))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        generator = np.random.default_rng([self.seed, zlib.crc32(evidence.path.encode())])
        return generator.random(evidence.weight.shape, dtype=np.float32)


CRITERIA: dict[str, type[Criterion]] = {"magnitude": Magnitude, "random": Random}

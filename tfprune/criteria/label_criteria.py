"""Criteria that look at how well the units of a layer separate the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import check_choice, check_number
from tfprune.criteria.base import Criterion, Evidence

_PERFECT = 1e15  # instead of an infinite F, of a unit that is constant within every class


@dataclass(frozen=True)
class FStatistic(Criterion):
    """Score an entry by how well its unit separates the classes: F times |w|.

    F is the statistic of a one-way analysis of variance over classes; a channel counts with its mean over positions.
    F does not change when a unit is scaled. Therefore F alone cannot rank the connections of one unit.

    Args:
        unit: The units that F is computed for: `"input"`, to rank connections (default), or `"output"`, to rank
            channels.
        mix: None (default) multiplies. A number in [0, 1] mixes ranks instead, each in [0, 1] within the weight:
            mix * rank(F) + (1 - mix) * rank(|w|).

    Raises:
        ValueError: If `unit` is another name, or `mix` lies outside [0, 1].
        TypeError: If `mix` is not a number.

    Example:
        >>> from tfprune.criteria.class_moments import ClassMoments
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]]), np.array([0, 1, 0, 1]))
        >>> facts = {"input_moments": moments}
        >>> FStatistic()(Evidence(np.array([[-2.0, 1.0], [9.0, 9.0]]), "dense/kernel", "io", facts))
        array([[1. , 0.5],
               [0. , 0. ]])

    Reference:
        Wang et al., 2025, "Exploring Vision Neural Network Pruning via Screening Methodology", arXiv:2502.07189, as
        its abstract describes it.
    """

    unit: str = "input"
    mix: float | None = None

    def __post_init__(self) -> None:
        check_choice(self.unit, "unit", choices=("input", "output"))
        if self.mix is not None:
            self._hold(mix=check_number(self.mix, "mix", least=0, most=1, meaning="or None"))

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"{self.unit}_moments",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        f_statistic = np.minimum(evidence.fact(f"{self.unit}_moments").f_statistic(), _PERFECT)
        over = evidence.over_inputs if self.unit == "input" else evidence.over_outputs
        size = np.abs(evidence.weight)
        if self.mix is None:
            return over(f_statistic) * size
        return self.mix * over(_ranks(f_statistic)) + (1 - self.mix) * _ranks(size)


@dataclass(frozen=True)
class DACIS(Criterion):
    """Score an entry by its channel: gradient G, variance V and discrimination D, each from 0 to 1 within the weight.

        score_o = gradient * G_o + variance * V_o + discrimination * D_o

    With `meta`, the score is multiplied by 1 + meta * M_o, where M is the norm of the channel's gradient in the outer
    steps of meta-training (`tfprune.few_shot.MetaGradients`), also from 0 to 1. In the paper M is the norm itself, so
    that its effect depends on the scale of the loss.

    G is the mean over batches of the norm of the channel's gradient. V is the variance over samples of its activation
    (the mean over positions). D is the activation's squared deviations between classes divided by those within
    classes. All entries of a channel have the same score; a channel with a constant activation and no gradient has 0.

    Args:
        gradient: The weight of G, at least 0 (default 0.3). At 0 no gradients are computed.
        variance: The weight of V, at least 0 (default 0.2).
        discrimination: The weight of D, at least 0 (default 0.5).
        meta: The weight of the meta-gradient, at least 0 (default 0, which needs none). The paper takes 0.1.

    Raises:
        TypeError: If a weight is not a number.
        ValueError: If a weight is negative, or those of G, V and D are all 0.

    Example:
        >>> from tfprune.criteria.class_moments import ClassMoments
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0], [4.0, 5.0]]), np.array([0, 0, 1, 1]))
        >>> facts = {"gradient_norms": np.array([0.1, 0.7]), "output_moments": moments}
        >>> DACIS()(Evidence(np.ones((1, 2)), "dense/kernel", "io", facts)).round(6)
        array([[0.7, 0.3]])

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353, and its public code.
    """

    gradient: float = 0.3
    variance: float = 0.2
    discrimination: float = 0.5
    meta: float = 0.0

    def __post_init__(self) -> None:
        weights = {name: check_number(value, name, least=0) for name, value in self.get_config().items()}
        if not any(value for name, value in weights.items() if name != "meta"):
            raise ValueError(f"Expected at least one weight above 0. Received: {self!r}.")
        self._hold(**weights)

    @property
    def needs(self) -> tuple[str, ...]:
        optional = {"gradient_norms": self.gradient, "meta_gradient_norms": self.meta}
        return ("output_moments", *(fact for fact, weight in optional.items() if weight))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        moments = evidence.fact("output_moments")
        score = self.variance * _from_0_to_1(moments.variance())
        score += self.discrimination * _from_0_to_1(moments.discrimination())
        if self.gradient:
            score += self.gradient * _from_0_to_1(evidence.fact("gradient_norms"))
        if self.meta:
            score *= 1 + self.meta * _from_0_to_1(evidence.fact("meta_gradient_norms"))
        return evidence.everywhere(evidence.over_outputs(score))


def _from_0_to_1(values: np.ndarray) -> np.ndarray:
    """Return values scaled so that the smallest is 0 and the largest is 1; 0 if all are equal."""
    smallest, span = values.min(), np.ptp(values)
    return (values - smallest) / span if span else np.zeros_like(values)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 0 to 1; equal values share the mean of their ranks."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2
    return ranks[codes].reshape(values.shape) / max(values.size - 1, 1)

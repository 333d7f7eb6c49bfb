"""How important each entry of a weight is: every criterion, and what it may look at.

A criterion is a pure function from evidence to scores of the weight's shape; the larger a score, the longer its
entry is kept. A new one is a frozen dataclass that derives from `Criterion` and defines `__call__`; what it looks at
besides the weight it names in `needs`.
`weights` holds those that look at the weight alone, `data` those that look at activations and gradients, `classes`
those that look at labels, by statistics of `class_moments`. All of it is NumPy; `evidence` gathers the facts.
Start at `base.Criterion` and `base.Evidence`.
"""

from __future__ import annotations

from tfprune.criteria.base import FACTS, Criterion, Evidence
from tfprune.criteria.class_moments import ClassMoments
from tfprune.criteria.classes import DACIS, FStatistic
from tfprune.criteria.data import BatchNormGamma, Movement, Taylor, Wanda
from tfprune.criteria.weights import L2, Magnitude, Random

__all__ = [
    "CRITERIA",
    "DACIS",
    "FACTS",
    "L2",
    "BatchNormGamma",
    "ClassMoments",
    "Criterion",
    "Evidence",
    "FStatistic",
    "Magnitude",
    "Movement",
    "Random",
    "Taylor",
    "Wanda",
]


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "l2": L2,
    "random": Random,
    "gamma": BatchNormGamma,
    "taylor": Taylor,
    "movement": Movement,
    "wanda": Wanda,
    "f_statistic": FStatistic,
    "dacis": DACIS,
}

"""Importance criteria: one class each, and the facts that they look at.

A criterion is a pure function from evidence to scores of the weight's shape; entries with the largest scores are
kept. A new one is a frozen dataclass that derives from `Criterion` and defines `__call__`. In `needs` it names the
facts that it uses besides the weight. A new fact is one `Fact`, passed to `register_fact`.
`weight_criteria` holds the criteria that use the weight alone, `data_criteria` those that use activations and
gradients, and `label_criteria` those that use class labels, by statistics of `class_moments`. `facts` describes the
facts. All of it is NumPy; the room `evidence` gathers the facts.
Start at `base.Criterion`, `base.Evidence` and `facts.Fact`.
"""

from __future__ import annotations

from tfprune.criteria.base import Criterion, Evidence
from tfprune.criteria.class_moments import ClassMoments
from tfprune.criteria.data_criteria import SNIP, BatchNormGamma, Fisher, GraSP, Movement, SynFlow, Taylor, Wanda
from tfprune.criteria.facts import FACTS, Fact, UnknownFact, register_fact
from tfprune.criteria.label_criteria import DACIS, FStatistic
from tfprune.criteria.weight_criteria import L2, Magnitude, Random, UnitScores

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
    "Fact",
    "Fisher",
    "Magnitude",
    "Movement",
    "Random",
    "Taylor",
    "UnitScores",
    "UnknownFact",
    "Wanda",
    "register_fact",
]


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "l2": L2,
    "random": Random,
    "gamma": BatchNormGamma,
    "taylor": Taylor,
    "snip": SNIP,
    "grasp": GraSP,
    "fisher": Fisher,
    "synflow": SynFlow,
    "movement": Movement,
    "wanda": Wanda,
    "f_statistic": FStatistic,
    "dacis": DACIS,
}

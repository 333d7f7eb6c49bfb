"""Which channels tell broad kinds of classes apart, and so go last: the taxonomy of PMP-DACIS."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tfprune.base.spec import Spec
from tfprune.criteria import ClassMoments, Criterion, Evidence

LevelsOfClasses = Mapping[int, Hashable] | Sequence[tuple[int, Hashable]]
PRUNABLE, PARTLY, PROTECTED = 0, 1, 2
LEVELS = ("prunable", "partly", "protected")


@dataclass(frozen=True)
class ChannelTaxonomy(Spec):
    """Sort channels by the level of a hierarchy of classes that they separate best.

    A channel that separates broad kinds (in the paper: types of pathogens) is protected. One that separates groups in
    between (symptoms) is partly protected: the better half of these. One that separates single classes only is
    prunable, as is a constant one. Protected channels go last. The level of a channel is the one with the largest F
    statistic, which counts fewer groups in favor of a level; equal ones count for the broader level.

    Args:
        kinds: The broad kind of each class: a dict from labels, integers, to names or numbers.
        symptoms: The group in between of each class; None (the default) has no such level.

    Raises:
        TypeError: If an argument is not a dict.
        ValueError: If a level has fewer than two groups, or both name other classes.

    Example:
        >>> taxonomy = ChannelTaxonomy(kinds={0: "fungus", 1: "fungus", 2: "virus", 3: "virus"})
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[0, 0], [1, 9], [5, 1], [6, 8], [1, 1], [0, 8], [6, 0], [5, 9.0]]),
        ...             np.array([0, 1, 2, 3, 0, 1, 2, 3]))
        >>> [LEVELS[level] for level in taxonomy.levels(moments)]
        ['protected', 'prunable']

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353, which names the three levels. That a level is found
        by its F statistic is this library's reading.
    """

    kinds: LevelsOfClasses
    symptoms: LevelsOfClasses | None = None

    def __post_init__(self) -> None:
        self._hold(kinds=_pairs(self.kinds, "kinds"))
        if self.symptoms is not None:
            self._hold(symptoms=_pairs(self.symptoms, "symptoms"))
            if dict(self.symptoms).keys() != dict(self.kinds).keys():
                raise ValueError(
                    f"Expected `kinds` and `symptoms` of the same classes. Received: {sorted(dict(self.kinds))} and "
                    f"{sorted(dict(self.symptoms))}."
                )

    def levels(self, moments: ClassMoments) -> np.ndarray:
        """Return the level of each unit: 2 protected, 1 partly, 0 prunable.

        Args:
            moments: The moments of the units within the classes.
        """
        by_level = {PROTECTED: moments.grouped(dict(self.kinds)), PRUNABLE: moments}
        if self.symptoms is not None:
            by_level[PARTLY] = moments.grouped(dict(self.symptoms))
        order = sorted(by_level, reverse=True)
        statistics = np.stack([by_level[level].f_statistic() for level in order])
        return np.where(statistics.max(axis=0) > 0, np.array(order)[statistics.argmax(axis=0)], PRUNABLE)


def _pairs(groups: Any, argument: str) -> tuple[tuple[int, Hashable], ...]:
    """Return the group of each class as pairs, which can be hashed; they, too, are taken."""
    listed = list(groups.items()) if isinstance(groups, Mapping) else groups
    if not isinstance(listed, (list, tuple)) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in listed
    ):
        raise TypeError(
            f"Expected `{argument}` to be a dict from classes to groups. Received: {argument}={groups!r}."
        )
    pairs = tuple((int(label), group) for label, group in listed)
    if len({group for _, group in pairs}) < 2:
        raise ValueError(
            f"Expected `{argument}` with at least two groups of classes. Received: {argument}={dict(pairs)!r}."
        )
    return pairs


@dataclass(frozen=True)
class LevelOf(Criterion):
    """Scores an entry by the level of its channel."""

    taxonomy: ChannelTaxonomy = field(repr=False)
    needs: ClassVar[tuple[str, ...]] = ("output_moments",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        levels = self.taxonomy.levels(evidence.fact("output_moments"))
        return evidence.everywhere(evidence.over_outputs(levels.astype(np.float64)))


def guarded(scores: Mapping[str, np.ndarray], levels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores of channels in which those that the taxonomy protects lie above all others.

    Args:
        scores: The scores of the channels of each group.
        levels: The levels of the same channels.
    """
    span = 1 + max(values.max() for values in scores.values()) - min(values.min() for values in scores.values())
    return {name: values + span * _is_protected(values, levels[name]) for name, values in scores.items()}


def _is_protected(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Tell which channels of a group go last: all protected ones, and the better half of the partly protected."""
    mask = levels == PROTECTED
    partly = np.flatnonzero(levels == PARTLY)
    best = partly[np.argsort(-scores[partly], kind="stable")]
    mask[best[: -(-len(best) // 2)]] = True
    return mask

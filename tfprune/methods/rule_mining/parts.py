"""Three parts of the samples: rules are mined from one, chosen by another, and reported on the third."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.base.spec import check_number
from tfprune.methods.rule_mining.check_concepts import check_both
from tfprune.methods.rule_mining.counts import Counts
from tfprune.methods.rule_mining.rule import ConceptRule

MINING, CHOOSING, REPORTING = "mining", "choosing", "reporting"


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples, and the rules that hold on each.

    Attributes:
        labels: Whether the concept is there, (samples,), for each concept and for its negation.
        weights: The share of each sample in its group, (samples,); 1 without groups.
        holds: Where each rule holds, (samples,).
    """

    labels: Mapping[str, np.ndarray]
    weights: np.ndarray
    holds: dict[ConceptRule, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of samples; a group counts as one."""
        return round(float(self.weights.sum()))

    def add(self, rules: Iterable[ConceptRule], activations: np.ndarray) -> None:
        """Record where rules of a layer hold, from its activations, (samples, units)."""
        self.holds.update({rule: rule.matches(activations) for rule in rules})

    def any_of(self, rules: Iterable[ConceptRule]) -> np.ndarray:
        """Tell for each sample whether any of some rules holds."""
        together = np.zeros(self.weights.size, dtype=bool)
        for rule in rules:
            together |= self.holds[rule]
        return together

    def counts(self, concept: str, rules: Iterable[ConceptRule]) -> Counts:
        """Count how often any of some rules holds, and is right."""
        matched, there = self.any_of(rules), self.labels[concept]
        return Counts(*(self.weigh(each) for each in (matched, matched & there, there)))

    def weigh(self, rows: np.ndarray) -> float:
        """Return the number of chosen samples, a group counting as one."""
        return float(self.weights[rows].sum())


def part_of(labels: Mapping[str, np.ndarray], weights: np.ndarray, *, rows: np.ndarray, name: str) -> Part:
    """Return a part of the samples: those of some rows.

    Raises:
        ValueError: If a concept is there on all of them, or on none.
    """
    own = {concept: values[rows] for concept, values in labels.items()}
    for concept, values in own.items():
        check_both(concept, values, where=f"the samples for {name}")
    return Part(own, weights[rows])


def draw_parts(
    samples: int, *, validation_split: float, groups: Any = None, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw the samples of each part: booleans by its name, (samples,), and the share of each sample in its group.

    Args:
        samples: The number of samples.
        validation_split: The fraction that is not mined from: half of it chooses, the other half is for reporting.
        groups: The group of each sample, (samples,): a group falls into one part as a whole. None: no groups.
        seed: Draws the parts.

    Raises:
        TypeError: If `validation_split` is not a number, or groups are neither integers nor strings.
        ValueError: If `validation_split` lies outside (0, 1), or there is not one group for each sample.
    """
    meaning = "the fraction of held-out samples"
    share = check_number(validation_split, "validation_split", above=0, below=1, meaning=meaning)
    members = np.arange(samples) if groups is None else _members(np.asarray(groups), samples)
    sizes = np.bincount(members)
    order = np.random.default_rng(seed).permutation(sizes.size)
    middle = np.empty(sizes.size)  # of each group, where all stand in the order drawn, from 0 to 1
    middle[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / samples
    rank = middle[members]
    parts = {MINING: rank > share, CHOOSING: rank <= share / 2, REPORTING: (rank > share / 2) & (rank <= share)}
    return parts, 1 / sizes[members]


def _members(groups: np.ndarray, samples: int) -> np.ndarray:
    if groups.dtype.kind not in "biuSU":
        raise TypeError(
            f"Expected `groups` to be an array of integers or strings. Received: an array of {groups.dtype}."
        )
    if groups.shape != (samples,):
        raise ValueError(
            f"Expected one group for each of {samples} samples as `groups`. Received: an array of shape "
            f"{groups.shape}."
        )
    return np.unique(groups, return_inverse=True)[1].ravel()

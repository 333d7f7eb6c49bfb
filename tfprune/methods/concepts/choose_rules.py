"""Choose the rules that a requirement relies on: precise ones, until they find enough of a concept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tfprune.base.spec import check_number
from tfprune.methods.concepts.rule import ConceptRule

_ROUNDING_ERROR = 1e-9


@dataclass(frozen=True)
class Limits:
    """The precision and recall that rules must have.

    Attributes:
        precision: The least precision of a rule on held-out samples, in (0, 1].
        recall: The least recall of all rules for a concept together, in (0, 1]; rules beyond it are left out. None
            takes every rule that adds to the recall.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is out of range.
    """

    precision: float
    recall: float | None

    def __post_init__(self) -> None:
        check_number(self.precision, "min_precision", above=0, most=1)
        if self.recall is not None:
            check_number(self.recall, "min_recall", above=0, most=1, meaning="or None")

    def choose(self, rules: Sequence[ConceptRule]) -> list[ConceptRule]:
        """Choose rules of a layer for a concept, the largest support first; none if they do not suffice.

        Rules of one tree never hold together, so their recalls add up.
        """
        chosen, recall = [], 0.0
        for rule in sorted(filter(self._is_precise, rules), key=lambda rule: -rule.support):
            if self._is_enough(recall) and self.recall is not None:
                break
            chosen.append(rule)
            recall += rule.recall
        return chosen if self._is_enough(recall) else []

    def _is_precise(self, rule: ConceptRule) -> bool:
        return rule.hits > 0 and rule.precision >= self.precision

    def _is_enough(self, recall: float) -> bool:
        return self.recall is None or recall >= self.recall - _ROUNDING_ERROR

    def shortfall(self, rules: Iterable[ConceptRule], concept: str) -> str:
        """Describe how close the rules for a concept come, for the end of a sentence."""
        matching = [rule for rule in rules if rule.concept == concept and rule.matched]
        if not matching:
            return f"no rule for {concept!r} holds on any held-out sample"
        best = best_of(matching)
        if not self._is_precise(best):
            return (
                f"the best rule for {concept!r} has a precision of {best.precision:.3f} on {best.matched} held-out "
                f"samples: {best}"
            )
        recalls: dict[str, float] = {}
        for rule in filter(self._is_precise, matching):
            recalls[rule.layer] = recalls.get(rule.layer, 0.0) + rule.recall
        layer = max(recalls, key=lambda name: recalls[name])
        return f"the precise rules for {concept!r} in {layer} have a recall of {recalls[layer]:.3f} together"


def best_of(rules: Iterable[ConceptRule]) -> ConceptRule:
    """Return the most precise rule, of several the one that holds on most held-out samples."""
    return max(rules, key=lambda rule: (rule.precision, rule.matched, rule.support))

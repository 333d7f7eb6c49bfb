"""Choose the rules that a requirement relies on: sets that read few units and are certified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tfprune.base.spec import check_count, check_number
from tfprune.methods.rule_mining.counts import lower_bound
from tfprune.methods.rule_mining.parts import CHOOSING, MINING, Part
from tfprune.methods.rule_mining.rule import ConceptRule

SampleParts = Mapping[str, Part]
UnitsRead = Callable[[ConceptRule], Iterable[int]]  # numbers that tell units of all layers apart
# How much better than asked for a set has to be where it was mined, as a share of the way to 1: from bold to careful.
_MARGINS = (0.0, 0.25, 0.5)
_ERROR = 0.05  # of bounds where rules were mined, which only propose sets


@dataclass(frozen=True)
class Limits:
    """The precision and recall that rules must have together, and the confidence in them.

    Attributes:
        precision: The least precision of the rules of a layer for a concept, in (0, 1].
        recall: Their least recall, in (0, 1]; rules beyond it are left out. None takes every rule that adds to it, as
            long as the precision is reached.
        confidence: The chance, at least, that the rules for a concept are that good, in (0, 1).
        matches: The least number of samples for choosing on which a rule holds.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is out of range.
    """

    precision: float
    recall: float | None
    confidence: float = 0.95
    matches: int = 10

    def __post_init__(self) -> None:
        check_number(self.precision, "min_precision", above=0, most=1)
        if self.recall is not None:
            check_number(self.recall, "min_recall", above=0, most=1, meaning="or None")
        check_number(self.confidence, "confidence", above=0, below=1)
        check_count(self.matches, "min_matches", least=1)


class ConceptLimits:
    """The rules for one concept, of all layers, under the limits.

    The samples that rules were mined from propose a few sets of each layer, from a bold one to careful ones: the
    first rules, in the order of what they find for each unit, until precision and recall are reached there with a
    margin. The samples for choosing test these sets by the lower bounds of Clopper and Pearson for precision and
    recall. All sets of a concept share the chance to be wrong (Bonferroni). A set has to pass both bounds, so these
    need not share it.

    Args:
        limits: The limits.
        concept: The concept.
        rules: Rules, among them those for the concept.
        parts: The parts of the samples.
        units: The units that a rule reads.
    """

    def __init__(
        self, limits: Limits, concept: str, *, rules: Iterable[ConceptRule], parts: SampleParts, units: UnitsRead
    ) -> None:
        self._limits, self._concept, self._units = limits, concept, units
        self._mining, self._choosing = parts[MINING], parts[CHOOSING]
        self._rules = [rule for rule in rules if rule.concept == concept]
        self._sets = {layer: self._proposed(layer) for layer in dict.fromkeys(rule.layer for rule in self._rules)}
        self._error = (1 - limits.confidence) / max(sum(map(len, self._sets.values())), 1)

    def _proposed(self, layer: str) -> list[list[ConceptRule]]:
        """Return the different sets that are to be tested."""
        sets: list[list[ConceptRule]] = []
        for margin in _MARGINS:
            some = self._shortest(layer, margin)
            if some and some not in sets:
                sets.append(some)
        return sets

    def _shortest(self, layer: str, margin: float) -> list[ConceptRule]:
        """Return the rules of a layer that reach precision and recall where they were mined; none if none do."""
        precision, recall = _raised(self._limits.precision, margin), self._limits.recall
        rules: list[ConceptRule] = []
        for rule in self._in_order(self._precise(layer, precision)):
            rules.append(rule)
            if recall is not None and self._has_recall(rules, _raised(recall, margin)):
                return rules
        return rules if recall is None else []

    def _precise(self, layer: str, precision: float) -> list[ConceptRule]:
        """Return the rules of a layer that were precise where they were mined, and hold often enough elsewhere."""
        precise = []
        for rule in self._rules:
            counts = self._mining.counts(self._concept, [rule])
            often = self._choosing.counts(self._concept, [rule]).matched >= self._limits.matches
            certain = lower_bound(counts.hits, counts.matched, error=_ERROR) >= precision
            precise += [rule] if rule.layer == layer and often and certain else []
        return precise

    def _has_recall(self, rules: Iterable[ConceptRule], recall: float) -> bool:
        counts = self._mining.counts(self._concept, rules)
        return lower_bound(counts.hits, counts.positives, error=_ERROR) >= recall

    def _in_order(self, rules: list[ConceptRule]) -> Iterator[ConceptRule]:
        """Yield the rule that finds the most missing samples for each unit that it adds, again and again."""
        missing, units = self._mining.labels[self._concept].copy(), set[int]()
        while rules:
            finds = {rule: self._mining.weigh(missing & self._mining.holds[rule]) for rule in rules}
            cost = {rule: len({*self._units(rule)} - units) or 0.5 for rule in rules}  # half a unit, if it adds none
            best = max(rules, key=lambda rule: (finds[rule] / cost[rule], -cost[rule]))
            if not finds[best]:
                return
            yield best
            missing &= ~self._mining.holds[best]
            units |= {*self._units(best)}
            rules.remove(best)

    def choose(self, layer: str, *, kept: Iterable[int] = ()) -> list[ConceptRule]:
        """Choose rules of a layer that read the least units; none if none suffice.

        Args:
            layer: The name of the layer.
            kept: The units that are kept anyway, which cost nothing.
        """
        certified = [some for some in self._sets.get(layer, ()) if self._is_certified(some)]
        if self._limits.recall is None:
            return max(certified, key=lambda some: self._mining.counts(self._concept, some).hits, default=[])
        unit_sets = [{unit for rule in some for unit in self._units(rule)} - {*kept} for some in certified]
        return min(zip(certified, unit_sets, strict=True), key=lambda pair: len(pair[1]), default=([], set()))[0]

    def _is_certified(self, rules: Sequence[ConceptRule]) -> bool:
        precision, recall = self._bounds(rules)
        return precision >= self._limits.precision and recall >= (self._limits.recall or 0)

    def _bounds(self, rules: Iterable[ConceptRule]) -> tuple[float, float]:
        """Return the precision and the recall that the samples for choosing certify of rules together."""
        counts = self._choosing.counts(self._concept, rules)
        precision = lower_bound(counts.hits, counts.matched, error=self._error)
        return precision, lower_bound(counts.hits, counts.positives, error=self._error)

    def shortfall(self, layers: Sequence[str]) -> str:
        """Describe how close the rules of some layers come, for the end of a sentence."""
        rules = [rule for rule in self._rules if rule.layer in layers]
        if not rules:
            return f"no unit tells {self._concept!r} better than chance would"
        sets = [some for layer in layers for some in self._sets.get(layer, ())]
        sets += [some for layer in layers if (some := self._precise(layer, self._limits.precision))]
        best = max(sets or [[rule] for rule in rules], key=self._margin)
        counts, (precision, recall) = self._choosing.counts(self._concept, best), self._bounds(best)
        rule = f": {best[0]}" if len(best) == 1 else ""
        return (
            f"the best rules for {self._concept!r}, {len(best)} of {best[0].layer}, have a precision of "
            f"{counts.precision:.3f} and a recall of {counts.recall:.3f} on the samples for choosing, which certify "
            f"{precision:.3f} and {recall:.3f}{rule}"
        )

    def _margin(self, rules: Sequence[ConceptRule]) -> float:
        """Return by how much the worse of precision and recall exceeds what is asked for."""
        precision, recall = self._bounds(rules)
        return min(precision - self._limits.precision, recall - (self._limits.recall or 0))


def _raised(fraction: float, margin: float) -> float:
    return fraction + margin * (1 - fraction)

"""From rules to kept units: the decision, and the rules that need each unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfprune.methods.concepts.concept_rules import ConceptRules
from tfprune.methods.concepts.layer_units import UnitsOfModel
from tfprune.methods.rule_mining.choose_rules import ConceptLimits, Limits
from tfprune.methods.rule_mining.parts import CHOOSING
from tfprune.methods.rule_mining.rule import ConceptRule
from tfprune.solving.dependency_graph import Group


class KeptUnits:
    """The bundles of channels to keep, and the rules that need them.

    Attributes:
        rules: The rules that the requirements rely on.
        needed: The indices of the rules that read a bundle, by the bundle.
        shrunk: The groups that may lose units, because each concept has rules in one of their layers.
        keep: True for each bundle that is kept.

    Args:
        units: The units of the model.
        rules: All rules.
        concepts: The required concepts.
        limits: The precision and recall that rules must have.
        min_units: The least number of units that a group keeps.

    Raises:
        ValueError: If a concept has no rules that suffice in any layer.
    """

    def __init__(
        self, units: UnitsOfModel, rules: ConceptRules, *, concepts: Sequence[str], limits: Limits, min_units: int
    ) -> None:
        self.network, self._units, self._rules = units.network, units, rules
        self._concepts = concepts
        self._limits = {
            concept: ConceptLimits(limits, concept, rules=rules.rules, parts=rules.parts, units=self.bundles_of)
            for concept in concepts
        }
        self._mined: dict[str, list[str]] = {}  # the layers with rules, by the name of their group
        for layer in rules.layers:
            self._mined.setdefault(units.layers[layer].group.name, []).append(layer)
        rules_by_pair = self._choose_rules()
        self._check_found({concept for (_, concept), some in rules_by_pair.items() if some}, limits)
        self._lacking = {
            group: [concept for concept in concepts if not any(rules_by_pair[layer, concept] for layer in layers)]
            for group, layers in self._mined.items()
        }
        self.shrunk = [group for group in self.network.groups if self._lacking.get(group.name) == []]
        members = [layer for group in self.shrunk for layer in self._mined[group.name]]
        self.rules = tuple(rule for (layer, _), some in rules_by_pair.items() if layer in members for rule in some)
        self.needed: dict[int, list[int]] = {}
        for index, rule in enumerate(self.rules):
            for bundle in self.bundles_of(rule):
                self.needed.setdefault(bundle, []).append(index)
        self.keep = self._kept(min_units)

    def _choose_rules(self) -> dict[tuple[str, str], list[ConceptRule]]:
        """Choose rules for each layer and concept in turn: units that one needs cost the next nothing."""
        rules_by_pair: dict[tuple[str, str], list[ConceptRule]] = {}
        for layer in self._rules.layers:
            bundles: set[int] = set()
            for concept in self._concepts:
                some = self._limits[concept].choose(layer, kept=bundles)
                bundles.update(bundle for rule in some for bundle in self.bundles_of(rule))
                rules_by_pair[layer, concept] = some
        return rules_by_pair

    def _check_found(self, covered: set[str], limits: Limits) -> None:
        for concept in self._concepts:
            if concept not in covered:
                recall = "" if limits.recall is None else f" that find {limits.recall:g} of it"
                raise ValueError(
                    f"Expected rules for {concept!r} with a precision of at least {limits.precision:g}{recall}, with "
                    f"{limits.confidence:.0%} confidence. Received none: "
                    f"{self._limits[concept].shortfall([*self._rules.layers])}. Lower min_precision or min_recall, "
                    f"mine rules of more layers or more samples, or train the model further."
                )

    def bundles_of(self, rule: ConceptRule) -> list[int]:
        """Return the bundles of the units that a rule reads."""
        return list(dict.fromkeys(self._units.layers[rule.layer].bundles[list(rule.units)].tolist()))

    def whole(self, group: Group) -> str:
        """Explain why a group keeps all units; empty if some may be removed."""
        if group in self.shrunk:
            return ""
        return group.stuck or self.left_out(group)

    def left_out(self, group: Group) -> str:
        """Explain why the requirements keep all units of a group whose units could be removed."""
        layers = self._mined.get(group.name, [])
        short = [self._limits[concept].shortfall(layers) for concept in self._lacking.get(group.name, ())]
        return "; ".join(short) or "no rules were mined for it"

    def _kept(self, min_units: int) -> np.ndarray:
        keep = self.network.all_kept()
        for group in self.shrunk:
            free = group.free_part().bundles
            keep[free] = [bundle in self.needed for bundle in free.tolist()]
            missing = min(min_units, group.bundles.size) - int(np.count_nonzero(keep[group.bundles]))
            more = [bundle for bundle in self._next_best(group) if not keep[bundle]]
            keep[more[: max(missing, 0)]] = True
        return keep

    def _next_best(self, group: Group) -> list[int]:
        """Return the bundles of a group, those of more precise rules first."""
        layers = self._mined[group.name]
        rules = [rule for rule in self._rules.rules if rule.layer in layers and rule.concept in self._concepts]
        choosing = self._rules.parts[CHOOSING]  # the samples for reporting decide nothing
        rules.sort(key=lambda rule: (-choosing.counts(rule.concept, [rule]).precision, -rule.support))
        seen = [bundle for rule in rules for bundle in self.bundles_of(rule)]
        return list(dict.fromkeys(seen + group.bundles.tolist()))

    def read_units(self, bundle: int) -> list[str]:
        """Return the units of a bundle that rules read, such as `conv[3]`."""
        return list(
            dict.fromkeys(
                f"{rule.layer}[{unit}]"
                for rule in (self.rules[index] for index in self.needed.get(bundle, ()))
                for unit in rule.units
                if self._units.layers[rule.layer].bundles[unit] == bundle
            )
        )

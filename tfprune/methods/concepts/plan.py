"""Plan to keep the units that the rules for the required concepts read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tfprune.base.arrays import output_axes
from tfprune.base.spec import ArgumentTypeError, check_count
from tfprune.channels.groups import kernels_by_weight
from tfprune.compact.plan import left_alone
from tfprune.compact.shrink import ShrinkPlan
from tfprune.masking.strip import FlatCopy, flat_copy
from tfprune.masking.wrap import location_of
from tfprune.methods.concepts.rules import (
    ConceptRules,
    Require,
    UnitsOfModel,
    check_rule_layers,
    makers,
    requirements,
)
from tfprune.methods.concepts.trace import ConceptTrace, KeptUnit, TracedLayer, evidence_of
from tfprune.methods.rule_mining import CHOOSING, REPORTING, ConceptLimits, ConceptRule, Limits
from tfprune.models.anatomy import Anatomy
from tfprune.solving.dependency_graph import Group

# From rules to kept units: the decision, and the rules that need each unit.


class _KeptUnits:
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


# The rows of a concept trace, and the scores of its criterion.


def _traced_layers(decision: _KeptUnits) -> Iterator[TracedLayer]:
    """Yield a row for each layer that computes units."""
    for group in decision.network.groups:
        for layer, bundles in makers(decision.network, group):
            count = int(np.count_nonzero(decision.keep[bundles]))
            yield TracedLayer(layer, group.name, bundles.size, count, decision.whole(group))


def _traced_units(decision: _KeptUnits) -> Iterator[KeptUnit]:
    """Yield a row for each kept unit of a layer that may lose some."""
    for group in decision.shrunk:
        for layer, bundles in makers(decision.network, group):
            for unit, bundle in enumerate(bundles.tolist()):
                if decision.keep[bundle]:
                    yield _traced(decision, layer, unit, bundle)


def _traced(decision: _KeptUnits, layer: str, unit: int, bundle: int) -> KeptUnit:
    rules = decision.needed.get(bundle, [])
    own = [index for index in rules if decision.rules[index].layer == layer and unit in decision.rules[index].units]
    if own:
        return KeptUnit(layer, unit, tuple(own))
    if rules:
        return KeptUnit(layer, unit, tuple(rules), tuple(decision.read_units(bundle)))
    reason = decision.network.reasons.get(bundle, "so many units stay at least")
    return KeptUnit(layer, unit, (), (), reason)


def _scores_of(copy: FlatCopy, decision: _KeptUnits) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the path of each kernel whose units may be removed, and 1 or 0 for each of its outputs."""
    kernels = kernels_by_weight(decision.network, copy.model)
    bundles = np.concatenate([group.bundles for group in decision.shrunk] or [np.empty(0, int)])
    for weight, variable in decision.network.variables(copy.model):
        place = location_of(copy.sources[id(variable)])
        if weight in kernels and place is not None and output_axes(kernels[weight][2].axes) == weight.making(bundles):
            (axis,) = weight.making(bundles)
            yield place.path, tuple(decision.keep[weight.bundles_along[axis]].astype(float).tolist())


def plan_concepts(
    model: keras.Model,
    rules: ConceptRules,
    *,
    require: Require,
    min_precision: float = 0.9,
    min_recall: float | None = 0.8,
    min_matches: int = 10,
    confidence: float = 0.95,
    min_units: int = 1,
) -> tuple[ShrinkPlan, ConceptTrace]:
    """Plan to keep the units that the rules for the required concepts read, and to remove the others.

    Use it if a model does more than the product needs: the smaller model keeps a unit only for a reason that you can
    read. Print the plan and the trace, then call `shrink(model, plan)`, or `prune_to(model, plan, data)` to train the
    smaller model as well. A layer keeps all its units if a required concept has no precise rule in it; the plan lists
    these layers.

    Args:
        model: The model that the rules were mined from.
        rules: The rules that `concept_rules` returned.
        require: The required concepts, or a dict from requirements, in words, to the concepts that each needs. For
            each concept `c`, `not c` is a concept as well.
        min_precision: The least precision of a rule, in (0, 1]. Default 0.9.
        min_recall: The least recall of the rules for a concept together, in (0, 1]. Rules that need the fewest units
            are chosen first, until they reach this recall. None takes every precise rule that adds to it. Default
            0.8.
        min_matches: The least number of samples for choosing on which a rule holds, at least 1. Default 10.
        confidence: The least probability that the rules for a concept have this precision and recall, in (0, 1). Both
            are judged by lower bounds that are corrected for the number of rules. Default 0.95.
        min_units: The least number of units that a layer keeps, at least 1. Default 1.

    Returns:
        The plan, as from `plan_shrink`, and the trace from requirements to units. Its precision and recall are
        measured on samples that neither mined nor chose the rules.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If no layer has rules of this precision and recall for a concept; the message shows the best.
        ValueError: If the rules were mined from another model, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> import tfprune
        >>> x = np.random.default_rng(0).normal(size=(1000, 2)).astype("float32")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([np.eye(2, 4), np.zeros(4)])
        >>> rules = tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0, "up": x[:, 1] > 0})
        >>> plan, trace = plan_concepts(model, rules, require={"R1: tell left from right": ["right"]})
        >>> plan.rows[0].channels, plan.rows[0].kept
        (4, 1)

    Reference:
        Formica et al., 2026, "Engineering Resource-constrained Software Systems with DNN Components",
        arXiv:2604.09988, as its abstract describes it.
    """
    if not isinstance(rules, ConceptRules):
        raise ArgumentTypeError(
            "rules",
            "rules",
            f"{rules!r} of type {type(rules).__name__}",
            advice="Mine them with tfprune.concepts.concept_rules(model, samples, concepts).",
        )
    limits = Limits(min_precision, min_recall, confidence, min_matches)
    min_units = check_count(min_units, "min_units", least=1)
    required = requirements(require, concepts=rules.names)
    concepts = list(dict.fromkeys(concept for needed in required.values() for concept in needed))
    copy = flat_copy(Anatomy.of(model))
    units = check_rule_layers(UnitsOfModel(copy), rules.layers)
    decision = _KeptUnits(units, rules, concepts=concepts, limits=limits, min_units=min_units)
    plan = ShrinkPlan(
        decision.network, decision.keep, left_alone(decision.network, decision.shrunk, left_out=decision.left_out)
    )
    trace = ConceptTrace(
        required,
        limits.precision,
        limits.recall,
        decision.rules,
        tuple(_traced_layers(decision)),
        tuple(_traced_units(decision)),
        tuple(_scores_of(copy, decision)),
        limits.confidence,
        evidence_of(decision.rules, rules.parts[REPORTING], precision=limits.precision, recall=limits.recall),
    )
    return plan, trace

"""Plan to keep the units that the rules for required concepts read, and the trace of why each unit is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import output_axes
from tfprune.base.folders import save_file
from tfprune.base.output import bar, document, facts, key, name_text, rows_table, section, text
from tfprune.base.spec import ArgumentTypeError, check_count
from tfprune.channels.groups import kernels_by_weight
from tfprune.compact.plan import left_alone
from tfprune.compact.shrink import ShrinkPlan
from tfprune.criteria import UnitScores
from tfprune.masking.strip import FlatCopy, flat_copy
from tfprune.masking.wrap import location_of
from tfprune.methods.concepts.rules import (
    ConceptRules,
    Require,
    UnitsOfModel,
    check_rule_layers,
    makers,
    observe,
    requirements,
)
from tfprune.methods.rule_mining import CHOOSING, REPORTING, ConceptLimits, ConceptRule, Counts, Limits, Part, percent
from tfprune.models.anatomy import Anatomy
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import Group

# The contents of a concept trace: requirements, rules, layers and kept units.


@dataclass(frozen=True)
class KeptUnit(Report):
    """A unit that is kept, and the reason.

    Attributes:
        layer: The layer that computes it.
        unit: Its index in the layer.
        rules: The indices, among the rules of the trace, of those that read it or a unit that it is tied to.
        tied_to: The units that these rules read, if it is not among them, such as `conv[3]`.
        reason: Why it is kept if no rule needs it; empty if one does.
    """

    layer: str
    unit: int
    rules: tuple[int, ...]
    tied_to: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class TracedLayer(Report):
    """A layer, and the number of units that it keeps.

    Attributes:
        layer: The layer.
        group: The group that its units belong to.
        units: The number of its units.
        kept: The number of units that it keeps.
        reason: Why it keeps all of them; empty if the trace gives a reason for each unit.
    """

    layer: str
    group: str
    units: int
    kept: int
    reason: str = ""


@dataclass(frozen=True)
class ConceptEvidence(Report):
    """How well the rules of a layer tell a concept together.

    Attributes:
        concept: The concept.
        layer: The layer.
        rules: The indices of these rules, among the rules of the trace.
        units: The number of units that they read.
        counts: How often one of them holds, and is right, on samples that neither mined nor chose them.
        is_met: Whether precision and recall there are at least those that were asked for.
    """

    concept: str
    layer: str
    rules: tuple[int, ...]
    units: int
    counts: Counts
    is_met: bool


@dataclass(frozen=True)
class TraceContents(Report):
    """The fields of a `ConceptTrace`, which documents them."""

    requirements: dict[str, tuple[str, ...]]
    min_precision: float
    min_recall: float | None
    rules: tuple[ConceptRule, ...]
    layers: tuple[TracedLayer, ...]
    units: tuple[KeptUnit, ...]
    scores: tuple[tuple[str, tuple[float, ...]], ...] = ()
    confidence: float = 0.95
    evidence: tuple[ConceptEvidence, ...] = ()


# The page of a concept trace for a browser: requirements, layers, rules, and the reason for each kept unit.

_LONGEST_SENTENCE = 1200  # characters of a rule or a reason
_TITLE = "Why each unit stays"


def _trace_page(trace: TraceContents) -> str:
    """Return the page: it loads nothing, runs no code, and escapes the names of requirements and layers."""
    parts = [
        facts(_facts(trace)),
        section("Requirements", "\n".join(_requirements(trace))),
        section("Layers", _layers(trace.layers)),
        section("Rules", _rules(trace.rules)),
        section("Units", "\n".join(_units(trace))),
        section("What the numbers mean", _notes(trace)),
    ]
    return document(_TITLE, parts, kicker="Concept trace", footer="Made by tfprune.concepts.ConceptTrace.")


def _facts(trace: TraceContents) -> Iterator[tuple[str, str, str]]:
    concepts = {concept for needed in trace.requirements.values() for concept in needed}
    shrunk = [layer for layer in trace.layers if not layer.reason]
    remaining, units = sum(layer.kept for layer in shrunk), sum(layer.units for layer in shrunk)
    yield "Requirements", str(len(trace.requirements)), _count(concepts)
    yield "Rules", f"{len(trace.rules):,}", f"precision {trace.min_precision:g} or better"
    yield "Units that stay", f"{remaining:,}", f"of {units:,} where some may go"


def _count(concepts: Collection[str]) -> str:
    return f"{len(concepts)} concept{'' if len(concepts) == 1 else 's'}"


def _requirements(trace: TraceContents) -> Iterator[str]:
    for name, concepts in trace.requirements.items():
        rows = []
        for concept in concepts:
            for each in trace.evidence:
                if each.concept == concept:
                    label = f'{name_text(concept)}<span class="why">{text(each.layer)}: {_links(each.rules)}</span>'
                    met = '<span class="yes">yes</span>' if each.is_met else '<span class="no">no</span>'
                    rows.append([label, f"{each.units}", *_fractions(each.counts), met])
        table = rows_table(["Concept", "Units", "Precision", "Recall", "Met"], rows)
        yield (
            f'<details open><summary>{name_text(name)}<span class="size">{_count(concepts)}</span></summary>'
            f"{table}</details>"
        )


def _layers(layers: Iterable[TracedLayer]) -> str:
    rows = []
    for layer in layers:
        why = f'<span class="why">{text(layer.reason, _LONGEST_SENTENCE)}</span>' if layer.reason else ""
        parts = bar([("v", layer.kept / max(layer.units, 1)), ("d", 1 - layer.kept / max(layer.units, 1))])
        rows.append([name_text(layer.layer) + why + parts, f"{layer.units:,}", f"{layer.kept:,}"])
    return key([("v", "units that stay"), ("d", "units that go")]) + rows_table(["Layer", "Units", "Stay"], rows)


def _rules(rules: Sequence[ConceptRule]) -> str:
    rows = []
    for index, rule in enumerate(rules):
        label = f'<span id="rule-{index + 1}" class="name">{index + 1}. {text(rule.concept)}</span>'
        why = f'<span class="why name">{text(str(rule), _LONGEST_SENTENCE)}</span>'
        rows.append([label + why, f"{rule.support:,}", *_fractions(rule.counts)])
    return rows_table(["Rule", "Support", "Precision", "Recall"], rows)


def _fractions(counts: Counts) -> Iterator[str]:
    """Yield precision and recall, each with its interval below."""
    for value in (
        percent(counts.precision, counts.precision_interval),
        percent(counts.recall, counts.recall_interval),
    ):
        number, _, bounds = value.partition(" ")
        yield f'{number} <span class="why">{bounds}</span>'


def _units(trace: TraceContents) -> Iterator[str]:
    for layer in trace.layers:
        if layer.reason:
            continue
        rows = [_unit(each) for each in trace.units if each.layer == layer.layer]
        yield (
            f'<details><summary>{name_text(layer.layer)}<span class="size">{layer.kept:,} of {layer.units:,}</span>'
            f"</summary>{rows_table(['Unit', 'Rules'], rows)}</details>"
        )


def _unit(each: KeptUnit) -> list[str]:
    tied = f"tied to {text(', '.join(each.tied_to), _LONGEST_SENTENCE)}, for " if each.tied_to else ""
    why = text(each.reason, _LONGEST_SENTENCE) or f"{tied}{_links(each.rules)}"
    return [f'{name_text(f"{each.layer}[{each.unit}]")}<span class="why">{why}</span>', f"{len(each.rules)}"]


def _links(indices: Sequence[int]) -> str:
    listed = ", ".join(f'<a href="#rule-{index + 1}">{index + 1}</a>' for index in indices)
    return f"{'rule' if len(indices) == 1 else 'rules'} {listed}"


def _notes(trace: TraceContents) -> str:
    recall = "" if trace.min_recall is None else f" Rules were taken until they found {trace.min_recall:.0%} of it."
    notes = {
        "Rule": "Bounds on the activations of some units: where all hold, the concept is there. A channel of an "
        f"image counts with its mean over positions. Rules were chosen by lower bounds, with {trace.confidence:.0%} "
        "confidence for each concept.",
        "Support": "The number of samples that the rule was mined from and on which it holds.",
        "Precision": "The fraction of samples with the concept, among those on which the rule holds, with its 95 % "
        "interval. These samples neither mined nor chose the rule.",
        "Recall": f"The fraction of samples with the concept on which the rule holds.{recall}",
        "Met": "Whether precision and recall of these samples are at least those that were asked for.",
        "Tied": "Channels that are added to each other can only stay or go together.",
    }
    pairs = [f"<dt>{name}</dt><dd>{note}</dd>" for name, note in notes.items()]
    return f'<dl class="notes">{"".join(pairs)}</dl>'


@dataclass(frozen=True)
class ConceptTrace(TraceContents):
    """The requirement that needs each kept unit, and the rule that reads it; prints as tables.

    Attributes:
        requirements: The concepts of each requirement.
        min_precision: The least precision of a rule.
        min_recall: The least recall of the rules for a concept together; None if no least recall was set.
        rules: The rules that the requirements rely on, with the counts of the samples for reporting.
        layers: The layers, and the number of units that each keeps.
        units: The kept units of all layers that lose some.
        scores: For training: the score of each unit, by the path of the kernel that computes it.
        confidence: The least probability that the chosen rules have this precision and recall.
        evidence: Precision and recall of the rules together, for each concept and layer, on samples for reporting.

    Example:
        >>> import keras, numpy, tfprune
        >>> x = numpy.random.default_rng(0).normal(size=(1000, 2)).astype("float32")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([numpy.eye(2, 4), numpy.zeros(4)])
        >>> rules = tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0, "up": x[:, 1] > 0})
        >>> plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["right"])
        >>> [(each.layer, each.unit) for each in trace.units]
        [('hidden', 0)]
        >>> trace.why("hidden", 0).partition(" > ")[0]
        "'right' is required: hidden[0]"
    """

    JSON_NAMES = ("requirements", "min_precision", "min_recall", "confidence", "rules", "evidence", "layers", "units")

    def why(self, layer: str, index: int) -> str:
        """Explain why a unit is kept.

        Args:
            layer: The name of the layer.
            index: The index of the unit, from 0.

        Raises:
            ValueError: If the layer is not in the trace, or the unit is not kept.
        """
        traced = next((each for each in self.layers if each.layer == layer), None)
        if traced is not None and traced.reason and 0 <= index < traced.units:
            return traced.reason
        row = next((each for each in self.units if (each.layer, each.unit) == (layer, index)), None)
        if row is None:
            layers = ", ".join(each.layer for each in self.layers)
            raise ValueError(
                f"Expected a unit that is kept, in one of the layers {layers}. Received: unit {index} of {layer!r}."
            )
        tied = f"tied to {', '.join(row.tied_to)}; " if row.tied_to else ""
        lines = [f"{self._needed_for(self.rules[index].concept)}: {self.rules[index]}" for index in row.rules]
        return row.reason or tied + "; ".join(lines)

    def _needed_for(self, concept: str) -> str:
        names = [repr(name) for name, concepts in self.requirements.items() if concept in concepts]
        if names == [repr(concept)]:
            return f"{concept!r} is required"
        return f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'} {concept!r}"

    def evaluate(
        self, model: keras.Model, samples: Any, concepts: Mapping[str, Any], *, batch_size: int = 32
    ) -> ConceptTrace:
        """Return the same trace with the precision and recall that its rules have on fresh samples.

        Args:
            model: The model that the rules were mined from, or one with the same layers.
            samples: Inputs, as in `concept_rules`. Labels are ignored.
            concepts: 0 or 1 for each sample, for each concept that is required.
            batch_size: Samples in a batch of arrays, at least 1. Default 32.

        Raises:
            ValueError: If a concept is missing, or a layer of the rules is not in the model.
        """
        paths = {rule.layer for rule in self.rules}
        layers = {each.layer: each.units for each in self.layers if each.layer in paths}
        part = observe(model, samples, concepts=concepts, layers=layers, rules=self.rules, batch_size=batch_size)
        rules = tuple(replace(rule, counts=part.counts(rule.concept, [rule])) for rule in self.rules)
        evidence = evidence_of(rules, part, precision=self.min_precision, recall=self.min_recall)
        return replace(self, rules=rules, evidence=evidence)

    def criterion(self) -> UnitScores:
        """Return a criterion for training that removes units without a requirement first, the smallest first.

        Wrap the model with it and `pattern="channel"`, and pass `allocation=plan.allocation()` to the callback.
        """
        return UnitScores(self.scores)

    def html(self, path: str | Path) -> None:
        """Write the trace as one page for a browser, which loads nothing and runs no code.

        Args:
            path: The file, such as `trace.html`.

        Raises:
            ValueError: If the file cannot be written.
        """
        save_file(path, _trace_page(self).encode())

    def __str__(self) -> str:
        header = ["requirement", "concept", "layer", "rules", "units", "support", "precision", "recall", "met"]
        sizes = [[each.layer, f"{each.kept} of {each.units}"] for each in self.layers]
        layers = table(["layer", "units kept"], sizes)
        whole = skipped_table(Skipped(each.layer, each.reason) for each in self.layers if each.reason)
        return f"{table(header, self._needs(), left=3)}\n\n{layers}{whole}"

    def _needs(self) -> list[list[Any]]:
        """Return a row for each requirement, concept and layer."""
        rows = []
        for name, concepts in self.requirements.items():
            for concept in concepts:
                rows += [[name, *self._row(each)] for each in self.evidence if each.concept == concept]
        return rows

    def _row(self, each: ConceptEvidence) -> list[Any]:
        support, counts = sum(self.rules[index].support for index in each.rules), each.counts
        precision = percent(counts.precision, counts.precision_interval)
        recall = percent(counts.recall, counts.recall_interval)
        met = "yes" if each.is_met else "no"
        return [each.concept, each.layer, len(each.rules), each.units, support, precision, recall, met]


def evidence_of(
    rules: Sequence[ConceptRule], part: Part, *, precision: float, recall: float | None
) -> tuple[ConceptEvidence, ...]:
    """Count how well the rules of each layer together recognize each concept, on the samples of a part."""
    positions: dict[tuple[str, str], list[int]] = {}
    for index, rule in enumerate(rules):
        positions.setdefault((rule.concept, rule.layer), []).append(index)
    evidence = []
    for (concept, layer), indices in positions.items():
        own = [rules[index] for index in indices]
        counts = part.counts(concept, own)
        is_met = counts.precision >= precision and counts.recall >= (recall or 0)
        units = len({unit for rule in own for unit in rule.units})
        evidence.append(ConceptEvidence(concept, layer, tuple(indices), units, counts, is_met))
    return tuple(evidence)


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

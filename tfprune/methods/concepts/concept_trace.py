"""A trace from requirements to units: the reason for each unit that a plan keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from tfprune.criteria import UnitScores
from tfprune.methods.concepts.observe import observe
from tfprune.methods.concepts.trace_contents import ConceptEvidence, TraceContents
from tfprune.methods.concepts.trace_page import trace_page
from tfprune.methods.rule_mining.counts import percent
from tfprune.methods.rule_mining.parts import Part
from tfprune.methods.rule_mining.rule import ConceptRule
from tfprune.report import Skipped, skipped_table, table


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
        try:
            Path(path).write_text(trace_page(self), encoding="utf-8", newline="\n")
        except OSError as error:
            raise ValueError(
                f"Expected a file that can be written. Received: {str(path)!r} ({error.strerror})."
            ) from error

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

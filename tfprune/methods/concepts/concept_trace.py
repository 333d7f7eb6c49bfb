"""A trace from requirements to units: the reason for each unit that a plan keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.criteria import UnitScores
from tfprune.methods.concepts.rule import ConceptRule
from tfprune.methods.concepts.trace_contents import TraceContents
from tfprune.methods.concepts.trace_page import trace_page
from tfprune.report import table


@dataclass(frozen=True)
class ConceptTrace(TraceContents):
    """The requirement that needs each kept unit, and the rule that reads it; prints as tables.

    Attributes:
        requirements: The concepts of each requirement.
        min_precision: The least precision of a rule.
        min_recall: The recall that the rules for a concept had to reach; None if all rules that add to it were taken.
        rules: The rules that the requirements rely on.
        layers: The layers, and the number of units that each keeps.
        units: The kept units of all layers that lose some.
        scores: For training: the score of each unit, by the path of the kernel that computes it.

    Example:
        >>> import keras, numpy, tfprune
        >>> x = numpy.random.default_rng(0).normal(size=(400, 2)).astype("float32")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([numpy.eye(2, 4), numpy.zeros(4)])
        >>> rules = tfprune.concept_rules(model, x, {"right": x[:, 0] > 0, "up": x[:, 1] > 0})
        >>> plan, trace = tfprune.plan_concepts(model, rules, require=["right"])
        >>> [(each.layer, each.unit) for each in trace.units]
        [('hidden', 0)]
        >>> trace.why("hidden", 0).partition(" > ")[0]
        "'right' is required: hidden[0]"
    """

    JSON_NAMES = ("requirements", "min_precision", "min_recall", "rules", "layers", "units")

    def why(self, layer: str, unit: int) -> str:
        """Explain why a unit is kept.

        Raises:
            ValueError: If the layer is not in the trace, or the unit is not kept.
        """
        traced = next((each for each in self.layers if each.layer == layer), None)
        if traced is not None and traced.reason and 0 <= unit < traced.units:
            return traced.reason
        row = next((each for each in self.units if (each.layer, each.unit) == (layer, unit)), None)
        if row is None:
            layers = ", ".join(each.layer for each in self.layers)
            raise ValueError(
                f"Expected a unit that stays, in one of the layers {layers}. Received: unit {unit} of {layer!r}."
            )
        tied = f"tied to {', '.join(row.tied_to)}; " if row.tied_to else ""
        lines = [f"{self._needed_for(self.rules[index].concept)}: {self.rules[index]}" for index in row.rules]
        return row.reason or tied + "; ".join(lines)

    def _needed_for(self, concept: str) -> str:
        names = [repr(name) for name, concepts in self.requirements.items() if concept in concepts]
        if names == [repr(concept)]:
            return f"{concept!r} is required"
        return f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'} {concept!r}"

    def criterion(self) -> UnitScores:
        """Return a criterion for training: units that no requirement needs go first, the smallest of them first.

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
        header = ["requirement", "concept", "layer", "rules", "units", "support", "precision", "recall"]
        layers = [[each.layer, each.units, each.kept, each.reason or "unit by unit"] for each in self.layers]
        listed = table(["layer", "units", "kept", "reason"], layers)
        return f"{table(header, self._needs(), left=3)}\n\n{listed}"

    def _needs(self) -> list[list[Any]]:
        """Return a row for each requirement, concept and layer."""
        rows = []
        for name, concepts in self.requirements.items():
            for concept in concepts:
                rules = [rule for rule in self.rules if rule.concept == concept]
                for layer in dict.fromkeys(rule.layer for rule in rules):
                    rows.append([name, concept, layer, *_summary([rule for rule in rules if rule.layer == layer])])
        return rows


def _summary(rules: list[ConceptRule]) -> list[Any]:
    matched = sum(rule.matched for rule in rules)
    return [
        len(rules),
        len({unit for rule in rules for unit in rule.units}),
        sum(rule.support for rule in rules),
        f"{sum(rule.hits for rule in rules) / matched:.1%}",
        f"{sum(rule.recall for rule in rules):.1%}",
    ]

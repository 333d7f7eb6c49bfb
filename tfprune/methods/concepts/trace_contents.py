"""The contents of a concept trace: requirements, rules, layers and kept units."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.methods.rule_mining.counts import Counts
from tfprune.methods.rule_mining.rule import ConceptRule
from tfprune.report import Report


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

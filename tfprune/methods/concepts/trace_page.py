"""The page of a concept trace for a browser: requirements, layers, rules, and the reason for each kept unit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from tfprune.base.html import bar, document, facts, key, name_text, rows_table, section, text
from tfprune.methods.concepts.trace_contents import KeptUnit, TraceContents, TracedLayer
from tfprune.methods.rule_mining.counts import Counts, percent
from tfprune.methods.rule_mining.rule import ConceptRule

LONGEST_SENTENCE = 1200  # characters of a rule or a reason
TITLE = "Why each unit stays"


def trace_page(trace: TraceContents) -> str:
    """Return the page: it loads nothing, runs no code, and escapes the names of requirements and layers."""
    parts = [
        facts(_facts(trace)),
        section("Requirements", "\n".join(_requirements(trace))),
        section("Layers", _layers(trace.layers)),
        section("Rules", _rules(trace.rules)),
        section("Units", "\n".join(_units(trace))),
        section("What the numbers mean", _notes(trace)),
    ]
    return document(TITLE, parts, kicker="Concept trace", footer="Made by tfprune.concepts.ConceptTrace.")


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
        why = f'<span class="why">{text(layer.reason, LONGEST_SENTENCE)}</span>' if layer.reason else ""
        parts = bar([("v", layer.kept / max(layer.units, 1)), ("d", 1 - layer.kept / max(layer.units, 1))])
        rows.append([name_text(layer.layer) + why + parts, f"{layer.units:,}", f"{layer.kept:,}"])
    return key([("v", "units that stay"), ("d", "units that go")]) + rows_table(["Layer", "Units", "Stay"], rows)


def _rules(rules: Sequence[ConceptRule]) -> str:
    rows = []
    for index, rule in enumerate(rules):
        label = f'<span id="rule-{index + 1}" class="name">{index + 1}. {text(rule.concept)}</span>'
        why = f'<span class="why name">{text(str(rule), LONGEST_SENTENCE)}</span>'
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
    tied = f"tied to {text(', '.join(each.tied_to), LONGEST_SENTENCE)}, for " if each.tied_to else ""
    why = text(each.reason, LONGEST_SENTENCE) or f"{tied}{_links(each.rules)}"
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

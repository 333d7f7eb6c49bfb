"""The page about a comparison, for a browser: what was lost, by which groups, and samples that flipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfprune.base.html import document, facts, name_text, rows_table, section, text
from tfprune.export.comparing.sample_pictures import sample_picture

if TYPE_CHECKING:
    from tfprune.export.comparing.damage_report import DamageReport
    from tfprune.export.comparing.damage_rows import DamageRow, FlippedSample

LISTED_FLIPS = 100
LONGEST_NOTE = 600  # characters
SCROLLED = '<div style="overflow-x:auto"><div style="min-width:42rem">{}</div></div>'  # wider than a phone
GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:1.25rem"


def damage_page(report: DamageReport) -> str:
    """Write the page, which loads nothing and runs no code."""
    notes = [*(f"Limit exceeded: {reason}." for reason in report.broken), *report.notes]
    parts = [
        facts(_facts(report)),
        f"<p>{text(report.flips_text(), LONGEST_NOTE)}</p>",
        "".join(f"<p>{text(note, LONGEST_NOTE)}</p>" for note in notes),
        section("Before and after", rows_table(["", "Before", "After"], report.overall())),
        section("Groups, the largest certain damage first", _groups(report)) if report.rows else "",
        section("Corrupted samples", _corrupted(report)) if report.corrupted else "",
        *_pictures(report),
        section(_flips_title(report), _flips(report)) if report.flips else "",
    ]
    return document("What did pruning break?", parts, kicker="tfprune compare", footer="Made by tfprune compare.")


def _facts(report: DamageReport) -> Iterator[tuple[str, str, str]]:
    yield "Before", report.number(report.before.score), report.score_name
    yield "After", report.number(report.after.score), report.score_name
    interval = report.interval(report.low, report.high)
    yield report.change_name.capitalize(), report.number(report.drop), f"{report.level:.0%} interval: {interval}"
    yield "Harmed groups", str(len(report.harmed)), f"of {len(report.rows)}: they lost more than the other samples"


def _groups(report: DamageReport) -> str:
    header = [
        "Group",
        report.counted.capitalize(),
        "Before",
        "After",
        report.change_name.capitalize(),
        f"{report.level:.0%} interval",
        "p, corrected",
        "Harmed",
    ]
    return SCROLLED.format(rows_table(header, (_group(report, row) for row in report.rows)))


def _group(report: DamageReport, row: DamageRow) -> list[str]:
    scores = [report.number(value) for value in (row.before, row.after, row.drop)]
    p_value = "&lt;0.0001" if row.adjusted_p < 1e-4 else f"{row.adjusted_p:.4f}"
    harmed = '<span class="no">yes</span>' if row.harmed else ""
    interval = report.interval(row.low, row.high)
    return [name_text(row.name), f"{row.samples:,}", *scores, interval, p_value, harmed]


def _corrupted(report: DamageReport) -> str:
    header = ["Corruption", "Before", "After", report.change_name.capitalize(), f"{report.level:.0%} interval"]
    rows = (report.corrupted_cells(row) for row in report.corrupted)
    return SCROLLED.format(rows_table(header, ([name_text(name), *cells] for name, *cells in rows)))


def _flips_title(report: DamageReport) -> str:
    if report.task == "language":
        return "Texts whose loss grew most"
    return "Samples whose error grew most" if report.is_error else "Samples that flipped"


def _pictures(report: DamageReport) -> Iterator[str]:
    shown = [
        (flip, sample_picture(report.pictured[flip.index], f"sample {flip.index}"))
        for flip in report.flips
        if flip.index in report.pictured
    ]
    figures = [
        f"<figure>{picture}<figcaption>{_caption(flip)}</figcaption></figure>" for flip, picture in shown if picture
    ]
    if figures:
        title = "The most confident losses" if not report.is_error else "The largest losses"
        yield section(title, f'<div style="{GRID}">{"".join(figures)}</div>')


def _caption(flip: FlippedSample) -> str:
    sure = ["" if value is None else f" ({value:.0%})" for value in (flip.confidence_before, flip.confidence_after)]
    label = f"Label {text(flip.label)}. " if flip.label else ""
    return f"Sample {flip.index}. {label}Before: {text(flip.before)}{sure[0]}; after: {text(flip.after)}{sure[1]}."


def _flips(report: DamageReport) -> str:
    shown = report.flips[:LISTED_FLIPS]
    if report.is_error:
        return rows_table(
            ["Text" if report.task == "language" else "Sample", f"{report.score_name.capitalize()} before", "After"],
            ([str(f.index), f.before, f.after] for f in shown),
        )
    header = ["Sample", "Change", "Label", "Before", "Confidence", "After", "Confidence"]
    rows = [
        [
            str(flip.index),
            '<span class="no">lost</span>' if flip.lost else '<span class="yes">gained</span>',
            text(flip.label),
            text(flip.before),
            f"{flip.confidence_before:.1%}",
            text(flip.after),
            f"{flip.confidence_after:.1%}",
        ]
        for flip in shown
    ]
    more = len(report.flips) - len(shown)
    return SCROLLED.format(rows_table(header, rows)) + (f'<p class="soft">And {more:,} more.</p>' if more else "")

"""The page about a search, for a browser: the best files, and the program that makes each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from tfprune.base.html import document, facts, name_text, rows_table, section, text

if TYPE_CHECKING:
    from tfprune.export.compressing.results.compress_report import CompressReport
    from tfprune.export.compressing.trials.recipe import Recipe
    from tfprune.export.compressing.trials.trial import MeasuredFile

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 640, 300, 64, 44, 16  # pixels
TICKS, LINE_HEIGHT = (1, 2, 5), 14
CHARTS = {
    "latency_ms": ("Latency", "milliseconds of one inference"),
    "arena_bytes": ("RAM", "bytes of the arena"),
    "cycles": ("Cycles", "cycles of one inference, as estimated"),
}
Scale = Callable[[float], float]


def compress_page(report: CompressReport) -> str:
    """Write the page, which loads nothing and runs no code."""
    title, axis = CHARTS[report.cost]
    parts = [
        section("No recipe was tried", f"<p>{text(report.warning, 600)}</p>") if report.warning else "",
        facts(_facts(report)),
        section("The best files", _sizes(report)),
        section("What they get right", _scores(report)),
        section("What the average alone would have allowed", _refused(report)) if report.limits else "",
        section("Size", _chart(report, "bytes", "bytes of the .tflite file")),
        section(title, _chart(report, report.cost, axis)),
        section("What led to the best file", _lineage(report)),
        section("How each is made", "\n".join(_codes(report.front))),
        section("Recipes without a file", _failed(report.failed)) if report.failed else "",
    ]
    return document("Smaller files of a model", parts, kicker="tfprune compress", footer="Made by tfprune compress.")


def _facts(report: CompressReport) -> Iterator[tuple[str, str, str]]:
    best = report.best
    yield "Best file", f"{best.bytes:,} bytes", report.smaller
    yield (
        text(report.metric),
        f"{best.score:.4f}",
        f"of {report.baseline:.4f}; it may {'lose' if report.mode == 'max' else 'grow by'} {report.max_drop:.4g}",
    )
    yield "Tried", f"{report.trials} recipes", f"{len(report.tried)} files in {report.seconds:.0f} s"


def _sizes(report: CompressReport) -> str:
    if report.target is not None:
        header = ["File", "Flash", "RAM"] if report.target == "micro" else ["File", "Bytes", "Cycles"]
        rows = [[name_text(file.file), f"{file.bytes:,}", f"{getattr(file, report.cost):,}"] for file in report.front]
        return rows_table(header, rows)
    rows = [
        [name_text(file.file), f"{file.bytes:,}", f"{file.packed_bytes:,}", _number(file.latency_ms)]
        for file in report.front
    ]
    return rows_table(["File", "Bytes", "Packed", "ms"], rows)


def _scores(report: CompressReport) -> str:
    has_test = any(file.test_score is not None for file in report.front)
    header = ["File", text(report.metric).capitalize(), "Drop", *(["On test data"] if has_test else [])]
    rows = [[name_text(file.file), f"{file.score:.4f}", f"{file.drop:+.4f}"] for file in report.front]
    if has_test:
        rows = [[*row, _number(file.test_score, digits=".4f")] for row, file in zip(rows, report.front, strict=True)]
    return rows_table(header, rows)


def _refused(report: CompressReport) -> str:
    """List files that are good enough on average, and the class or group that they lose."""
    if not report.refused:
        return "<p>The same files: each also keeps the limit of each class and group.</p>"
    rows = [
        [name_text(file.name), f"{file.bytes:,}", f"{file.drop:+.4f}", text(str(file.worst_group), 200)]
        for file in report.refused
    ]
    note = "<p>These files keep the limit on average, but not in each class and group. They were not written.</p>"
    return note + rows_table(["File", "Bytes", "Drop", "Worst class or group"], rows)


def _lineage(report: CompressReport) -> str:
    """List the steps to the best file with what each brought, and all trials as a tree."""
    steps = report.lineage()
    rows = [
        [name_text(file.name), f"{file.bytes:,}", f"{file.bytes / before.bytes:.0%}", f"{file.drop:+.4f}"]
        for before, file in zip((steps[0], *steps), steps, strict=False)
    ]
    table = rows_table(["Step", "Bytes", "Of the step before", "Drop"], rows)
    summary = "All trials, each below the one that it started from"
    return f"{table}<details><summary>{summary}</summary>{_tree(report)}</details>"


def _tree(report: CompressReport) -> str:
    """Draw all trials as nested lists, to the depth that a page shows."""
    best = {file.recipe for file in report.lineage()}
    smallest: dict[Recipe | None, MeasuredFile] = {}
    for file in report.tried:
        smallest.setdefault(file.recipe, file)
        smallest[file.recipe] = min(smallest[file.recipe], file, key=lambda each: each.bytes)
    children: dict[Recipe | None, list[Recipe]] = {}
    for recipe in smallest:
        if recipe is not None:
            children.setdefault(recipe.after, []).append(recipe)

    def branch(recipe: Recipe | None) -> str:
        file = smallest[recipe]
        words = f"{text(file.name)}: {file.bytes:,} bytes, drop {file.drop:+.4f}"
        inner = "".join(branch(child) for child in children.get(recipe, []))
        mark = ("<strong>", "</strong>") if recipe in best else ("", "")
        return f"<li>{mark[0]}{words}{mark[1]}{f'<ul>{inner}</ul>' if inner else ''}</li>"

    return f"<ul>{branch(None)}</ul>"


def _number(value: float | None, *, digits: str = ".4g") -> str:
    return "" if value is None else format(value, digits)


def _chart(report: CompressReport, by: str, axis: str) -> str:
    """Draw accuracy against size or time, with the best files in another color."""
    dots = [*(() if by == "latency_ms" else report.tried), *report.front]  # some files have no latency
    low, high = min(getattr(file, by) for file in dots), max(getattr(file, by) for file in dots)
    most = max(*(file.drop for file in report.front), 0.0) + 2 * (report.max_drop or 0.01 * abs(report.baseline))
    tops = (file.drop - (report.standard_error(file) or 0.0) for file in report.front)
    least = min(0.0, *(file.drop for file in dots), *tops) - 0.1 * most
    across = _scale(math.log(low / 1.15), math.log(high * 1.15), LEFT, WIDTH - EDGE)
    up = _scale(most, least, HEIGHT - BOTTOM, EDGE)  # of drops, so that better files are higher for errors, too
    marks = [
        f'<circle cx="{across(math.log(getattr(file, by))):.1f}" cy="{up(min(file.drop, most)):.1f}" r="4" '
        f'style="fill:var(--{"values" if file in report.front else "dense"})"><title>{escape(file.name)}: '
        f"{getattr(file, by):,.6g}, {file.score:.4f}</title></circle>"
        for file in dots
    ]
    marks = [*_errors(report, across, up, by), *marks]
    limit = up(report.max_drop)
    drops = (most, 0.0, least) if up(0.0) - up(least) > LINE_HEIGHT else (most, 0.0)
    levels = [(up(drop), report.baseline - report.sign * drop) for drop in drops]
    lines = [
        f'<line x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{limit:.1f}" y2="{limit:.1f}" '
        f'style="stroke:var(--no);stroke-dasharray:4 4"/>',
        _words(WIDTH - EDGE, limit - 5, f"at most {report.max_drop:.4g} lost", "end"),
        *(_words(across(math.log(tick)), HEIGHT - BOTTOM + 18, _tick(tick), "middle") for tick in _ticks(low, high)),
        *(_words(LEFT - 8, height + 4, _level(value), "end") for height, value in levels),
        _words((LEFT + WIDTH) / 2, HEIGHT - 6, f"{axis}, logarithmic", "middle"),
    ]
    frame = (
        f'<rect x="{LEFT}" y="{EDGE}" width="{WIDTH - EDGE - LEFT}" height="{HEIGHT - BOTTOM - EDGE}" '
        f'style="fill:none;stroke:var(--line)"/>'
    )
    errors = "" if report.standard_error(report.best) is None else ", with a standard error up and down"
    title = f"{text(report.metric).capitalize()} against {axis}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" style="width:100%;max-width:46rem">'
        f"{frame}{''.join(lines)}{''.join(marks)}</svg>"
        f'<p class="soft">{title}. Blue: the best files{errors}. Grey: the others; those that lose more stand on '
        f"the bottom line.</p>"
    )


def _errors(report: CompressReport, across: Scale, up: Scale, by: str) -> Iterator[str]:
    """Draw a standard error up and down from each of the best files."""
    for file in report.front:
        if (error := report.standard_error(file)) is not None:
            x = across(math.log(getattr(file, by)))
            low, high = (min(max(up(drop), EDGE), HEIGHT - BOTTOM) for drop in (file.drop + error, file.drop - error))
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                f'style="stroke:var(--values);stroke-width:2"/>'
            )


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [part * 10.0**power for power in powers for part in TICKS]
    inside = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
    return inside if len(inside) > 1 else [low, high]


def _level(value: float) -> str:
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _words(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:var(--soft);font-size:12px">{words}</text>'
    )


def _codes(files: Sequence[MeasuredFile]) -> Iterator[str]:
    for file in files:
        yield (
            f'<details><summary><span class="name">{text(file.file)}</span>'
            f'<span class="size">{file.bytes:,} bytes</span></summary><pre>{escape(file.code)}</pre></details>'
        )


def _failed(reasons: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(reason, 600)}</li>" for reason in reasons) + "</ul>"

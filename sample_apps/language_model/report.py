"""Write tables and figures from the results on disk."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import matplotlib.pyplot as plt

Result = dict[str, Any]
# Columns of the table: the name, the key in a result, and the format.
COLUMNS = {
    "gemma": {
        "validation": ("choice", None, ",.1f"),
        "Bible": ("perplexity", "bible", ",.1f"),
        "documentation": ("perplexity", "documentation", ",.1f"),
        "Jargon File": ("perplexity", "jargon", ",.1f"),
    },
    "minilm": {
        "validation": ("choice", None, ".3f"),
        "cosine, documentation": ("cosine", "documentation", ".3f"),
        "cosine, Bible": ("cosine", "bible", ".3f"),
        "cosine, Jargon File": ("cosine", "jargon", ".3f"),
        "recall@1": ("recall", None, ".3f"),
    },
}
SETTINGS = ("removed", "score", "update", "calibration")
HEADERS = ("removed", "criterion", "reconstruction", "calibration")  # of these settings
BEST = {"gemma": min, "minilm": max}
DESTROYED = 1000  # perplexity
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
STYLES = {"none": ":", "parallel": "--", "to dense": "-."}
MARKERS = {"both": "s", "documentation": "o"}


def write(model: str, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the table of a model as `.md`, and the figure as `.png`; return both paths."""
    table, figure = folder / f"{model}.md", folder / f"{model}.png"
    table.write_text(text(model, results), encoding="utf-8")
    draw(model, results, figure)
    return [table, figure]


def text(model: str, results: Sequence[Result]) -> str:
    chosen = best(model, results)
    rows = [
        [
            *settings_of(result, form="**{}**" if result in chosen else "{}"),
            *(f"{_value(result, column):{column[2]}}" for column in COLUMNS[model].values()),
            f"{result['parameters']:,}",
            f"{result['bytes'] / 1e6:,.1f}",
            f"{result['seconds']:.0f}",
        ]
        for result in results
    ]
    lines = table([*HEADERS, *COLUMNS[model], "parameters", "MB", "seconds"], rows)
    note = f"MB are for float32 weights. Seconds include all steps up to the smaller model. {machines(results)}."
    return f"{lines}\n\n{textwrap.fill(note, 100)}\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def machines(results: Sequence[Result]) -> str:
    return "Measured on " + ", and on ".join(sorted({result["machine"] for result in results}))


def settings_of(result: Result, *, form: str = "{}") -> list[str]:
    return [removed(result), *(form.format(result[name]) for name in SETTINGS[1:])]


def best(model: str, results: Sequence[Result]) -> list[Result]:
    """Return the row of each size that is best on the text that was kept for choosing."""
    sizes = dict.fromkeys(removed(result) for result in results if result["removed"])
    return [
        BEST[model]((one for one in results if removed(one) == size), key=lambda one: one["choice"]) for size in sizes
    ]


def removed(row: Result) -> str:
    return f"{row['removed']:.0%} of {row['of']}" if row["removed"] else "0%"


def name_of(row: Result) -> str:
    return ", ".join([removed(row), *(row[name] for name in SETTINGS[1:])])


def line(model: str, result: Result) -> str:
    """Return the settings and measures of one row, to print when it comes."""
    measured = ", ".join(f"{name} {_value(result, column):{column[2]}}" for name, column in COLUMNS[model].items())
    return f"{name_of(result)}: {measured} ({result['seconds']:.0f} s)"


def draw(model: str, results: Sequence[Result], path: Path) -> None:
    """Draw a panel for each measure, and in it a curve for each way to cut, over the part that is removed.

    Models that were destroyed are left out: they would take all of the picture's height.
    """
    shown = {name: column for name, column in COLUMNS[model].items() if name != "validation"}
    figure, panels = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 4.5), layout="constrained")
    dense, *others = (one for one in results if one["of"] != "blocks" and one["choice"] < DESTROYED)
    ways = list(dict.fromkeys(_way(result) for result in others))
    scores = list(dict.fromkeys(score for score, _, _ in ways))
    for panel, (name, column) in zip(panels, shown.items(), strict=True):
        for way in ways:
            curve = [dense, *(one for one in others if _way(one) == way)]
            panel.plot(
                [100 * one["removed"] for one in curve],
                [_value(one, column) for one in curve],
                label=", ".join(way),
                color=COLORS[scores.index(way[0]) % len(COLORS)],
                linestyle=STYLES.get(way[1], "-"),
                marker=MARKERS.get(way[2], "x"),
            )
        panel.set(title=name, xlabel="removed, %")
        panel.grid(alpha=0.3)
        if column[0] == "perplexity":
            panel.set(yscale="log", ylabel="perplexity")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter("{x:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _way(result: Result) -> tuple[str, ...]:
    return tuple(result[name] for name in SETTINGS[1:])


def _value(result: Result, column: tuple[str, str | None, str]) -> float:
    measure, part, _ = column
    return result[measure] if part is None else result[measure][part]

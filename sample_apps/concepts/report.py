"""Write the tables and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.clothes import ATTRIBUTES
from sample_apps.concepts.runs import STAGES, Line

TITLES = ("right after the removal", "reconstructed", "fine-tuned")


def text(lines: Sequence[Line]) -> str:
    """Return the tables of the results: the ways side by side, and the attributes before and after."""
    ways = list(dict.fromkeys(line["way"] for line in lines))
    header = ["way", *TITLES, "other classes", "bytes", "FLOPs", "latency, ms"]
    rows = []
    for way in ways:
        own = [line for line in lines if line["way"] == way]
        stages = [[line["stages"][stage] for line in own if "stages" in line] for stage in STAGES[:-1]]
        accuracy = [*stages, *([line["accuracy"][name] for line in own] for name in ("required", "others"))]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("bytes", "flops")]
        latency = f"{np.mean([line['latency_ms'] for line in own]):.3f}"
        rows.append([way, *map(spread, accuracy), *sizes, latency])
    dense, kept = ([line for line in lines if line["way"] == way] for way in ("dense", "concepts"))
    attributes = [
        [name, *(spread([line["accuracy"][name] for line in own]) for own in (dense, kept))] for name in ATTRIBUTES
    ]
    tables = (markdown(header, rows), markdown(["attribute", "dense", "concepts"], attributes), evidence(kept))
    return "\n\n".join(tables) + "\n"


def evidence(lines: Sequence[Line]) -> str:
    """Return what the rules of each concept and layer reach on images that neither mined nor chose them."""
    rows: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        for each in line["evidence"]:
            rows.setdefault((each["concept"], each["layer"]), []).append(each)
    cells = []
    for (concept, layer), own in rows.items():
        fractions = [
            spread([each["counts"]["hits"] / each["counts"][of] for each in own]) for of in ("matched", "positives")
        ]
        units = f"{np.mean([each['units'] for each in own]):.1f}"
        cells.append([concept, layer, units, *fractions, f"{sum(each['is_met'] for each in own)} of {len(own)}"])
    return markdown(["concept", "layer", "units", "precision", "recall", "met"], cells)


def spread(values: Sequence[float]) -> str:
    """Write a mean in percent with its standard deviation."""
    if not values:
        return "-"
    return f"{np.mean(values):.1%}".replace("%", " %") + (
        f" ± {100 * np.std(values, ddof=1):.1f}" if values[1:] else ""
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw the accuracy on required classes, each seed as a dot, right after the removal and after training."""
    ways = [way for way in dict.fromkeys(line["way"] for line in lines) if way != "dense"]
    dense = np.mean([line["accuracy"]["required"] for line in lines if line["way"] == "dense"])
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
    for panel, stage, title in zip(panels, STAGES, TITLES, strict=True):
        for height, way in enumerate(ways):
            values = [100 * line["stages"][stage] for line in lines if line["way"] == way]
            color = "#1f6f8b" if way == "concepts" else "#8a94a0"
            panel.plot(values, [height] * len(values), "o", color=color, alpha=0.7)
        panel.axvline(100 * dense, color="black", linewidth=1, linestyle=":")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("accuracy on footwear, %")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(ways)), ways)
    panels[0].invert_yaxis()
    panels[0].text(100 * dense, len(ways) - 1, "dense ", ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

"""Write the table and the figure from the results on disk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown
from sample_apps.data.lines import Line
from sample_apps.four_ways.runs import AFTER
from sample_apps.four_ways.transformers import MIXED, NAME, TRAINED

FLOAT = "float"
COLORS = {FLOAT: "#8a94a0", AFTER: "#c2703d", "PQAT": "#1f6f8b", "PCQAT": "#5b8c3a"}
COLORS |= {MIXED: "#8e5aa8", TRAINED: "#1f6f8b"}
HEADER = (
    *("network", "way", "accuracy of the file", "of the Keras model", "points above int8 after training"),
    *("packed, bytes", "plain .tflite, bytes"),
)
HEADER_OF_TRANSFORMERS = (
    *("weights", "way", "accuracy of the file", "of the Keras model", "points below float"),
    *("packed, bytes", "plain .tflite, bytes", "ms"),
)


def text(lines: Sequence[Line]) -> str:
    """Return the tables of the results: means over the seeds, with the standard deviations of the accuracies."""
    parts = [of_convolutions([line for line in lines if line["network"] != NAME])]
    parts.append(of_transformers([line for line in lines if line["network"] == NAME]))
    return "\n".join(part for part in parts if part)


def of_convolutions(lines: Sequence[Line]) -> str:
    rows = []
    for network, way in dict.fromkeys((line["network"], line["way"]) for line in lines):
        own, after = (of(lines, network, each) for each in (way, AFTER))
        accuracies = [f"{spread([100 * line[name] for line in own])} %" for name in ("accuracy", "keras")]
        above = [100 * (line["accuracy"] - other["accuracy"]) for line, other in zip(own, after, strict=True)]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("packed", "plain")]
        rows.append([network, way, *accuracies, "-" if way == AFTER else spread(above), *sizes])
    return f"{markdown(HEADER, rows)}\n" if rows else ""


def of_transformers(lines: Sequence[Line]) -> str:
    rows = []
    for weights in dict.fromkeys(line["weights"] for line in lines):
        of_weights = [line for line in lines if line["weights"] == weights]
        in_float = of(of_weights, NAME, FLOAT)
        for way in dict.fromkeys(line["way"] for line in of_weights):
            own = of(of_weights, NAME, way)
            accuracies = [f"{spread([100 * line[name] for line in own])} %" for name in ("accuracy", "keras")]
            below = [100 * (other["accuracy"] - line["accuracy"]) for line, other in zip(own, in_float, strict=True)]
            sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("packed", "plain")]
            fastest = f"{min(line['ms'] for line in own):.3f}"
            rows.append([weights, way, *accuracies, "-" if way == FLOAT else spread(below), *sizes, fastest])
    return f"{markdown(HEADER_OF_TRANSFORMERS, rows)}\n" if rows else ""


def of(lines: Sequence[Line], network: str, way: str) -> list[Line]:
    """Return the lines of one way, seed by seed."""
    own = [line for line in lines if (line["network"], line["way"]) == (network, way)]
    return sorted(own, key=lambda line: line["seed"])


def spread(values: Sequence[float]) -> str:
    """Write a mean with its standard deviation, to a hundredth."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if values[1:] else ""
    return f"{np.mean(values):.2f}{deviation}"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against packed bytes, a panel for each network with its weights, and a dot for each seed."""
    titles = list(dict.fromkeys(map(title, lines)))
    rows = -(-len(titles) // 2)
    figure, panels = pyplot.subplots(rows, 2, figsize=(9, 3.4 * rows), layout="constrained", squeeze=False)
    for panel, name in itertools.zip_longest(panels.flat, titles):
        if name is None:
            panel.remove()
        else:
            draw_panel(panel, name, [line for line in lines if title(line) == name])
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def title(line: Line) -> str:
    return f"{line['network']}, {line['weights']}" if "weights" in line else line["network"]


def draw_panel(panel: Any, name: str, lines: Sequence[Line]) -> None:
    points = {
        way: np.array(
            [[line["packed"] / 1000, 100 * line["accuracy"]] for line in of(lines, lines[0]["network"], way)]
        )
        for way in COLORS
        if any(line["way"] == way for line in lines)
    }
    for seed in range(len(points[AFTER])):
        panel.plot(*np.array([found[seed] for found in points.values()]).T, color="#c8cdd2", linewidth=0.8, zorder=0)
    for way, found in points.items():
        panel.plot(*found.T, "o", color=COLORS[way], alpha=0.75, label=way)
    panel.set_title(name, fontsize=10)
    panel.set_xlabel("packed file, kB")
    panel.set_ylabel("accuracy of the file, %")
    panel.set_xlim(left=0)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)

"""Write the table and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown
from sample_apps.data.lines import Line
from sample_apps.four_ways.runs import AFTER

COLORS = {"float": "#8a94a0", AFTER: "#c2703d", "PQAT": "#1f6f8b", "PCQAT": "#5b8c3a"}
HEADER = (
    *("network", "way", "accuracy of the file", "of the Keras model", "points above int8 after training"),
    *("packed, bytes", "plain .tflite, bytes"),
)


def text(lines: Sequence[Line]) -> str:
    """Return the table of the results: means over the seeds, with the standard deviations of the accuracies."""
    rows = []
    for network, way in dict.fromkeys((line["network"], line["way"]) for line in lines):
        own, after = (of(lines, network, each) for each in (way, AFTER))
        accuracies = [f"{spread([100 * line[name] for line in own])} %" for name in ("accuracy", "keras")]
        above = [100 * (line["accuracy"] - other["accuracy"]) for line, other in zip(own, after, strict=True)]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("packed", "plain")]
        rows.append([network, way, *accuracies, "-" if way == AFTER else spread(above), *sizes])
    return f"{markdown(HEADER, rows)}\n"


def of(lines: Sequence[Line], network: str, way: str) -> list[Line]:
    """Return the lines of one way, seed by seed."""
    own = [line for line in lines if (line["network"], line["way"]) == (network, way)]
    return sorted(own, key=lambda line: line["seed"])


def spread(values: Sequence[float]) -> str:
    """Write a mean with its standard deviation, to a hundredth."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if values[1:] else ""
    return f"{np.mean(values):.2f}{deviation}"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against packed bytes, a panel for each network and a dot for each seed."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure, panels = pyplot.subplots(1, len(networks), figsize=(9, 3.4), layout="constrained", squeeze=False)
    for panel, network in zip(panels[0], networks, strict=True):
        points = {
            way: np.array([[line["packed"] / 1000, 100 * line["accuracy"]] for line in of(lines, network, way)])
            for way in COLORS
        }
        for seed in range(len(points[AFTER])):
            panel.plot(
                *np.array([found[seed] for found in points.values()]).T, color="#c8cdd2", linewidth=0.8, zorder=0
            )
        for (way, color), found in zip(COLORS.items(), points.values(), strict=True):
            panel.plot(*found.T, "o", color=color, alpha=0.75, label=way)
        panel.set_title(network, fontsize=10)
        panel.set_xlabel("packed file, kB")
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy of the file, %")
    panels[0][-1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

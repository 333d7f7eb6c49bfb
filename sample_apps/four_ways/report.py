"""The table and the picture, made of nothing but the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown
from sample_apps.four_ways.runs import Line

COLORS = {"float": "#8a94a0", "int8 after training": "#c2703d", "PQAT": "#1f6f8b", "PCQAT": "#5b8c3a"}
HEADER = ("network", "way", "accuracy of the file", "of the Keras model", "packed, bytes", "plain .tflite, bytes")


def text(lines: Sequence[Line]) -> str:
    """Return the table of the results: means over the seeds, with the standard deviations of the accuracies."""
    rows = []
    for network, way in dict.fromkeys((line["network"], line["way"]) for line in lines):
        own = [line for line in lines if (line["network"], line["way"]) == (network, way)]
        accuracies = [spread([line[name] for line in own]) for name in ("accuracy", "keras")]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("packed", "plain")]
        rows.append([network, way, *accuracies, *sizes])
    return f"{markdown(HEADER, rows)}\n"


def spread(values: Sequence[float]) -> str:
    """Write a mean in percent with its standard deviation, to a hundredth of a point."""
    deviation = f" ± {100 * np.std(values, ddof=1):.2f}" if values[1:] else ""
    return f"{100 * np.mean(values):.2f} %{deviation}"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against packed bytes, a panel for each network and a dot for each seed."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure, panels = pyplot.subplots(1, len(networks), figsize=(9, 3.4), layout="constrained", squeeze=False)
    for panel, network in zip(panels[0], networks, strict=True):
        for way, color in COLORS.items():
            own = [line for line in lines if (line["network"], line["way"]) == (network, way)]
            sizes, accuracies = ([line[name] for line in own] for name in ("packed", "accuracy"))
            panel.plot(np.array(sizes) / 1000, 100 * np.array(accuracies), "o", color=color, alpha=0.75, label=way)
        panel.set_title(network, fontsize=10)
        panel.set_xlabel("packed file, kB")
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy of the file, %")
    panels[0][-1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

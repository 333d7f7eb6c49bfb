"""Write the tables and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown
from sample_apps.data.lines import Line
from sample_apps.four_ways.report import spread
from sample_apps.spoken.listen import HOP
from sample_apps.spoken.log_mel import SECOND
from sample_apps.spoken.recordings import LANGUAGES
from sample_apps.spoken.runs import ALL, DENSE, FLASH, RAM

COLORS = ("#8a94a0", "#4b5560", "#c2703d", "#1f6f8b", "#5b8c3a")
HEADER = ("way", "accuracy of the file", "worst language", "flash", "arena", "multiply-adds", "fits")


def text(lines: Sequence[Line]) -> str:
    """Return the tables of the results, with means and standard deviations over the seeds: files, and the stream."""
    rows = []
    for way in dict.fromkeys(line["way"] for line in lines):
        own = of(lines, way)
        accuracies = [[100 * line["accuracy"] for line in own], [100 * min(line["languages"]) for line in own]]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("flash", "arena", "multiply_adds")]
        fits = all(line["flash"] <= FLASH and line["arena"] <= RAM for line in own)
        rows.append([way, *(f"{spread(values)} %" for values in accuracies), *sizes, "yes" if fits else "no"])
    pauses = spread([100 * line["pauses"] for line in of(lines, DENSE)])
    parts = [markdown(HEADER, rows), _stream(of(lines, ALL)), f"Accuracy on clips made of pauses: {pauses} %."]
    return "\n\n".join(parts) + "\n"


def _stream(lines: Sequence[Line]) -> str:
    rows = [
        [
            count,
            f"{(int(count) - 1) * HOP / SECOND + 1:.2f}",
            f"{spread([100 * line['stream'][count] for line in lines])} %",
            spread([line["delay"][count] for line in lines]),
        ]
        for count in lines[0]["stream"]
    ]
    return markdown(["votes", "seconds heard", "correct answers", "seconds to the first correct answer"], rows)


def of(lines: Sequence[Line], way: str) -> list[Line]:
    return [line for line in lines if line["way"] == way]


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against flash, with a dot for each seed, and the answers of the first seed's file over time."""
    figure, (files, stream) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for way, color in zip(dict.fromkeys(line["way"] for line in lines), COLORS, strict=False):
        points = [(line["flash"] / 1024, 100 * line["accuracy"]) for line in of(lines, way)]
        files.plot(*np.array(points).T, "o", color=color, alpha=0.75, label=way)
    files.set(xlabel="flash, kB", ylabel="accuracy of the file, %", xlim=(0, None))
    files.legend(fontsize=8, frameon=False)
    first = of(lines, ALL)[0]
    seconds = np.arange(len(first["said"])) * HOP / SECOND + 1
    stream.plot(seconds, first["spoken"], color="#c8cdd2", linewidth=6, label="spoken")
    stream.plot(seconds, first["said"], ".", color="#1f6f8b", markersize=3, label="what the file says")
    stream.set(xlabel="seconds of the stream", yticks=range(len(LANGUAGES)), yticklabels=list(LANGUAGES.values()))
    stream.legend(fontsize=8, frameon=False)
    for panel in (files, stream):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

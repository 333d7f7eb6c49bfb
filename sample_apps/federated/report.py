"""The tables and the picture, made of nothing but the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown, spread
from sample_apps.federated.ways import Line

COLORS = {
    "global": "#8a94a0",
    "global, then own epochs": "#56b4e9",
    "personal masks": "#d55e00",
    "local only": "#009e73",
}


def text(lines: Sequence[Line]) -> str:
    """Return the tables: the ways side by side, and each person under each way."""
    ways = [way for way in COLORS if any(line["way"] == way for line in lines)]
    of = {way: [line for line in lines if line["way"] == way] for way in ways}
    dense = np.mean([line["bytes"] for line in of["global"]])
    rows = []
    for way in ways:
        total, rounds = np.mean([line["bytes"] for line in of[way]]), of[way][0]["rounds"]
        means = [mean(line) for line in of[way]]
        worst = [min(line["accuracy"].values()) for line in of[way]]
        rows.append(
            [way, spread(means), spread(worst), f"{total / rounds:,.0f}", f"{total / dense:.1%}".replace("%", " %")]
        )
    header = ["model", "accuracy, mean over people", "worst person", "bytes per round", "of dense FedAvg"]
    people = list(lines[0]["accuracy"])
    persons = [
        [person, *(spread([line["accuracy"][person] for line in of[way]]) for way in ways), change(of, person)]
        for person in people
    ]
    return f"{markdown(header, rows)}\n\n{markdown(['person', *ways, 'masks against global'], persons)}\n"


def mean(line: Line) -> float:
    """Return the mean accuracy over people."""
    return float(np.mean(list(line["accuracy"].values())))


def change(of: dict[str, list[Line]], person: str) -> str:
    """Return how many points the personal masks of a person are better than the global model."""
    masks, whole = (np.mean([line["accuracy"][person] for line in of[way]]) for way in ("personal masks", "global"))
    return f"{100 * (masks - whole):+.1f}"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw the accuracy of each person under each way, and the mean against the bytes sent."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=[1.6, 1])
    people = list(lines[0]["accuracy"])
    for shift, (way, color) in enumerate(COLORS.items()):
        own = [line for line in lines if line["way"] == way]
        height = [100 * np.mean([line["accuracy"][person] for line in own]) for person in people]
        left.plot(np.arange(len(people)) + 0.16 * (shift - 1.5), height, "o", color=color, label=way)
        if "curve" in own[0]:
            sent = np.mean([np.cumsum(line["bytes_by_round"]) for line in own], axis=0) / 1e6
            name = "dense FedAvg" if way != "personal masks" else way
            right.plot(sent, 100 * np.mean([line["curve"] for line in own], axis=0), color=color, label=name)
    left.set_xticks(range(len(people)), people)
    left.set_xlabel("person")
    left.set_ylabel("accuracy, %")
    left.legend(fontsize=8, frameon=False, ncols=2)
    right.set_xscale("log")
    right.set_xlabel("megabytes sent, both directions")
    right.set_ylabel("accuracy of the clients' models, %")
    right.legend(fontsize=8, frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Write the tables as `.md` and the picture as `.png`; return both paths."""
    table, picture = folder / "federated_watch.md", folder / "federated_watch.png"
    table.write_text(text(lines), encoding="utf-8")
    draw(lines, picture)
    return [table, picture]

"""Write the tables and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown, spread
from sample_apps.federated.ways import DEVICES, Line

COLORS = {
    "global": "#8a94a0",
    "global, then own epochs": "#56b4e9",
    "common mask": "#b8860b",
    "personal masks": "#d55e00",
    DEVICES: "#000000",
    "LotteryFL": "#cc79a7",
    "FedMask": "#7b3294",
    "PruneFL": "#0072b2",
    "HeteroFL": "#e6c229",
    "local only": "#009e73",
}
BY_PERSON = ("global", "global, then own epochs", "personal masks", "local only")


def text(lines: Sequence[Line], newcomers: Sequence[Line]) -> str:
    """Return the tables: the ways side by side, each person under some of them, and what a newcomer gets."""
    of = {way: own for way in COLORS if (own := [line for line in lines if line["way"] == way])}
    dense = np.mean([line["bytes"] for line in of["global"]])
    rows = []
    for way, own in of.items():
        total, rounds = np.mean([line["bytes"] for line in own]), own[0]["rounds"]
        returned = spread([line["returned"] for line in own if "returned" in line])
        zeros = f"{np.mean([zeros_of(line) for line in own]):.0%}".replace("%", " %")
        worst = [min(line["accuracy"].values()) for line in own]
        shares = [f"{total / rounds:,.0f}", f"{total / dense:.1%}".replace("%", " %")]
        rows.append([way, spread(list(map(mean, own))), spread(worst), returned, zeros, *shares])
    header = ["way", "own model, mean over people", "worst person", "returned model", "zeros", "bytes per round"]
    shown = [way for way in BY_PERSON if way in of]
    persons = [
        [person, *(spread([line["accuracy"][person] for line in of[way]]) for way in shown), change(of, person)]
        for person in lines[0]["accuracy"]
    ]
    tables = [
        markdown([*header, "of dense FedAvg"], rows),
        markdown(["person", *shown, "masks against global"], persons),
    ]
    if newcomers:
        columns = ["way", "returned model", "at once", "worst person", "after own epochs", "zeros", "people"]
        tables.append(markdown(columns, left_out(newcomers)))
    return "\n\n".join(tables) + "\n"


def left_out(lines: Sequence[Line]) -> list[list[str]]:
    """Return the rows of the table of people who were not there: means and standard deviations over people."""
    rows = []
    for way, returned in dict.fromkeys((line["way"], line["returned"]) for line in lines):
        own = [line for line in lines if (line["way"], line["returned"]) == (way, returned)]
        at_once, later = ([line[key] for line in own] for key in ("at_once", "after_own_epochs"))
        zeros, worst = (f"{value:.0%}".replace("%", " %") for value in (own[0]["zeros"], min(at_once)))
        rows.append([way, returned, spread(at_once), worst, spread(later), zeros, str(len(own))])
    return rows


def zeros_of(line: Line) -> float:
    """Return the fraction of zeros; lines of the first version have it as the sparsity that was asked for."""
    return line.get("zeros", line["sparsity"] if "agreement" in line else 0.0)


def mean(line: Line) -> float:
    """Return the mean accuracy over people."""
    return float(np.mean(list(line["accuracy"].values())))


def change(of: dict[str, list[Line]], person: str) -> str:
    """Return how many points the personal masks of a person are better than the global model."""
    masks, whole = (np.mean([line["accuracy"][person] for line in of[way]]) for way in ("personal masks", "global"))
    return f"{100 * (masks - whole):+.1f}"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw the accuracy of each person under each way, and the mean against the bytes sent."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained", width_ratios=[1.4, 1])
    people = list(lines[0]["accuracy"])
    for way, color in COLORS.items():
        own = [line for line in lines if line["way"] == way]
        if not own:
            continue
        if way in BY_PERSON:
            height = [100 * np.mean([line["accuracy"][person] for line in own]) for person in people]
            shift = 0.16 * (BY_PERSON.index(way) - 1.5)
            left.plot(np.arange(len(people)) + shift, height, "o", color=color, label=way)
        if "curve" in own[0]:
            sent = np.mean([np.cumsum(line["bytes_by_round"]) for line in own], axis=0) / 1e6
            name = "dense FedAvg" if way == "global, then own epochs" else way
            style = ":" if way == DEVICES else "-"  # it lies on that of the clients with Keras
            right.plot(sent, 100 * np.mean([line["curve"] for line in own], axis=0), style, color=color, label=name)
    left.set_xticks(range(len(people)), people)
    left.set_xlabel("person")
    left.set_ylabel("accuracy, %")
    left.legend(fontsize=8, frameon=False, ncols=2)
    right.set_xscale("log")
    right.set_xlabel("megabytes sent, both directions")
    right.set_ylabel("accuracy of the clients' models, %")
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))  # clear of the lines
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(lines: Sequence[Line], newcomers: Sequence[Line], *, folder: Path) -> list[Path]:
    """Write the tables as `.md` and the picture as `.png`; return both paths."""
    table, picture = folder / "federated_watch.md", folder / "federated_watch.png"
    table.write_text(text(lines, newcomers), encoding="utf-8")
    draw(lines, picture)
    return [table, picture]

"""Write the tables and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown, spread
from sample_apps.data.lines import Line
from sample_apps.screening.runs import CHANNELS, CONNECTIONS, CRITERIA, DENSE

COLORS = dict(zip(CRITERIA, ("#1f6f8b", "#5b8c3a", "#c2703d", "#8a94a0"), strict=True))
HEADER = ("removed", "criterion", "parameters", "before training", "trained", "against magnitude, points")


def text(lines: Sequence[Line]) -> str:
    """Return a table for each network and kind: means over the seeds, with standard deviations."""
    parts = []
    for network in dict.fromkeys(line["network"] for line in lines):
        for kind in (CONNECTIONS, CHANNELS):
            rows, seeds = [], len({line["seed"] for line in of(lines, network=network, kind=kind)})
            for sparsity in sorted({line["sparsity"] for line in of(lines, network=network)}):
                whole = of(lines, network=network, kind=DENSE, sparsity=sparsity)
                own = of(lines, network=network, kind=kind, sparsity=sparsity)
                by_magnitude = of(own, criterion="magnitude")
                rows.append(row("-", "dense, trained as long", whole, whole))
                rows += [row(f"{sparsity:.0%}", name, of(own, criterion=name), by_magnitude) for name in CRITERIA]
            parts.append(f"{network}, {kind}, {seeds} seeds:\n\n{markdown(HEADER, rows)}\n")
    return "\n".join(parts)


def row(removed: str, name: str, own: Sequence[Line], others: Sequence[Line]) -> list[str]:
    """Return a row; differences are of two trainings of one seed."""
    cells = [spread([line[stage] for line in own]) for stage in ("removed", "accuracy")]
    gains = [100 * (line["accuracy"] - other["accuracy"]) for line, other in zip(own, others, strict=True)]
    deviation = f" ± {np.std(gains, ddof=1):.1f}" if gains[1:] else ""
    gain = "-" if own == others else f"{np.mean(gains):+z.1f}{deviation}"
    return [removed, name, f"{np.mean([line['parameters'] for line in own]):,.0f}", *cells, gain]


def of(lines: Sequence[Line], **settings: object) -> list[Line]:
    """Return the lines with these settings, seed by seed."""
    own = [line for line in lines if all(line[name] == value for name, value in settings.items())]
    return sorted(own, key=lambda line: line["seed"])


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against the parameters, a panel for each network and kind, a curve for each criterion."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure, panels = pyplot.subplots(len(networks), 2, figsize=(9, 6), layout="constrained", squeeze=False)
    for panels_of, network in zip(panels, networks, strict=True):
        whole = of(lines, network=network, kind=DENSE)
        levels = {line["sparsity"]: [] for line in whole}
        for line in whole:
            levels[line["sparsity"]].append(100 * line["accuracy"])
        for panel, kind in zip(panels_of, (CONNECTIONS, CHANNELS), strict=True):
            dense = [np.mean(values) for values in levels.values()]
            panel.plot([100 * sparsity for sparsity in levels], dense, "--", color="#555555", label="dense")
            for name, color in COLORS.items():
                own = of(lines, network=network, kind=kind, criterion=name)
                sparsities = sorted({line["sparsity"] for line in own})
                values = [100 * np.array([x["accuracy"] for x in of(own, sparsity=s)]) for s in sparsities]
                deviations = [value.std(ddof=1) if value.size > 1 else 0 for value in values]
                removed = [100 * sparsity for sparsity in sparsities]
                panel.errorbar(removed, [v.mean() for v in values], deviations, fmt="o-", color=color, label=name)
            panel.set_title(f"{network}, {kind}", fontsize=10)
            panel.set_xlabel("parameters removed, %")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        panels_of[0].set_ylabel("accuracy, %")
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

"""Write the table and the figure from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import matplotlib.pyplot as plt
import numpy as np

Record = dict[str, Any]
LEARNERS = ("ProtoNet", "MAML")
COLORS = ["#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7"]


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the table as `.md` and the picture as `.png`; return both paths."""
    table, figure = folder / "few_shot.md", folder / "few_shot.png"
    table.write_text(text(records), encoding="utf-8")
    draw(records, figure)
    return [table, figure]


def of(records: Sequence[Record], learner: str) -> dict[str, list[Record]]:
    """Return the records of a learner by method, in the order of their first appearance."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["learner"] == learner:
            found.setdefault(record["method"], []).append(record)
    return found


def text(records: Sequence[Record]) -> str:
    parts = []
    for learner in LEARNERS:
        methods = of(records, learner)
        if methods:
            shots = sorted({int(shot) for rows in methods.values() for row in rows for shot in row["accuracy"]})
            headers = [learner, "seeds", *(f"{shot}-shot" for shot in shots), "parameters"]
            body = [[name, str(len(rows)), *cells(rows, shots)] for name, rows in methods.items()]
            parts += [table(headers, body), after_pruning(methods)]
    return "\n\n".join(part for part in parts if part) + "\n"


def cells(rows: Sequence[Record], shots: Sequence[int]) -> list[str]:
    accuracies = [spread([row["accuracy"][str(shot)] for row in rows]) for shot in shots]
    return [*accuracies, f"{np.mean([row['parameters'] for row in rows]):,.0f}"]


def after_pruning(methods: dict[str, list[Record]]) -> str:
    """Return what each stage did to the accuracy with five shots, of the methods that prune."""
    pruned = {name: rows for name, rows in methods.items() if len(rows[0]["stages"]) > 1}
    if not pruned:
        return ""
    stages = list(next(iter(pruned.values()))[0]["stages"])
    body = [[name, *(spread([row["stages"][s] for row in rows]) for s in stages)] for name, rows in pruned.items()]
    return table(["5-shot, by stage", *stages], body)


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f} %{deviation}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the accuracy with five shots at each stage."""
    methods = {name: rows for name, rows in of(records, "ProtoNet").items() if len(rows[0]["stages"]) > 1}
    dense = of(records, "ProtoNet").get("dense", [])
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for (name, rows), color in zip(methods.items(), COLORS, strict=False):
        stages = list(rows[0]["stages"])
        values = 100 * np.array([[row["stages"][stage] for stage in stages] for row in rows])
        axes.plot(stages, values.mean(axis=0), "o-", color=color, label=name)
        if len(rows) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(stages, low, high, color=color, alpha=0.15, linewidth=0)
    if dense:
        level = 100 * np.mean([row["accuracy"]["5"] for row in dense])
        axes.axhline(level, color="#555555", linestyle="--", label="dense, trained as long")
    axes.set_ylabel("accuracy, 5-way 5-shot, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)

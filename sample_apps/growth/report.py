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
HEADERS = (
    "way",
    "seeds",
    "perplexity",
    "before training",
    "parameters",
    "zeros",
    "compute, TFLOP",
    "MFLOP per token",
)
COLORS = ["#0072b2", "#56b4e9", "#d55e00", "#000000", "#cc79a7", "#009e73"]


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the table as `.md` and the picture as `.png`; return both paths."""
    table, figure = folder / "growth.md", folder / "growth.png"
    table.write_text(text(records), encoding="utf-8")
    draw(records, figure)
    return [table, figure]


def by_way(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by way, in the order of their first appearance."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["way"], []).append(record)
    return found


def text(records: Sequence[Record]) -> str:
    lines = [[way, str(len(rows)), *cells(rows)] for way, rows in by_way(records).items()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (HEADERS, ["---"] * len(HEADERS), *lines))
    return f"{table}\n\n{'; '.join(sorted({record['machine'] for record in records}))}.\n"


def cells(rows: Sequence[Record]) -> list[str]:
    first, zeros = rows[0], rows[0]["zeros"]
    return [
        spread([row["perplexity"] for row in rows]),
        "-" if first["is_new"] else spread([row["curve"][0][1] for row in rows]),
        f"{first['parameters']:,}",
        f"{zeros[0]:.1%}, {zeros[1]:.1%}" if any(zeros) else "-",
        f"{np.mean([row['flops'] for row in rows]) / 1e12:.2f}",
        f"{first['flops_of_a_piece'] / 1e6:.1f}",
    ]


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the perplexity after each part of a training against the compute since the base was trained."""
    (_, base), *ways = by_way(records).items()
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    level = np.mean([row["perplexity"] for row in base])
    axes.axhline(level, color="#555555", linestyle=":", label="base")
    for (way, rows), color in zip(ways, COLORS, strict=False):
        curves = np.array([row["curve"] for row in rows])[:, int(rows[0]["is_new"]) :]  # at first it knows nothing
        since = 0 if rows[0]["is_new"] else base[0]["flops"]
        compute, perplexity = (curves[0, :, 0] - since) / 1e12, curves[:, :, 1]
        style = "--" if way == "base, trained further" else "-"
        axes.plot(compute, perplexity.mean(axis=0), style, marker="o", ms=4, color=color, label=way)
        if len(rows) > 1:
            axes.fill_between(
                compute, perplexity.min(axis=0), perplexity.max(axis=0), color=color, alpha=0.15, linewidth=0
            )
    axes.set(xlabel="compute since the base, TFLOP", ylabel="perplexity, held-out books", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)

"""Write tables and figures from the results on disk and the configuration."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from sample_apps.study import grid, results
from sample_apps.study.summary import Comparison, Group, comparisons, groups

COLORS = [
    "#000000",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
]  # safe for most color-blind readers


def write(study: str, path: Path, *, smoke: bool) -> list[Path]:
    """Write the table beside a file of results as `.md`, and the figure as `.png`; return both paths."""
    config, lines = grid.read_config(study), results.read(path)
    found = groups(study, config, lines, smoke=smoke)
    if not found:
        raise SystemExit(
            f"Expected results of the present configuration in {path}. Received: {len(lines)} of others."
        )
    table, figure = path.with_suffix(".md"), path.with_suffix(".png")
    table.write_text(text(config, found), encoding="utf-8")
    draw(config, found, figure)
    return [table, figure]


def text(config: dict[str, Any], found: Sequence[Group]) -> str:
    """Lay out everything as Markdown."""
    parts = [measurements(config, found)]
    compared = comparisons(config, found)
    if compared:
        parts.append(differences(config, compared))
    machines = sorted(set().union(*(group.machines for group in found)))
    note = f"Bytes are for float32 kernels. `packed` is the whole exported file. {'; '.join(machines)}."
    parts.append(textwrap.fill(note, 100))
    return "\n\n".join(parts) + "\n"


def measurements(config: dict[str, Any], found: Sequence[Group]) -> str:
    columns = {
        "model": lambda group: group.series,
        "size": lambda group: group.size,
        "sparsity": lambda group: f"{group.sparsity:.1%}" if group.sparsity else "-",
        config["metric"]: lambda group: spread(group.mean, group.deviation),
        "seeds": lambda group: str(len(group.qualities)),
        "non-zeros": lambda group: f"{group.nnz:,.0f}",
        **{f"{name}, kB": lambda group, name=name: f"{group.bytes[name] / 1000:,.1f}" for name in found[0].bytes},
        "median, s": lambda group: f"{group.seconds:.0f}",
    }
    if any(group.warned for group in found):
        columns["warned"] = lambda group: f"{group.warned} of {len(group.qualities)}"
    if any(group.lost is not None for group in found):
        columns["words lost"] = lambda group: "-" if group.lost is None else f"{group.lost:.1f} %"
    return markdown([*columns], [[cell(group) for cell in columns.values()] for group in found])


def differences(config: dict[str, Any], compared: Sequence[Comparison]) -> str:
    header = ["pruned", "sparsity", "non-zeros", "against", "its non-zeros", f"gain in {config['metric']}", "verdict"]
    rows = [
        [
            comparison.of.series,
            f"{comparison.of.sparsity:.1%}",
            f"{comparison.of.nnz:,.0f}",
            comparison.against.series + ("" if comparison.against.sparsity else f", {comparison.against.size}"),
            f"{comparison.against.nnz:,.0f}",
            spread(comparison.gain, comparison.deviation, sign="+"),
            comparison.verdict,
        ]
        for comparison in compared
    ]
    return markdown(header, rows)


def spread(mean: float, deviation: float, *, sign: str = "") -> str:
    return f"{mean:{sign}z.2f}" if math.isnan(deviation) else f"{mean:{sign}z.2f} ± {deviation:.2f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(config: dict[str, Any], found: Sequence[Group], path: Path) -> None:
    """Draw quality against non-zeros and against packed bytes, a curve for each series, bars of one deviation."""
    hidden = {run["series"] for run in config["runs"] if run.get("hidden")}
    names = [name for name in dict.fromkeys(group.series for group in found) if name not in hidden]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    axes = {"non-zero kernel entries": lambda group: group.nnz, "bytes, packed": lambda group: group.bytes["packed"]}
    for panel, (title, measure) in zip(panels, axes.items(), strict=True):
        for name, color in zip(names, itertools.cycle(COLORS), strict=False):
            _curve(panel, sorted((group for group in found if group.series == name), key=measure), measure, color)
        panel.set(xscale="log", xlabel=title)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(config["metric"])
    panels[0].set_ylim(bottom=config.get("lowest"), top=config.get("highest"))
    panels[0].legend(loc="lower right" if config["better"] == "higher" else "upper right")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _curve(panel: Any, curve: Sequence[Group], measure: Any, color: str) -> None:
    dense = not curve[-1].sparsity
    panel.errorbar(
        [measure(group) for group in curve],
        [group.mean for group in curve],
        [group.deviation for group in curve],  # nan, of one seed, draws no bar
        label=curve[0].series,
        color=color,
        marker="s" if dense else "o",
        linestyle="--" if dense else "-",
        capsize=3,
    )

"""Write the tables and the picture from the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, and no display needed
import numpy as np
from matplotlib import pyplot

from sample_apps.concepts.report import markdown
from sample_apps.data.lines import Line
from sample_apps.sparse_twins.runs import DENSE, INT8

NAMES = {"resnet": "ResNet", "unet": "U-Net"}
RUNTIMES = {"WebAssembly": "WebAssembly", "cortex-a72": "A72", "cortex-a76": "A76", "x86_64": "x86-64"}
MEASURES = {"resnet": "accuracy", "unet": "mean IoU"}
SPEEDS = (2.0, 2.5, 3.0)  # times faster than dense, at which zeros and channels are compared
COLORS = {"zeros": "#1f6f8b", "FLOPs": "#c2703d", DENSE: "#30363c"}


def text(lines: Sequence[Line], times: Sequence[Line] = ()) -> str:
    """Return a table for each network, and one of zeros against channels at the same speed if times are known."""
    names = list(dict.fromkeys(line["network"] for line in lines))
    tables = [files(lines, times, name) for name in names]
    if times and "resnet" in names:
        tables.append(at_one_speed(lines, times))
    return "\n\n".join(tables) + "\n"


def files(lines: Sequence[Line], times: Sequence[Line], network: str) -> str:
    """Return the files of a network: means over the seeds, with the standard deviations of the measure."""
    measured = [where for where in RUNTIMES if any(line["where"] == where for line in times)]
    header = [NAMES[network], MEASURES[network], "points lost", "bytes", "packed"]
    header += ["ms, WebAssembly"] * bool(measured) + [f"times faster, {RUNTIMES[where]}" for where in measured]
    rows = []
    ways = dict.fromkeys((line["way"], line["form"]) for line in lines if line["network"] == network)
    for way, form in sorted(ways, key=lambda found: (found[0] != DENSE, found[1] != "float32" and found[0] == DENSE)):
        own, dense = of(lines, network, way, form), of(lines, network, DENSE, "float32")
        lost = [100 * (line["score"] - other["score"]) for line, other in zip(dense, own, strict=True)]
        is_dense = (way, form) == (DENSE, "float32")
        rows.append(
            [
                way if form == "float32" else f"{way}, {form}",
                f"{spread([100 * line['score'] for line in own])} %",
                "-" if is_dense else spread(lost),
                *(f"{np.mean([line[name] for line in own]):,.0f}" for name in ("bytes", "packed")),
            ]
        )
        if measured:
            faster = [spread(ratios(times, network, way, form, where)) for where in measured]
            rows[-1] += [
                f"{milliseconds(times, network, way, form):.2f}",
                *(["1"] * len(faster) if is_dense else faster),
            ]
    return markdown(header, rows)


def of(lines: Sequence[Line], network: str, way: str, form: str) -> list[Line]:
    """Return the lines of one way and form, seed by seed."""
    own = [line for line in lines if (line["network"], line["way"], line["form"]) == (network, way, form)]
    return sorted(own, key=lambda line: line["seed"])


def ratios(times: Sequence[Line], network: str, way: str, form: str, where: str) -> list[float]:
    return [line["ratio"] for line in of(times, network, way, form) if line["where"] == where]


def milliseconds(times: Sequence[Line], network: str, way: str, form: str) -> float:
    """Return the mean time in WebAssembly; that of the dense file is the mean of all its pairs."""
    chosen = [line for line in times if line["where"] == "WebAssembly" and line["network"] == network]
    dense = float(np.mean([line["milliseconds"][0] for line in chosen]))
    return (
        dense
        if (way, form) == (DENSE, "float32")
        else dense / float(np.mean(ratios(times, network, way, form, "WebAssembly")))
    )


def spread(values: Sequence[float]) -> str:
    """Write a mean with its standard deviation, to a hundredth."""
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.2f}" if values[1:] else ""
    return f"{np.mean(values):.2f}{deviation}"


def at_one_speed(lines: Sequence[Line], times: Sequence[Line]) -> str:
    """Return the points that zeros and fewer channels cost the ResNet at the same speed, in float32.

    Between two files, the points are read from a straight line over the logarithm of the speed.
    """
    rows = []
    for where in ("WebAssembly", "cortex-a72", "cortex-a76"):
        if any(line["where"] == where for line in times):
            for speed in SPEEDS:
                zeros, channels = (lost_at(lines, times, where, speed, kind) for kind in ("zeros", "FLOPs"))
                more = [zero - fewer for fewer, zero in zip(channels, zeros, strict=True)]
                is_known = not np.isnan(more).any()
                cells = [spread(values) if is_known else "-" for values in (zeros, channels, more)]
                rows.append([RUNTIMES[where], f"{speed:g}", *cells])
    header = ("where", "times faster", "points lost, zeros", "points lost, fewer channels", "zeros lose more by")
    return markdown(header, rows)


def lost_at(lines: Sequence[Line], times: Sequence[Line], where: str, speed: float, kind: str) -> list[float]:
    """Return for each seed the points lost at a speed; NaN where no file is as fast."""
    ways = [way for way in dict.fromkeys(line["way"] for line in lines if line["network"] == "resnet") if kind in way]
    dense = of(lines, "resnet", DENSE, "float32")
    points = [(np.zeros(len(dense)), np.zeros(len(dense)))]
    for way in ways:
        own, found = of(lines, "resnet", way, "float32"), ratios(times, "resnet", way, "float32", where)
        lost = [100 * (line["score"] - other["score"]) for line, other in zip(dense, own, strict=True)]
        points.append((np.log(np.broadcast_to(found, len(dense))), np.array(lost)))
    by_seed = []
    for seed in range(len(dense)):
        known = sorted((float(times_[seed]), float(lost[seed])) for times_, lost in points)
        by_seed.append(float(np.interp(np.log(speed), *zip(*known, strict=True), right=np.nan)))
    return by_seed


def draw(lines: Sequence[Line], times: Sequence[Line], path: Path) -> None:
    """Draw the measure of each network against the milliseconds in WebAssembly, a dot for each seed."""
    names = list(dict.fromkeys(line["network"] for line in lines))
    figure, panels = pyplot.subplots(1, len(names), figsize=(9, 3.6), layout="constrained", squeeze=False)
    for panel, network in zip(panels[0], names, strict=True):
        for (way, form), values in points_of(lines, times, network).items():
            color = next(color for kind, color in COLORS.items() if kind in way)
            filled = {"markerfacecolor": color if form == "float32" else "white", "markeredgecolor": color}
            panel.plot(*values.T, "o" if form != INT8 else "s", alpha=0.8, **filled)
            is_float, middle, heights = form == "float32", values[:, 0].mean(), values[:, 1]
            label, point = (way.replace(" of the", ""), heights.min()) if is_float else (form, heights.max())
            style = {"ha": "center", "va": "top" if is_float else "bottom", "fontsize": 7, "color": color}
            panel.annotate(label, (middle, point), (0, -7 if is_float else 6), textcoords="offset points", **style)
        panel.set_title(NAMES[network], fontsize=10)
        panel.set_xlabel("milliseconds in WebAssembly, one thread")
        panel.set_ylabel(f"{MEASURES[network]} of the file, %")
        panel.set_xlim(0, 1.25 * panel.get_xlim()[1])
        panel.margins(y=0.15)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def points_of(lines: Sequence[Line], times: Sequence[Line], network: str) -> dict[tuple[str, str], np.ndarray]:
    """Return milliseconds and percent for each way and form, a row for each seed; 8-bit weights are left out."""
    dense = milliseconds(times, network, DENSE, "float32")
    found = {}
    for way, form in dict.fromkeys((line["way"], line["form"]) for line in lines if line["network"] == network):
        if form in ("float32", INT8):
            own = of(lines, network, way, form)
            faster = ratios(times, network, way, form, "WebAssembly") or [1.0] * len(own)
            pairs = zip(faster, own, strict=True)
            found[way, form] = np.array([[dense / ratio, 100 * line["score"]] for ratio, line in pairs])
    return found

"""The best files of a search, written beside a report and a page about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfprune.export.compressing.compress_page import compress_page
from tfprune.export.compressing.compress_report import CompressReport
from tfprune.export.compressing.measured_file import MeasuredFile
from tfprune.export.compressing.pareto_front import front
from tfprune.export.compressing.search import Search
from tfprune.export.device.processes.device import Device
from tfprune.export.device.running.benchmark import benchmark
from tfprune.export.file.files.destination import write_atomically

RUNS = 50  # of a file that is timed


def write_front(
    search: Search,
    folder: Path,
    *,
    timed: Callable[[bytes], float] | None,
    test_data: tuple[Any, Any] | None,
) -> CompressReport:
    """Write the best files of a search, and what was found out, in place of what an earlier call wrote.

    Args:
        search: A search that has ended.
        folder: Where the files, `report.json` and `report.html` go.
        timed: Gives the milliseconds that a file takes; None times nothing.
        test_data: Samples and labels that nothing depends on.

    Raises:
        ValueError: If no file keeps to the limits.
    """
    stale = _files(folder / "report.json")
    tried = [one for trial in search.done for one in trial.tried]
    best = front(tried, limits=search.limits, by=search.by)
    if not best:
        raise ValueError(_refusal(tried, search))
    written = tuple(
        _write(search, one, folder / f"{number:02}_{one.name}.tflite", timed, test_data)
        for number, one in enumerate(best, 1)
    )
    for name in stale - {one.file for one in written}:
        (folder / name).unlink(missing_ok=True)
    report = CompressReport(
        folder=str(folder),
        metric=search.runner.evaluator.metric,
        max_drop=search.limits.max_drop,
        target=search.runner.evaluator.target,
        dense=search.done[0].tried[0],
        front=written,
        trials=len(search.done) - 1,
        failed=tuple(f"{trial.name}: {trial.reason}" for trial in search.done if trial.reason),
        tried=tuple(tried),
        seconds=search.done[-1].ended,
    )
    write_atomically(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    write_atomically(folder / "report.html", compress_page(report).encode())
    return report


def _write(
    search: Search,
    one: MeasuredFile,
    path: Path,
    timed: Callable[[bytes], float] | None,
    test_data: tuple[Any, Any] | None,
) -> MeasuredFile:
    content = next(search.content(trial, one) for trial in search.done if one in trial.tried)
    write_atomically(path, content)
    return replace(
        one,
        file=path.name,
        latency_ms=timed(content) if timed and one.latency_ms is None else one.latency_ms,
        test_score=None if test_data is None else search.runner.evaluator.score(content, test_data),
    )


def _refusal(tried: Sequence[MeasuredFile], search: Search) -> str:
    nearest, limits, metric = min(tried, key=search.limits.excess), search.limits, search.runner.evaluator.metric
    budgets = [f"{name}={size:,}" for name, size in vars(limits.budgets).items() if size]
    taken = "" if nearest.arena_bytes is None else f", with {nearest.arena_bytes:,} bytes of arena"
    return (
        f"Expected a file for {', '.join([f'max_drop={limits.max_drop:g}', *budgets])}. Received: {len(tried)} "
        f"files, none of which fits. The nearest, {nearest.name}, loses {nearest.drop:.4f} of {metric!r} and has "
        f"{nearest.bytes:,} bytes{taken}. All trials are kept: search longer, or allow more in another folder."
    )


def _files(report: Path) -> set[str]:
    """Return the files of an earlier report."""
    if not report.exists():
        return set()
    return {Path(one["file"]).name for one in json.loads(report.read_text(encoding="utf-8"))["front"]}


def milliseconds(content: bytes, *, on: Device | None) -> float:
    """Return how long a file takes on a device; None is this machine."""
    return benchmark(content, runs=RUNS, on=on).median_ms
